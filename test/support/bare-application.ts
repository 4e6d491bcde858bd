/** Runs code in an application that has this package and only some others installed. */
import { execFile } from 'node:child_process'
import { cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { root } from './root.js'

/**
 * @param packages what is installed: packages of this project by name, or made of files that are given
 * @returns what the code prints
 */
export async function runInApplication(
  folder: string,
  packages: readonly (string | { readonly name: string; readonly files: Readonly<Record<string, string>> })[],
  code: string,
): Promise<string> {
  for (const each of ['drizzle-orm', 'lru-cache', ...packages]) {
    const to = join(folder, 'node_modules', typeof each === 'string' ? each : each.name)
    mkdirSync(dirname(to), { recursive: true })
    if (typeof each === 'string') symlinkSync(join(root, 'node_modules', each), to)
    else {
      mkdirSync(to)
      for (const [name, text] of Object.entries(each.files)) writeFileSync(join(to, name), text)
    }
  }
  const own = join(folder, 'node_modules', 'drizzle-keystore')
  mkdirSync(own)
  for (const part of ['package.json', 'dist']) cpSync(join(root, part), join(own, part), { recursive: true })
  writeFileSync(join(folder, 'main.mjs'), code)
  // A linked package looks for others where the link is.
  const flags = ['--preserve-symlinks', '--preserve-symlinks-main']
  const { stdout } = await promisify(execFile)(process.execPath, [...flags, 'main.mjs'], { cwd: folder })
  return stdout
}
