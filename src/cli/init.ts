/** `keystore init`: makes a master key and an empty store, and says how to use them. */
import { existsSync } from 'node:fs'
import { Command } from 'commander'
import { LEDGER } from '../adapters/migrator.js'
import { ownCommand, repeatedOptions, shellWord, withoutPasswords } from './command-line.js'
import { areTogether, ignoreInGit, storeFile } from './git-ignore.js'
import { openOrMakeStore } from './made-store.js'
import { type MasterKeyOptions, withMasterKeys } from './master-keys.js'
import { describeMigration } from './migrate.js'
import {
  type AdoptOptions,
  closeAfter,
  type KeyLogOptions,
  withAdoptableStore,
  withKeyLog,
} from './options.js'

type InitOptions = AdoptOptions & MasterKeyOptions & KeyLogOptions

export function initCommand(): Command {
  return withKeyLog(
    withMasterKeys(withAdoptableStore(new Command('init'))),
    'a key log: a store that lacks keys of it is refused',
  )
    .description('Make the store, and a master key if there is none. Say how to use them.')
    .action(async (options: InitOptions, command: Command) => {
      const { store, said, file, migration } = await openOrMakeStore(options)
      await closeAfter(store, async () => {
        console.log(said)
        console.log(`Key store:  ${describeMigration(migration)}`)
        printFileAdvice(file, storeFile(options.store))
        if (existsSync('drizzle.config.ts') || existsSync('drizzle.config.js')) console.log(KIT_ADVICE)
      })
      console.log(nextSteps(file, command))
    })
}

const KIT_ADVICE =
  `drizzle-kit: tablesFilter: ['!encryption_keys', '!${LEDGER}'] belongs in its config, if it manages the same database: \`drizzle-kit ` +
  'push` drops tables that your schema does not list'

/** Both files are null where they are none: a key in the environment, a store on Postgres. */
function printFileAdvice(keyFile: string | null, databaseFile: string | null): void {
  const files = [keyFile, databaseFile].filter((file) => file !== null)
  const written = ignoreInGit(files)
  if (written.length > 0) console.log(`Git:        ${written.join(' and ')} keeps them out of it`)
  if (keyFile === null || databaseFile === null) return
  const where = areTogether(keyFile, databaseFile) ? 'are in one folder, and ' : ''
  console.log(
    `Backups:    master key and database ${where}do not belong in one backup: whoever has both can decrypt everything`,
  )
}

/** @param keyFile null if the environment of this process has the key already */
function nextSteps(keyFile: string | null, command: Command): string {
  const url: unknown = command.getOptionValue('store')
  // A URL of the environment may hold a password, and the application has it already.
  const isNamed = command.getOptionValueSource('store') === 'cli'
  const variables = [
    ...(keyFile === null ? [] : [`export API_KEY_MASTER_KEY_FILE=${shellWord(keyFile)}`]),
    ...(isNamed ? [`export KEYSTORE_URL=${shellWord(withoutPasswords(String(url)))}`] : []),
  ]
  const environment =
    variables.length === 0
      ? ''
      : `
Next, for your application and for commands (a relative path counts from where they run):
${variables.map((line) => `  ${line}`).join('\n')}
`
  const options = repeatedOptions(command, ['store', 'masterKeyFile', 'previousKeyFile', 'keyLog'])
  return `${environment}
In the application:
  import { EnvelopeCrypto, masterKeysFromEnv } from 'drizzle-keystore'
  import { openKeyStore } from 'drizzle-keystore/open'
In production openKeyStore(url, { migrate: 'check' }), so that a mistyped URL makes no empty store.
Or try:
  printf %s "a secret" | ${ownCommand()} encrypt --user alice${options}`
}
