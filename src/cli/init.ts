/** `keystore init`: makes a master key and an empty store, and says how to use them. */
import { Command } from 'commander'
import { ownCommand } from './command-line.js'
import { findOrMakeMasterKeys, type MasterKeyOptions, withMasterKey } from './master-keys.js'
import { describeMigration } from './migrate.js'
import { type AdoptOptions, openStore, withAdoptableStore } from './options.js'

export function initCommand(): Command {
  return withMasterKey(withAdoptableStore(new Command('init')))
    .description('Make the store, and a master key if there is none. Say how to use them.')
    .action(async (options: AdoptOptions & MasterKeyOptions) => {
      const { said } = findOrMakeMasterKeys(options)
      console.log(said)
      const store = await openStore(options)
      try {
        console.log(`Key store:  ${describeMigration(await store.ready())}`)
      } finally {
        await store.close()
      }
      console.log(nextSteps())
    })
}

function nextSteps(): string {
  return `
Next, in your application:
  import { EnvelopeCrypto, masterKeysFromEnv } from 'drizzle-keystore'
  import { openKeyStore } from 'drizzle-keystore/open'
with API_KEY_MASTER_KEY_FILE and KEYSTORE_URL in its environment. Or try:
  printf %s "a secret" | ${ownCommand()} encrypt --user alice`
}
