/** An application that has drizzle-keystore, and `@drizzle-keystore/native` as a test wants it, in a process of its own. */
import { cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { temporaryFolder } from './databases.js'
import { runNode } from './node-script.js'

/** The files of the package, by name; `built`: what is in native/; null: it is not installed. */
export type NativePackage = Readonly<Record<string, string | Uint8Array>> | 'built' | null

/** Runs a script of the application, an ES module. @returns what it printed, which must be JSON. @throws its output, if it fails */
export async function runInApp(native: NativePackage, script: string) {
  const folder = temporaryFolder()
  try {
    const modules = join(folder.path, 'node_modules')
    const pkg = join(modules, 'drizzle-keystore')
    // A copy: a link would lead back to our own node_modules, where the addon may be.
    cpSync(resolve('dist'), join(pkg, 'dist'), { recursive: true })
    cpSync(resolve('package.json'), join(pkg, 'package.json'))
    symlinkSync(resolve('node_modules/lru-cache'), join(modules, 'lru-cache'))
    if (native !== null) mkdirSync(join(modules, '@drizzle-keystore'))
    const addon = join(modules, '@drizzle-keystore', 'native')
    if (native === 'built') symlinkSync(resolve('native'), addon, 'junction')
    else
      for (const [name, content] of Object.entries(native ?? {})) {
        mkdirSync(dirname(join(addon, name)), { recursive: true })
        writeFileSync(join(addon, name), content)
      }
    writeFileSync(join(folder.path, 'script.mjs'), script)
    const { status, output } = await runNode(folder.path, 'script.mjs')
    if (status !== 0) throw new Error(`The script ended with ${status}: ${output}`)
    return JSON.parse(output)
  } finally {
    folder.remove()
  }
}
