/** Command lines as text: how this process was called, and what is printed for the reader to type next. */
import { basename, dirname, relative, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'
import { isKeyLike } from '../master-keys/local.js'

/** The names of this command. The second is that of the package, for `npx` outside of a project. */
const NAMES = ['keystore', 'drizzle-keystore']

/**
 * How the command is called where a text says `npx keystore`: in Bun and Deno npx would run it in Node.js, if that is there.
 *
 * @returns null in Node.js
 */
export function runtimeCommand(versions: object = process.versions): string | null {
  if ('bun' in versions) return 'bunx --bun keystore'
  return 'deno' in versions ? 'deno run -A npm:drizzle-keystore/keystore' : null
}

/** A text of the library or of ours, with the command as this runtime calls it. */
export function inThisRuntime(text: string, versions?: object): string {
  const command = runtimeCommand(versions)
  return command === null ? text : text.replaceAll('npx keystore', command)
}

/** How this command is called in the folder that the process runs in: as its runtime does, `npx keystore`, `keystore`, or `node` and the script's path. */
export function ownCommand(): string {
  const ofRuntime = runtimeCommand()
  if (ofRuntime !== null) return ofRuntime
  const [, script = ''] = process.argv
  const folder = relative(process.cwd(), dirname(script)).split(sep)
  const isDependency = folder.slice(-2).join('/') === 'node_modules/.bin'
  const name = basename(script)
  if (NAMES.includes(name)) {
    // npx looks into this folder and those above it; elsewhere it would ask the registry for another package of that name.
    if (isDependency && folder.slice(0, -2).every((part) => part === '..')) return `npx ${name}`
    // The link that a global installation puts on the PATH.
    if (!isDependency) return name
  }
  return `node ${shellWord(shortPath(script))}`
}

/** Options as they were given on the command line, ready to be appended to another one, without passwords. */
export function repeatedOptions(command: Command, names: readonly string[]): string {
  const words = command.options.flatMap((option) => {
    const name = option.attributeName()
    if (!names.includes(name) || command.getOptionValueSource(name) !== 'cli') return []
    const values: unknown[] = [command.getOptionValue(name)].flat()
    const flag = option.long ?? ''
    return values.flatMap((value) =>
      value === true ? [flag] : [flag, shellWord(withoutPasswords(String(value)))],
    )
  })
  return words.map((word) => ` ${word}`).join('')
}

/** The path of a file of this package, such as `README.md`. */
export function packageFile(name: string): string {
  return shortPath(fileURLToPath(new URL(`../../${name}`, import.meta.url)))
}

/** One word of a POSIX shell's command line. */
export function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`
}

export function withoutPasswords(text: string): string {
  return text.replace(/:\/\/\S*@/g, '://…@')
}

/**
 * An error of commander, which quotes what it cannot use: one master key of 64 begins with `-`, and is an unknown option then. What stands after
 * `=` of an unknown option may be a secret of any form.
 */
export function withoutKeys(text: string): string {
  return text
    .replace(/(unknown option '[^=]*?)=[\s\S]*'/, "$1=…'")
    .replace(/[\w+/=-]{24,}/g, (word) => (isKeyLike(word) || isKeyLike(word.replace(/^-+/, '')) ? '…' : word))
}

function shortPath(path: string): string {
  const fromHere = relative(process.cwd(), path)
  return fromHere.length < path.length ? fromHere : path
}
