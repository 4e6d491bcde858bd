/** What to do about an error, in the words of the command line: its options and files, which the library's messages do not know. */
import { IF_TABLES_WERE_DROPPED } from '../adapters/migrator.js'
import type { KeystoreError, KeystoreErrorCode, MasterKeyError } from '../errors.js'
import { DEFAULT_MASTER_KEY_FILE } from '../master-keys/environment.js'
import { NoTableError } from './existing-store.js'
import { MissingKeyFileError } from './master-keys.js'

const GIVE_A_MASTER_KEY = '--master-key-file FILE, API_KEY_MASTER_KEY_FILE or API_KEY_MASTER_KEY'

const ADVICE: Partial<Record<KeystoreErrorCode, string>> = {
  ERR_KEY_NOT_FOUND: 'Is the id right, to the letter, and is --store the right store?',
  ERR_MASTER_KEY:
    `Commands take the master key from ${GIVE_A_MASTER_KEY}; without any of them from ${DEFAULT_MASTER_KEY_FILE}, ` +
    'which `npx keystore init` makes.',
  ERR_UNKNOWN_MASTER_KEY:
    'The keys are under another master key than the one given, if one was. Give the right one: ' +
    `${GIVE_A_MASTER_KEY}. A former one goes beside the one in use now: --previous-key-file FILE.`,
}

const IS_THE_PATH_RIGHT = `Is the path right? A relative one counts from the folder that the command runs in. Else give the master key that these keys are under: ${GIVE_A_MASTER_KEY}.`

/** Not as the primary: new keys of all others would then come under the root of this tenant. */
const GIVE_THE_ROOT =
  'The primary master key stays what it is. Give the root of the tenant beside it: --previous-key-file FILE, or API_KEY_MASTER_KEY_PREVIOUS.'

const WHEN_IT_ANSWERS = 'Run the same command again when the master key answers.'

const ROOT_IS_THE_NEW_ONE = '(--root and --root-file name the new root.)'

/** Messages of the library and of commands name the tenant whose key is wrapped by it. A quote in an id is escaped there. */
function isOfUnknownRoot({ code, message }: KeystoreError): boolean {
  return code === 'ERR_UNKNOWN_MASTER_KEY' && /\bkey of tenant "/.test(message)
}

/** @returns null if the message says it all */
export function adviceFor(error: KeystoreError, command: string): string | null {
  const { code } = error
  if (isOfUnknownRoot(error))
    return command === 'move-tenant' ? `${GIVE_THE_ROOT} ${ROOT_IS_THE_NEW_ONE}` : GIVE_THE_ROOT
  if (error instanceof NoTableError) return `${IF_TABLES_WERE_DROPPED}.`
  if (error instanceof MissingKeyFileError) return IS_THE_PATH_RIGHT
  // The master key was given, and its service failed: the message says why.
  if (code === 'ERR_MASTER_KEY' && (error as MasterKeyError).reason !== undefined)
    return error.retryable ? WHEN_IT_ANSWERS : null
  if (code === 'ERR_DECRYPTION_FAILED' && command === 'decrypt')
    return 'Give the same --user and every --context name=value that the secret was encrypted with.'
  if (code === 'ERR_KEY_NOT_FOUND' && command === 'decrypt')
    return 'Give the same --user that the secret was encrypted for, and the --store that has the keys of that user.'
  return ADVICE[code] ?? null
}
