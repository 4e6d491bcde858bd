/** Runs code in an application that has this package and only some others installed. */
import { execFile, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { type CommandOptions, cleanEnvironment, type Ran } from './command.js'
import { root } from './root.js'

type Package = string | { readonly name: string; readonly files: Readonly<Record<string, string>> }

/**
 * @param packages what is installed: packages of this project by name, or made of files that are given
 * @returns what the code prints
 */
export async function runInApplication(
  folder: string,
  packages: readonly Package[],
  code: string,
): Promise<string> {
  install(folder, packages)
  writeFileSync(join(folder, 'main.mjs'), code)
  const { stdout } = await promisify(execFile)(process.execPath, [...FLAGS, 'main.mjs'], { cwd: folder })
  return stdout
}

/** Installs the package and what its command needs, and others. @returns runs the command there, without a shell's variables of it */
export function commandInApplication(
  folder: string,
  packages: readonly Package[],
): (args: readonly string[], options?: CommandOptions) => Omit<Ran, 'bytes'> {
  install(folder, [...OF_THE_COMMAND, ...packages])
  const main = join('node_modules', 'drizzle-keystore', 'dist', 'cli', 'main.js')
  return (args, { input = '', env } = {}) => {
    const options = { cwd: folder, env: cleanEnvironment(env), input }
    const { status, stdout, stderr } = spawnSync(process.execPath, [...FLAGS, main, ...args], options)
    return { status, stdout: String(stdout), stderr: String(stderr) }
  }
}

/** @libsql/client and what it needs. */
export const LIBSQL = ['@libsql', 'libsql', 'js-base64', 'promise-limit', 'ws', '@neon-rs', 'detect-libc']

/** commander, cli-progress, cli-table3, and what they need. */
const OF_THE_COMMAND = [
  'commander',
  'cli-progress',
  'cli-table3',
  '@colors',
  ...['string-width', 'strip-ansi', 'ansi-regex', 'emoji-regex', 'is-fullwidth-code-point'],
]

// A linked package looks for others where the link is.
const FLAGS = ['--preserve-symlinks', '--preserve-symlinks-main']

function install(folder: string, packages: readonly Package[]): void {
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
}
