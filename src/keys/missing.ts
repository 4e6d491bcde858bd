/** Why there is no key to use. */
import { describeUser, invalidArgument, KeystoreError } from '../errors.js'
import { describeRef } from '../master-keys/key-wrap.js'
import type { KeyRef } from '../table.js'

export function noSuchVersion(ref: KeyRef): KeystoreError {
  return notFound(`There is no key of ${describeRef(ref)}`, false)
}

export function keysLostError(userId: string): KeystoreError {
  return notFound(
    `The keys of ${describeUser(userId)}, which this process has used, are not in the store, and nobody is known to have erased ` +
      `them: nothing is minted in their place. ${RESTORE}`,
    false,
  )
}

const RESTORE =
  'Restore the newest backup. If the user was forgotten on purpose, forget the user here too (shredUser with forget), or open the service ' +
  'anew; with a key log the service finds it out by itself'

export function notFound(message: string, retryable: boolean): KeystoreError {
  return new KeystoreError('ERR_KEY_NOT_FOUND', message, { retryable })
}

export function rotationNeedsV3(): KeystoreError {
  return invalidArgument("format 'v2' has version 1 only: open with format 'v3' to rotate")
}

export function highestLost(ref: KeyRef): KeystoreError {
  return notFound(
    `The key of ${describeRef(ref)}, which this process has used, is not in the store: nothing is written under a lower one. ${RESTORE}`,
    false,
  )
}

export function storeIsEmpty(ref: KeyRef): KeystoreError {
  return notFound(
    `There is no key of ${describeRef(ref)}, and no other key in the store either: another store, or its table was made anew (drizzle-kit ` +
      'push drops tables that the schema does not list, unless tablesFilter leaves them out). Restore a backup',
    false,
  )
}
