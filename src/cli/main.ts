#!/usr/bin/env node
/** The command `keystore`. Only src/cli puts stores, master keys and the crypto service together. */
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { invalidArgument, KeystoreError } from '../errors.js'
import { inThisRuntime, withoutPasswords } from './command-line.js'
import { printableLines, printableSentence } from './printable.js'

/** 0: done · 1: failed · 2: the command line was wrong. */
const FAILED = 1
const WRONG_USAGE = 2

/** The commands, in the order of the help. Only the requested one is loaded, because loading takes most of a short command's time. */
const COMMANDS: ReadonlyMap<string, () => Promise<Command>> = new Map([
  ['init', async () => (await import('./init.js')).initCommand()],
  ['quickstart', async () => (await import('./quickstart.js')).quickstartCommand()],
  ['migrate', async () => (await import('./migrate.js')).migrateCommand()],
  ['encrypt', async () => (await import('./crypt.js')).encryptCommand()],
  ['decrypt', async () => (await import('./crypt.js')).decryptCommand()],
  ['status', async () => (await import('./status.js')).statusCommand()],
  ['doctor', async () => (await import('./doctor.js')).doctorCommand()],
  ['new-master-key', async () => (await import('./new-master-key.js')).newMasterKeyCommand()],
  ['rewrap', async () => (await import('./rewrap.js')).rewrapCommand()],
  ['reencrypt', async () => (await import('./reencrypt.js')).reencryptCommand()],
  ['rotate-user', async () => (await import('./rotate.js')).rotateUserCommand()],
  ['prune', async () => (await import('./prune.js')).pruneCommand()],
  ['shred-user', async () => (await import('./shred.js')).shredUserCommand()],
  ['tenants', async () => (await import('./tenants.js')).tenantsCommand()],
  ['rotate-tenant', async () => (await import('./tenant-keys.js')).rotateTenantCommand()],
  ['prune-tenant', async () => (await import('./tenant-keys.js')).pruneTenantCommand()],
  ['move-tenant', async () => (await import('./tenant-keys.js')).moveTenantCommand()],
  ['evict-tenant', async () => (await import('./tenant-keys.js')).evictTenantCommand()],
  ['shred-tenant', async () => (await import('./shred.js')).shredTenantCommand()],
  ['copy', async () => (await import('./copy.js')).copyCommand()],
  ['backup', async () => (await import('./copy.js')).backupCommand()],
  ['restore', async () => (await import('./copy.js')).restoreCommand()],
])

run(process.argv).then((code) => {
  process.exitCode = code
})

async function run(argv: readonly string[]): Promise<number> {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))
  const program = new Command(inThisRuntime('npx keystore'))
    .description('Keys for per-user envelope encryption, in SQLite or Postgres.')
    .version(version)
    .showHelpAfterError('(npx keystore COMMAND --help explains it)')
    .addHelpText('after', '\nBegin with: npx keystore quickstart')
    // Commander quotes an argument that it does not know, and that may be a URL.
    .configureOutput({
      writeOut: (text) => process.stdout.write(inThisRuntime(text)),
      writeErr: (text) => process.stderr.write(inThisRuntime(text)),
      outputError: (text, write) => write(printableLines(withoutPasswords(text))),
    })
    .exitOverride()
    .hook('preAction', (_, command) => refuseEmpty(command))
  const [, , name = ''] = argv
  const requested = COMMANDS.get(name)
  // The help and the error about an unknown command need all of them.
  for (const load of requested === undefined ? COMMANDS.values() : [requested])
    program.addCommand((await load()).copyInheritedSettings(program))
  try {
    await program.parseAsync(argv)
    return process.exitCode === undefined ? 0 : Number(process.exitCode)
  } catch (error) {
    return await reportError(error, name)
  }
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
    process.stderr.write(`keystore: ${said} [${error.code}]\n`)
    const advice = adviceFor(error, command)
    if (advice !== null) process.stderr.write(`${inThisRuntime(advice)}\n`)
    return error.code === 'ERR_INVALID_ARGUMENT' ? WRONG_USAGE : FAILED
  }
  const text = error instanceof Error ? error.message : String(error)
  process.stderr.write(`keystore: ${printableLines(text)}\n`)
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
