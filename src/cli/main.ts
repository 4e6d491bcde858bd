#!/usr/bin/env node
/** The command `keystore`. Only src/cli puts stores, master keys and the crypto service together. */
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { invalidArgument, KeystoreError } from '../errors.js'
import { inThisRuntime, withoutKeys, withoutPasswords } from './command-line.js'
import { COMMANDS, type CommandEntry } from './commands.js'
import { printableLines, printableSentence } from './printable.js'
import { sayError } from './say.js'

/** 0: done · 1: failed · 2: the command line was wrong. */
const FAILED = 1
const WRONG_USAGE = 2

/** What a shell asks for completions with. It passes empty words too. */
const COMPLETE = 'complete'

/** What the second command of a new user is, whatever the first was. */
const BEGIN = `
Begin with:
  npx keystore init         a master key and an empty store
  npx keystore quickstart   or see it work, with 20 secrets

npx keystore help COMMAND explains one, with examples.`

const EXIT_CODES = '\nExit code: 0 done, 1 failed or something is wrong,\n2 the command line was wrong.'

run(process.argv).then((code) => {
  process.exitCode = code
})

async function run(argv: readonly string[]): Promise<number> {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))
  const program = new Command(inThisRuntime('npx keystore'))
    .description('Keys for per-user envelope encryption, in SQLite or Postgres.')
    .version(version)
    .showHelpAfterError('(npx keystore COMMAND --help explains it)')
    .addHelpText('after', BEGIN)
    // Else descriptions beside long options would be broken inside words where a terminal is narrow.
    .configureHelp({ minWidthToWrap: 12 })
    // Commander quotes an argument that it does not know, and that may be a URL or a key.
    .configureOutput({
      writeOut: (text) => process.stdout.write(inThisRuntime(text)),
      writeErr: (text) => process.stderr.write(inThisRuntime(text)),
      outputError: (text, write) => write(printableLines(withoutKeys(withoutPasswords(text)))),
    })
    .exitOverride()
  const [, , name = '', topic = ''] = argv
  if (name === COMPLETE) await (await import('./completion.js')).addCompletions(program, COMMANDS.values())
  else {
    program.hook('preAction', (_, command) => refuseEmpty(command))
    // Of all others their names are enough, for the overview and for an error about an unknown command.
    const requested = name === 'help' ? topic : name
    for (const command of COMMANDS.keys())
      program.addCommand(await commandOf(command, command === requested, program))
  }
  try {
    await program.parseAsync(argv)
    return process.exitCode === undefined ? 0 : Number(process.exitCode)
  } catch (error) {
    return await reportError(error, name)
  }
}

async function commandOf(name: string, isRequested: boolean, program: Command): Promise<Command> {
  const { group, summary, load } = COMMANDS.get(name) as CommandEntry
  const command = isRequested ? (await load()).addHelpText('after', EXIT_CODES) : new Command(name)
  return command.summary(summary).helpGroup(`${group}:`).copyInheritedSettings(program)
}

/** @returns the exit code */
async function reportError(error: unknown, command: string): Promise<number> {
  // Commander has printed the help or its own error already.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : WRONG_USAGE
  if (error instanceof KeystoreError) {
    const [{ adviceFor }, { withoutLibraryAdvice }] = await Promise.all([
      import('./advice.js'),
      import('./existing-store.js'),
    ])
    const said = printableSentence(withoutLibraryAdvice(error.message))
    sayError(`keystore: ${said} [${error.code}]`)
    const advice = adviceFor(error, command)
    if (advice !== null) sayError(inThisRuntime(advice))
    return error.code === 'ERR_INVALID_ARGUMENT' ? WRONG_USAGE : FAILED
  }
  const text = error instanceof Error ? error.message : String(error)
  sayError(`keystore: ${printableLines(text)}`)
  return FAILED
}

/**
 * Refuses an option or an argument that is empty, as `--store "$UNSET"` is: it names no store, no file and no user.
 *
 * @throws ERR_INVALID_ARGUMENT
 */
function refuseEmpty(command: Command): void {
  for (const option of command.options) {
    const name = option.attributeName()
    const values: unknown[] = [command.getOptionValue(name)].flat()
    if (!values.includes('')) continue
    const source = command.getOptionValueSource(name)
    // What withKeyLog says of an empty variable.
    if (source === 'env' && name === 'keyLog') continue
    const isVariable = source === 'env' && option.envVar !== undefined
    const what = isVariable ? option.envVar : option.long
    throw invalidArgument(`${what} is empty: give it a value, or ${isVariable ? 'unset it' : 'leave it out'}`)
  }
  const empty = command.args.indexOf('')
  const argument = command.registeredArguments[empty]
  if (argument !== undefined)
    throw invalidArgument(`The argument ${argument.name()} is empty: give it a value`)
}
