/** Results of bulk calls: one for each item, so that a bad one never fails the rest. */
import { invalidArgument, isKeystoreError, type KeystoreError } from '../errors.js'
import { kindOf, ownOptions } from '../validate.js'

export type ItemResult<Value> =
  | { readonly ok: true; readonly value: Value }
  | { readonly ok: false; readonly error: KeystoreError }

/** Starts the work of all items, and collects a result for each. @throws ERR_INVALID_ARGUMENT (no array) */
export async function settled<Item extends object, Value>(
  items: readonly Item[],
  work: (item: Item) => Promise<Value>,
): Promise<ItemResult<Value>[]> {
  if (!Array.isArray(items)) throw invalidArgument(`items must be an array, got ${kindOf(items)}`)
  return Promise.all(
    // Not items.map, which skips the holes of a sparse array.
    Array.from(items, async (item): Promise<ItemResult<Value>> => {
      try {
        return { ok: true, value: await work(ownOptions(item, 'an item')) }
      } catch (error) {
        return { ok: false, error: isKeystoreError(error) ? error : unexpected() }
      }
    }),
  )
}

/** For a getter that throws, or a string longer than Node allows. Without a cause, which may hold the plaintext. */
function unexpected(): KeystoreError {
  return invalidArgument('the item cannot be read or processed: reading it, or making its result, threw')
}
