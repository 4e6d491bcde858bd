/** `keystore new-master-key`: a first master key for whoever does not use `init`, and the first step of a rotation. */
import { Command } from 'commander'
import { generateMasterKey } from '../master-keys/local.js'
import { inThisRuntime, shellWord } from './command-line.js'
import { keepOutOfGit } from './git-ignore.js'
import { makeMasterKeyFile } from './master-keys.js'
import { printableSentence } from './printable.js'
import { sayError } from './say.js'

export function newMasterKeyCommand(): Command {
  return new Command('new-master-key')
    .description(
      'Make a master key: in a new file (mode 0600), or on standard output for a secret manager. The first one of an application, or the ' +
        'next one, when the master key is rotated. Opens no store. Says on standard error how to give the key to the application.',
    )
    .argument('[file]', 'where to write it; an existing file is never overwritten')
    .addHelpText(
      'after',
      '\nExamples:\n  npx keystore new-master-key keys/master.key\n  npx keystore new-master-key keys/2027.key\n  npx keystore new-master-key | vault kv put -mount=secret keystore master_key=-',
    )
    .action((file: string | undefined) => {
      if (file === undefined) process.stdout.write(`${generateMasterKey()}\n`)
      else if (!makeMasterKeyFile(file))
        throw new Error(`${file} is there already, and no key file is ever overwritten: choose another name`)
      if (file !== undefined) {
        sayError(`Made ${printableSentence(file)} (mode 0600).`)
        keepOutOfGit(file)
      }
      sayError(`${BACK_UP}\n\n${firstSteps(file)}\n\n${ROTATION}`)
    })
}

const BACK_UP = 'Back the key up, separately from the database: without it nothing can be decrypted.'

/** @param file null if the key is on standard output */
function firstSteps(file: string | undefined): string {
  const given =
    file === undefined
      ? '  API_KEY_MASTER_KEY=… in the environment of the application, from the secret manager'
      : `  export API_KEY_MASTER_KEY_FILE=${shellWord(printableSentence(file))}`
  return `If this is the application's first master key, give it to the application (a relative path counts from where it runs):
${given}
  import { EnvelopeCrypto, masterKeysFromEnv } from 'drizzle-keystore'
  const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKeysFromEnv() })
Where the key comes in another way, such as a secret of Cloudflare Workers: masterKeys: localMasterKey(env.API_KEY_MASTER_KEY).
The store on your own database makes its table itself: sqliteKeyStore({ db }) or postgresKeyStore({ db }).`
}

const ROTATION =
  inThisRuntime(`If there is a master key already, this one takes its place without downtime (docs/OPERATIONS.md has the reasons):
  1. Give it to every process as a previous key (API_KEY_MASTER_KEY_PREVIOUS), so that all of them can unwrap keys under it.
  2. Make it the primary (API_KEY_MASTER_KEY or API_KEY_MASTER_KEY_FILE) and the old one a previous key, and restart every process.
  3. npx keystore rewrap, or rewrapAll of the library where only the application can open the database (PGlite, D1)
  4. npx keystore doctor, or verifyAll
  5. Remove the old one when "still needed" says no for it, and no backup and no v2 pool token needs it either.`)
