/** Compares a key log with a store. A store that lacks keys of the log is an older copy, or another store. */
import type { KeyStore } from '../store.js'
import { isTombstone, type KeyRef } from '../table.js'
import { ownOptions } from '../validate.js'
import { assertKeyLogPath } from './entry.js'
import { readEntries } from './file.js'
import { MadeKeys } from './made-keys.js'
import { readableRows } from './readable-rows.js'
import { lostEntry } from './row-entries.js'
import { KeyLogWriter } from './writer.js'

/** A key that was made, and neither pruned nor shredded, and is not in the store. */
export interface LostKey extends KeyRef {
  /** Under which master key it was wrapped, as far as the log says. */
  readonly kekId: string | null
  /** When it was made. */
  readonly createdAt: Date
  /** Whether another key stands under the same user and version. Tokens of the lost one then fail as tokens of a wrong key do. */
  readonly replaced: boolean
}

/** What {@link findLostKeys} found. */
export interface LostKeys {
  /** How many there are in all. */
  readonly count: number
  /** The first 1,000. */
  readonly keys: readonly LostKey[]
}

const MAX_LISTED = 1000
/** Users that are read in one query. */
const USERS = 1000

/**
 * Compares all keys of a key log with a store.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_STORE (the store, or a line of the log that cannot be read) · ERR_CLOSED
 * @example
 * const { count, keys } = await findLostKeys({ store, keyLog: 'keys.jsonl' })
 */
export async function findLostKeys(options: {
  readonly store: KeyStore
  readonly keyLog: string
}): Promise<LostKeys> {
  const { keys, count } = await compareAll(ownOptions(options))
  return { count, keys: keys.slice(0, MAX_LISTED) }
}

/** Records in the log that the lost keys are given up: from then on nobody asks for them. @returns their number */
export async function giveUpLostKeys(options: {
  readonly store: KeyStore
  readonly keyLog: string
}): Promise<number> {
  const { store, keyLog } = ownOptions(options)
  const { keys, count } = await compareAll({ store, keyLog })
  const at = new Date()
  const entries = keys.map((key) => lostEntry(key, at))
  await new KeyLogWriter(keyLog).write(entries, 'no key was given up')
  return count
}

export async function compareAll({
  store,
  keyLog,
}: {
  readonly store: KeyStore
  readonly keyLog: string
}): Promise<LostKeys> {
  assertKeyLogPath(keyLog)
  const made = new MadeKeys()
  for await (const entries of readEntries(keyLog)) made.addAll(entries)
  return compare(store, made)
}

/** The keys of a log that are not in the store. */
export async function compare(store: KeyStore, made: MadeKeys): Promise<LostKeys> {
  const keys: LostKey[] = []
  const users = [...made.users()]
  for (let i = 0; i < users.length; i += USERS) {
    const some = users.slice(i, i + USERS)
    const found = await readableRows(
      store,
      some.map(([userId]) => userId),
    )
    for (const [userId, ofUser] of some) {
      const rows = found.get(userId)
      // A row that cannot be read is another finding of doctor.
      if (rows instanceof Error || rows?.some(isTombstone)) continue
      for (const { version, kekId, createdAt } of ofUser) {
        const row = rows?.find((row) => row.version === version)
        if (row?.createdAt.getTime() === createdAt.getTime()) continue
        keys.push({ userId, version, kekId, createdAt, replaced: row !== undefined })
      }
    }
  }
  return { count: keys.length, keys }
}
