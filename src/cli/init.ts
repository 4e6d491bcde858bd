/** `keystore init`: makes a master key and an empty store, and says how to use them. */
import { existsSync } from 'node:fs'
import { Command } from 'commander'
import { LEDGER } from '../adapters/migrator.js'
import { DriverMissingError, isPostgresUrl } from '../drivers/url.js'
import { inThisRuntime, ownCommand, repeatedOptions, shellWord, withoutPasswords } from './command-line.js'
import { storeName } from './existing-store.js'
import { areTogether, ignoreInGit, storeFile } from './git-ignore.js'
import { openOrMakeStore } from './made-store.js'
import { type MasterKeyOptions, makeMasterKeys, masterKeysOrNull, withMasterKeys } from './master-keys.js'
import { describeMigration } from './migrate.js'
import {
  type AdoptOptions,
  closeAfter,
  DEFAULT_STORE,
  type KeyLogOptions,
  withAdoptableStore,
  withKeyLog,
} from './options.js'
import { say } from './say.js'

type InitOptions = AdoptOptions & MasterKeyOptions & KeyLogOptions

export function initCommand(): Command {
  return withKeyLog(
    withMasterKeys(withAdoptableStore(new Command('init'))),
    'a key log: a store that lacks keys of it is refused',
  )
    .description('Make the store, and a master key if there is none. Say how to use them.')
    .addHelpText(
      'after',
      '\nExamples:\n  npx keystore init\n  npx keystore init --store app.db\n  KEYSTORE_URL="$DATABASE_URL" npx keystore init',
    )
    .action(async (options: InitOptions, command: Command) => {
      const { store, said, file, migration } = await openOrMakeStore(options).catch((error) => {
        if (error instanceof DriverMissingError) makeKeyAlone(options, command)
        throw error
      })
      await closeAfter(store, async () => {
        say(said)
        say(`Key store:  ${storeName(options.store)}: ${describeMigration(migration)}`)
        printFileAdvice(file, storeFile(options.store))
        if (existsSync('drizzle.config.ts') || existsSync('drizzle.config.js')) say(KIT_ADVICE)
      })
      say(nextSteps(file, command))
    })
}

/** The store cannot be made, nor looked into: the error, which is thrown afterwards, says what to install. */
function makeKeyAlone(options: InitOptions, command: Command): void {
  const { said, file } = masterKeysOrNull(options) ?? makeMasterKeys(options)
  say(said)
  say('Key store:  not made, since no driver for it is installed here')
  printFileAdvice(file, null)
  say(inThisRuntime(nextStepsWithoutStore(file, command, isPostgresUrl(options.store))))
}

const KIT_ADVICE =
  `drizzle-kit: tablesFilter: ['!encryption_keys', '!${LEDGER}'] belongs in its config, if it manages the same database: \`drizzle-kit ` +
  'push` drops tables that your schema does not list'

/** Both files are null where they are none: a key in the environment, a store on Postgres. */
function printFileAdvice(keyFile: string | null, databaseFile: string | null): void {
  const files = [keyFile, databaseFile].filter((file) => file !== null)
  const written = ignoreInGit(files)
  if (written.length > 0)
    say(
      `Git:        ${written.join(' and ')} ${written.length === 1 ? 'keeps' : 'keep'} ${files.length === 1 ? 'it' : 'them'} out of git`,
    )
  if (keyFile === null || databaseFile === null) return
  const where = areTogether(keyFile, databaseFile) ? 'are in one folder, and ' : ''
  say(
    `Backups:    master key and database ${where}do not belong in one backup: whoever has both can decrypt everything`,
  )
}

/** @param keyFile null if the environment of this process has the key already */
function nextSteps(keyFile: string | null, command: Command): string {
  const options = repeatedOptions(command, ['store', 'masterKeyFile', 'previousKeyFile', 'keyLog'])
  return `${environmentSteps(keyFile, command)}
In the application:
  import { EnvelopeCrypto, masterKeysFromEnv } from 'drizzle-keystore'
  import { openKeyStore } from 'drizzle-keystore/open'
  const masterKeys = masterKeysFromEnv() // first: without a master key nothing is opened
  const store = await openKeyStore(${storeArgument(command)}, { migrate: 'check' }) // 'check': a mistyped URL makes no empty store
  const envelope = await EnvelopeCrypto.open({ store, masterKeys })
${command.getOptionValueSource('store') === 'default' ? ANOTHER_STORE : OWN_DB}
Or try:
  printf %s "a secret" | ${ownCommand()} encrypt --user alice${options}`
}

/** In the words of the application: the variable that was printed or set, else the file. */
function storeArgument(command: Command): string {
  return command.getOptionValueSource('store') === 'default'
    ? `'${DEFAULT_STORE}'`
    : "process.env.KEYSTORE_URL ?? ''"
}

const ANOTHER_STORE =
  'If it gives its own drizzle db to sqliteKeyStore({ db }) or postgresKeyStore({ db }), the keys are in that database instead of this store:\n' +
  'run init and the other commands with --store or KEYSTORE_URL for it, such as --store app.db, and delete this one, if it has no keys.'

const OWN_DB =
  'If this is the database of its own drizzle db, that may be given instead: sqliteKeyStore({ db }) or postgresKeyStore({ db }).'

function nextStepsWithoutStore(keyFile: string | null, command: Command, isPostgres: boolean): string {
  const isChosen = command.getOptionValueSource('store') !== 'default'
  const factories = isChosen ? [isPostgres ? 'postgres' : 'sqlite'] : ['sqlite', 'postgres']
  const imports = factories.map((name) => `  import { ${name}KeyStore } from 'drizzle-keystore/${name}'`)
  return `${environmentSteps(keyFile, command)}
The table is made by the application, with its own drizzle db, when it opens the store for the first time:
  import { EnvelopeCrypto, masterKeysFromEnv } from 'drizzle-keystore'
${imports.join(' // or\n')}
  const store = ${factories.map((name) => `${name}KeyStore({ db })`).join(' // or ')}
  const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKeysFromEnv() })
Or install a driver, and run init again${isChosen ? '' : '; for Postgres as KEYSTORE_URL=postgres://… npx keystore init'}. If the database has keys already, they stay under the master key that they have.
`
}

/** Nothing for the default store. Where this run made or found the key's file, the variable may have been set for this command alone. A password is not printed: who reads puts it in. */
function storeVariable(command: Command): string[] {
  if (command.getOptionValueSource('store') === 'default') return []
  const url = String(command.getOptionValue('store'))
  const shown = withoutPasswords(url)
  const rest = shown === url ? '' : '  # the whole URL, as this command had it'
  return [`export KEYSTORE_URL=${shellWord(shown)}${rest}`]
}

function environmentSteps(keyFile: string | null, command: Command): string {
  const variables = [
    ...(keyFile === null ? [] : [`export API_KEY_MASTER_KEY_FILE=${shellWord(keyFile)}`]),
    ...(keyFile === null && command.getOptionValueSource('store') === 'env' ? [] : storeVariable(command)),
  ]
  if (variables.length === 0) return ''
  return `
Next, for your application and for commands (a relative path counts from where they run):
${variables.map((line) => `  ${line}`).join('\n')}
`
}
