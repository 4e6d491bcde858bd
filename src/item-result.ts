/** Results of bulk calls: one for each item, so that a bad one never fails the rest. */
import { invalidArgument, KeystoreError } from './errors.js'
import { kindOf } from './validate.js'

export type ItemResult<Value> =
  | { readonly ok: true; readonly value: Value }
  | { readonly ok: false; readonly error: KeystoreError }

/** All items at once. @throws ERR_INVALID_ARGUMENT (no array) · whatever is no KeystoreError */
export async function settled<Item, Value>(
  items: readonly Item[],
  work: (item: Item) => Promise<Value>,
): Promise<ItemResult<Value>[]> {
  if (!Array.isArray(items)) throw invalidArgument(`items must be an array, got ${kindOf(items)}`)
  return Promise.all(
    items.map(async (item): Promise<ItemResult<Value>> => {
      try {
        if (typeof item !== 'object' || item === null)
          throw invalidArgument(`an item must be an object, got ${kindOf(item)}`)
        return { ok: true, value: await work(item) }
      } catch (error) {
        if (error instanceof KeystoreError) return { ok: false, error }
        throw error
      }
    }),
  )
}
