/** Reads the rows of many users, some of whom may have a row that cannot be read. */
import { isKeystoreError, type KeystoreError, type StoreError } from '../errors.js'
import type { KeyStore } from '../store.js'
import type { KeyRecord } from '../table.js'

/** The rows of each user, or why they cannot be read. A user with an unreadable row costs one more query. */
export async function readableRows(
  store: KeyStore,
  userIds: readonly string[],
): Promise<Map<string, readonly KeyRecord[] | KeystoreError>> {
  const unreadable = new Map<string, KeystoreError>()
  for (;;) {
    try {
      const found = await store.getAll(userIds.filter((userId) => !unreadable.has(userId)))
      return new Map<string, readonly KeyRecord[] | KeystoreError>([...found, ...unreadable])
    } catch (error) {
      const userId = isKeystoreError(error) ? (error as StoreError).ref?.userId : undefined
      if (userId === undefined || unreadable.has(userId) || !userIds.includes(userId)) throw error
      unreadable.set(userId, error as StoreError)
    }
  }
}
