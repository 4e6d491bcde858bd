#!/usr/bin/env node
/** The command `keystore`: the only place that puts stores, master keys and the service together. */
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { KeystoreError } from '../errors.js'
import { withoutPasswords } from './command-line.js'

/** 0: done · 1: failed · 2: the command line was wrong. */
const FAILED = 1
const WRONG_USAGE = 2

/** Each in the order of the help. Only the one that is asked for is loaded: most of a short command's time is loading. */
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
  ['prune', async () => (await import('./rotate.js')).pruneCommand()],
  ['shred-user', async () => (await import('./shred.js')).shredUserCommand()],
  ['copy', async () => (await import('./copy.js')).copyCommand()],
  ['backup', async () => (await import('./copy.js')).backupCommand()],
  ['restore', async () => (await import('./copy.js')).restoreCommand()],
])

run(process.argv).then((code) => {
  process.exitCode = code
})

async function run(argv: readonly string[]): Promise<number> {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))
  const program = new Command('keystore')
    .description('Keys for per-user envelope encryption, in SQLite or Postgres.')
    .version(version)
    .showHelpAfterError('(keystore COMMAND --help explains it)')
    .addHelpText('after', '\nBegin with: keystore quickstart')
    // Commander quotes an argument that it does not know, and that may be a URL.
    .configureOutput({ outputError: (text, write) => write(withoutPasswords(text)) })
    .exitOverride()
  const [, , name = ''] = argv
  const asked = COMMANDS.get(name)
  // Help, and the complaint about a mistyped name, know all of them.
  for (const load of asked === undefined ? COMMANDS.values() : [asked])
    program.addCommand((await load()).copyInheritedSettings(program))
  try {
    await program.parseAsync(argv)
    return process.exitCode === undefined ? 0 : Number(process.exitCode)
  } catch (error) {
    return explain(error)
  }
}

function explain(error: unknown): number {
  // Commander has printed help or its complaint already.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : WRONG_USAGE
  if (error instanceof KeystoreError) {
    process.stderr.write(`keystore: ${error.message} [${error.code}]\n`)
    return error.code === 'ERR_INVALID_ARGUMENT' ? WRONG_USAGE : FAILED
  }
  const text = error instanceof Error ? error.message : String(error)
  process.stderr.write(`keystore: ${text}\n`)
  return FAILED
}
