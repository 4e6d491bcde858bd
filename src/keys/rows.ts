/** Rows of many users by one call of the store. A row that cannot be read fails its own user only. */
import { isKeystoreError, KeystoreError, StoreError } from '../errors.js'
import { describeRef } from '../master-keys/key-wrap.js'
import type { KeyStore, NewKeyRecord } from '../store.js'
import { isTombstone, type KeyRecord, refKey } from '../table.js'

/** Loads every version of each user, in the order of the ids. A row that cannot be read costs one more query. */
export function loadRows(
  store: KeyStore,
  userIds: readonly string[],
): Promise<(readonly KeyRecord[] | Error)[]> {
  return withoutUnreadable(
    userIds,
    (userId) => userId,
    async (readable) => {
      const found = await store.getAll(readable)
      return (userId) => found.get(userId) ?? []
    },
  )
}

/** Inserts records. Returns for each the row that is stored, the tombstone that forbade it, or the reason why there is none. */
export function insertRecords(
  store: KeyStore,
  records: readonly NewKeyRecord[],
): Promise<(KeyRecord | Error)[]> {
  return withoutUnreadable(
    records,
    ({ userId }) => userId,
    async (readable) => {
      const winners = await store.insertIfAbsent(readable)
      const byRef = new Map(winners.map((winner) => [refKey(winner), winner]))
      const tombstones = new Map(winners.filter(isTombstone).map((winner) => [winner.userId, winner]))
      return (record) => byRef.get(refKey(record)) ?? tombstones.get(record.userId) ?? noWinner(record)
    },
  )
}

/** Runs one call for all items. Users with an unreadable row get the error; the call is repeated for the others. */
async function withoutUnreadable<Item, Result>(
  items: readonly Item[],
  userIdOf: (item: Item) => string,
  call: (readable: readonly Item[]) => Promise<(item: Item) => Result>,
): Promise<(Result | Error)[]> {
  const unreadable = new Map<string, Error>()
  for (;;) {
    try {
      const resultOf = await call(items.filter((item) => !unreadable.has(userIdOf(item))))
      return items.map((item) => unreadable.get(userIdOf(item)) ?? resultOf(item))
    } catch (error) {
      const userId = isKeystoreError(error) ? (error as StoreError).ref?.userId : undefined
      if (userId === undefined || unreadable.has(userId)) throw error
      unreadable.set(userId, error as StoreError)
    }
  }
}

function noWinner({ userId, version, whileLive }: NewKeyRecord): Error {
  if (whileLive !== undefined)
    return new KeystoreError(
      'ERR_KEY_NOT_FOUND',
      `The key of ${describeRef(whileLive)} is not in the store any more: no key was made under it`,
      { retryable: true },
    )
  // The user was forgotten in between.
  if (version === 1)
    return new StoreError('The key store inserted a key and does not have it', { retryable: true })
  const before = describeRef({ userId, version: version - 1 })
  return new KeystoreError('ERR_KEY_NOT_FOUND', `The key of ${before} is gone`, { retryable: true })
}
