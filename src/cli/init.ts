/** `keystore init`: a master key and an empty store, and what to do with them. */
import { Command } from 'commander'
import { describeMigration } from './migrate.js'
import {
  findOrMakeMasterKeys,
  type MasterKeyOptions,
  openStore,
  type StoreOptions,
  withMasterKey,
  withStore,
} from './options.js'

export function initCommand(): Command {
  return withMasterKey(withStore(new Command('init')))
    .description('Make a master key, if none is given, and the store; say how to use them.')
    .action(async (options: StoreOptions & MasterKeyOptions) => {
      const { said } = findOrMakeMasterKeys(options)
      console.log(said)
      const store = await openStore(options)
      try {
        console.log(`Key store:  ${describeMigration(await store.ready())}`)
      } finally {
        await store.close()
      }
      console.log(NEXT_STEPS)
    })
}

const NEXT_STEPS = `
Next, in your application:
  import { EnvelopeCrypto, masterKeysFromEnv } from 'drizzle-keystore'
  import { openKeyStore } from 'drizzle-keystore/open'
with API_KEY_MASTER_KEY_FILE and KEYSTORE_URL in its environment. Or try:
  printf %s "a secret" | keystore encrypt --user alice`
