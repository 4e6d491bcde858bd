/** `keystore new-master-key`: the first step of a rotation of the master key. */
import { Command } from 'commander'
import { generateMasterKey } from '../master-keys/local.js'
import { keepOutOfGit } from './git-ignore.js'
import { makeMasterKeyFile } from './master-keys.js'
import { printableSentence } from './printable.js'

export function newMasterKeyCommand(): Command {
  return new Command('new-master-key')
    .description('Make a master key: in a new file (mode 0600), or on standard output for a secret manager.')
    .argument('[file]', 'where to write it; an existing file is never overwritten')
    .addHelpText(
      'after',
      '\nExamples:\n  npx keystore new-master-key keys/2027.key\n  npx keystore new-master-key | vault kv put -mount=secret keystore master_key=-',
    )
    .action((file: string | undefined) => {
      if (file === undefined) process.stdout.write(`${generateMasterKey()}\n`)
      else if (!makeMasterKeyFile(file))
        throw new Error(`${file} is there already, and no key file is ever overwritten: choose another name`)
      if (file !== undefined) {
        process.stderr.write(`Made ${printableSentence(file)} (mode 0600).\n`)
        keepOutOfGit(file)
      }
      process.stderr.write(`${NEXT_STEPS}\n`)
    })
}

const NEXT_STEPS = `Back the key up, separately from the database: without it nothing can be decrypted.
To make it the master key without downtime (docs/OPERATIONS.md has the reasons):
  1. Give it to every process as a previous key (API_KEY_MASTER_KEY_PREVIOUS), so that all of them can unwrap keys under it.
  2. Make it the primary (API_KEY_MASTER_KEY or API_KEY_MASTER_KEY_FILE) and the old one a previous key, and restart every process.
  3. npx keystore rewrap
  4. npx keystore doctor
  5. Remove the old one when "needed by rows" says no for it, and no backup and no v2 pool token needs it either.`
