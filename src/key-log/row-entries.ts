/** The entries that rows have in a key log, and those of keys that ended before they had one. */
import type { KeyStore } from '../store.js'
import type { KeyIdentity, KeyRecord } from '../table.js'
import type { LostEntry, MadeEntry, ShreddedEntry } from './entry.js'
import { fullName } from './erasures.js'
import { readableRows } from './readable-rows.js'
import type { KeyLogWriter } from './writer.js'

export function madeEntry({ userId, version, kekId, createdAt }: KeyRecord): MadeEntry {
  return { event: version === 1 ? 'minted' : 'rotated', userId, version, kekId, at: createdAt }
}

export function lostEntry(key: KeyIdentity & Pick<KeyRecord, 'kekId'>, at: Date): LostEntry {
  const { userId, version, kekId, createdAt } = key
  return { event: 'lost', userId, version, kekId, createdAt, at }
}

/** An entry for each user who has a tombstone. The pool gets none: no line ends a key that all users share. */
export function shreddedEntries(tombstones: readonly KeyRecord[]): ShreddedEntry[] {
  const users = new Map<string, KeyRecord[]>()
  for (const row of tombstones)
    if (row.userId !== '') users.set(row.userId, [...(users.get(row.userId) ?? []), row])
  return [...users].map(([userId, rows]) => ({
    event: 'shredded',
    userId,
    versions: rows.map(({ version }) => version),
    kekIds: [...new Set(rows.map(({ kekId }) => kekId))],
    forget: false,
    at: rows[0]?.shreddedAt ?? new Date(),
  }))
}

/**
 * Ends the keys that are not in the store any more. Another process may have removed a key, and written its line, before the line of the key
 * itself was written: by the log the key would be lost.
 */
export async function endRemoved(
  store: KeyStore,
  log: KeyLogWriter,
  recorded: readonly KeyRecord[],
): Promise<void> {
  const found = await readableRows(store, [...new Set(recorded.map(({ userId }) => userId))])
  const at = new Date()
  const ended = recorded.filter((key) => {
    const rows = found.get(key.userId) ?? []
    return !(rows instanceof Error) && !rows.some((row) => fullName(row) === fullName(key))
  })
  await log.write(
    ended.map((key) => lostEntry(key, at)),
    'the key was erased meanwhile',
  )
}
