/** Shredding: the erasure of all wrapped keys of a user. Needs no master key. */
import { invalidArgument } from './errors.js'
import type { KeyStore, ShredResult } from './store.js'
import { kindOf, ownOptions } from './validate.js'

/** What was erased, and what is still to be done. */
export interface ShredReceipt extends Required<ShredResult> {
  /** Whether the rows were removed too, so that the user may be minted anew. */
  readonly forget: boolean
}

/** The options of {@link EnvelopeCrypto.shredUser}. */
export interface ShredUserOptions {
  /** Remove the rows too: the user may be minted anew. Without it every later use is ERR_KEY_SHREDDED. Default false. */
  readonly forget?: boolean | undefined
}

/**
 * Erases a user's keys until a fresh read finds no live row. Safe to repeat. If the store is a `loggedStore`, its key log is written first.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_STORE (the log or the store; after a store's error call again) · ERR_CLOSED
 */
export async function shredIn(
  store: KeyStore,
  userId: string,
  options: ShredUserOptions,
): Promise<ShredReceipt> {
  const { forget = false } = ownOptions(options)
  if (typeof forget !== 'boolean') throw invalidArgument(`forget must be a boolean, got ${kindOf(forget)}`)
  const result = await store.shred(userId, { forget, at: new Date() })
  const { versions, kekIds, erased = 'pending' } = result
  const { pending = erased === 'pending' ? UNKNOWN : null } = result
  return { userId, versions, kekIds, at: result.at, forget, erased, pending }
}

const UNKNOWN = 'This key store does not say whether the erased bytes have left its storage'
