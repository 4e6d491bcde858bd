#!/usr/bin/env node
/** The command `keystore`: the only place that puts stores, master keys and the service together. */
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { KeystoreError } from '../errors.js'
import { backupCommand, copyCommand, restoreCommand } from './copy.js'
import { decryptCommand, encryptCommand } from './crypt.js'
import { doctorCommand } from './doctor.js'
import { initCommand } from './init.js'
import { migrateCommand } from './migrate.js'
import { newMasterKeyCommand } from './new-master-key.js'
import { quickstartCommand } from './quickstart.js'
import { reencryptCommand } from './reencrypt.js'
import { rewrapCommand } from './rewrap.js'
import { pruneCommand, rotateUserCommand } from './rotate.js'
import { shredUserCommand } from './shred.js'
import { statusCommand } from './status.js'

/** 0: done · 1: failed · 2: the command line was wrong. */
const FAILED = 1
const WRONG_USAGE = 2

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
    .configureOutput({ outputError: (text, write) => write(withoutPasswords(text)) })
    .exitOverride()
  for (const command of [
    initCommand,
    quickstartCommand,
    migrateCommand,
    encryptCommand,
    decryptCommand,
    statusCommand,
    doctorCommand,
    newMasterKeyCommand,
    rewrapCommand,
    reencryptCommand,
    rotateUserCommand,
    pruneCommand,
    shredUserCommand,
    copyCommand,
    backupCommand,
    restoreCommand,
  ]) {
    program.addCommand(command().copyInheritedSettings(program))
  }
  try {
    await program.parseAsync(argv)
    return process.exitCode === undefined ? 0 : Number(process.exitCode)
  } catch (error) {
    return explain(error)
  }
}

/** Commander quotes an argument that it does not know, and that may be a URL. */
function withoutPasswords(text: string): string {
  return text.replace(/:\/\/\S*@/g, '://…@')
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
