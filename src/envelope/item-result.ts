/** Results of bulk calls: one for each item, so that a bad one never fails the rest. */
import { invalidArgument, isKeystoreError, type KeystoreError } from '../errors.js'
import { nextTurn } from '../event-loop.js'
import { kindOf } from '../validate.js'

export type ItemResult<Value> =
  | { readonly ok: true; readonly value: Value }
  | { readonly ok: false; readonly error: KeystoreError }

/** Works on all items, a thousand at once, and collects a result for each. @throws ERR_INVALID_ARGUMENT (no array) */
export async function settled<Item, Value>(
  items: readonly Item[],
  work: (item: Item) => Promise<Value>,
): Promise<ItemResult<Value>[]> {
  if (!Array.isArray(items)) throw invalidArgument(`items must be an array, got ${kindOf(items)}`)
  const results: ItemResult<Value>[] = []
  for (let at = 0; at < items.length; at += AT_ONCE) {
    if (at > 0) await nextTurn()
    // Not items.map, which skips the holes of a sparse array.
    const some = Array.from(items.slice(at, at + AT_ONCE), (item) => settle(item, work))
    for (const result of await Promise.all(some)) results.push(result)
  }
  return results
}

async function settle<Item, Value>(
  item: Item,
  work: (item: Item) => Promise<Value>,
): Promise<ItemResult<Value>> {
  try {
    if (typeof item !== 'object' || item === null)
      throw invalidArgument(`an item must be an object, got ${kindOf(item)}`)
    return { ok: true, value: await work(item) }
  } catch (error) {
    return { ok: false, error: isKeystoreError(error) ? error : unexpected() }
  }
}

/** Items between two turns of the event loop, and users in one query. */
const AT_ONCE = 1000

/** For a getter that throws, or a string longer than Node allows. Without a cause, which may hold the plaintext. */
function unexpected(): KeystoreError {
  return invalidArgument('the item cannot be read or processed: reading it, or making its result, threw')
}
