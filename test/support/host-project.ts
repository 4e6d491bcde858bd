/** An application as a user of the package has it: TypeScript files beside its own node_modules, checked and compiled. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { temporaryFolder } from './databases.js'

export interface HostProject {
  /** Its folder, in which each file has its .js beside it. */
  readonly path: string
  remove(): void
}

export interface HostOptions {
  /** The packages that it has beside Drizzle: of databases, unless named. */
  readonly drivers?: readonly string[]
  /** What its imports are compiled for: the option of the compiler. */
  readonly module?: string
}

/**
 * Makes a project of these files, and compiles them against the published types.
 *
 * @param files their texts, by path
 * @throws with the compiler's complaints
 */
export function hostProject(
  files: Readonly<Record<string, string>>,
  { drivers = ['better-sqlite3', 'pg'], module = 'nodenext' }: HostOptions = {},
): HostProject {
  const folder = temporaryFolder()
  try {
    linkPackages(folder.path, 'drizzle-orm', 'redis', '@types', ...drivers)
    writeFileSync(join(folder.path, 'package.json'), '{ "type": "module" }')
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(join(folder.path, path)), { recursive: true })
      writeFileSync(join(folder.path, path), text)
    }
    compile(folder.path, Object.keys(files), module)
    return folder
  } catch (error) {
    folder.remove()
    throw error
  }
}

/** Gives a folder a node_modules with this package, compiled, and some of those that this project has installed. */
export function linkPackages(folder: string, ...names: readonly string[]): void {
  const modules = join(folder, 'node_modules')
  mkdirSync(modules)
  symlinkSync(resolve('.'), join(modules, 'drizzle-keystore'))
  for (const name of names) linkPackage(folder, name)
}

/** Gives the node_modules of a folder one more package. */
export function linkPackage(folder: string, name: string): void {
  const link = join(folder, 'node_modules', name)
  mkdirSync(dirname(link), { recursive: true })
  symlinkSync(resolve('node_modules', name), link)
}

function compile(folder: string, files: readonly string[], module: string): void {
  const tsc = resolve('node_modules/typescript/bin/tsc')
  const options = [
    '--module',
    module,
    '--target',
    'es2023',
    '--lib',
    'es2023,esnext.disposable',
    '--types',
    'node',
    '--strict',
    '--noUncheckedIndexedAccess',
    '--skipLibCheck',
  ]
  try {
    execFileSync(process.execPath, [tsc, ...options, ...files], {
      cwd: folder,
      stdio: 'pipe',
      encoding: 'utf8',
    })
  } catch (error) {
    throw new Error(`the types are wrong:\n${(error as { stdout?: string }).stdout}`)
  }
}
