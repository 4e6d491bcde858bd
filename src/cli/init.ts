/** `keystore init`: makes a master key and an empty store, and says how to use them. */
import { Command } from 'commander'
import { eventEmitter } from '../events.js'
import { refuseLostKeys } from '../key-log/lost-keys.js'
import { ownCommand } from './command-line.js'
import { areTogether, ignoreInGit, storeFile } from './git-ignore.js'
import { findOrMakeMasterKeys, type MasterKeyOptions, withMasterKey } from './master-keys.js'
import { describeMigration } from './migrate.js'
import {
  type AdoptOptions,
  closeAfter,
  type KeyLogOptions,
  openStore,
  withAdoptableStore,
  withKeyLog,
} from './options.js'

type InitOptions = AdoptOptions & MasterKeyOptions & KeyLogOptions

export function initCommand(): Command {
  return withKeyLog(
    withMasterKey(withAdoptableStore(new Command('init'))),
    'a key log: a store that lacks keys of it is refused',
  )
    .description('Make the store, and a master key if there is none. Say how to use them.')
    .action(async (options: InitOptions) => {
      const { keyLog } = options
      await closeAfter(await openStore(options), async (store) => {
        // Before a master key is made: where keys are lost, the right one is somewhere else.
        if (keyLog !== undefined) await refuseLostKeys(store, keyLog, eventEmitter({}))
        const { said, file } = findOrMakeMasterKeys(options)
        console.log(said)
        console.log(`Key store:  ${describeMigration(await store.ready())}`)
        printFileAdvice(file, storeFile(options.store))
      })
      console.log(nextSteps())
    })
}

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

function nextSteps(): string {
  return `
Next, in your application:
  import { EnvelopeCrypto, masterKeysFromEnv } from 'drizzle-keystore'
  import { openKeyStore } from 'drizzle-keystore/open'
with API_KEY_MASTER_KEY_FILE and KEYSTORE_URL in its environment. Or try:
  printf %s "a secret" | ${ownCommand()} encrypt --user alice`
}
