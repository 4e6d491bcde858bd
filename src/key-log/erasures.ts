/** The shredded users of a key log, and their erasure in a store to which an older copy of the table has brought them back. */
import type { KeyStore } from '../store.js'
import { isTombstone, type KeyIdentity, type KeyRecord } from '../table.js'
import { ownOptions } from '../validate.js'
import { assertKeyLogPath, type KeyLogEntry, type MadeEntry } from './entry.js'
import { assertWrittenByOwnerOnly, readEntries, readLastEntries } from './file.js'
import { readableRows } from './readable-rows.js'

/** What a key log says last of the erasure of one user. */
export interface Erasure {
  readonly userId: string
  readonly at: Date
  readonly forget: boolean
  /** The keys that the log has after it, by {@link nameOf}: whatever the clocks said, they are others. */
  readonly madeSince: ReadonlySet<string>
}

/** By user id. */
export type Erasures = ReadonlyMap<string, Erasure>

/** The pool is left out: a line of the log must not erase a key that all users share. */
const POOL_USER_ID = ''

/** @throws ERR_INVALID_ARGUMENT · ERR_STORE naming the line that cannot be read, or the file; others than its owner may write it */
export async function readErasures(keyLog: string): Promise<Erasures> {
  assertKeyLogPath(keyLog)
  await assertWrittenByOwnerOnly(keyLog)
  const erasures: ErasuresSoFar = new Map()
  for await (const entries of readEntries(keyLog)) addErasures(erasures, entries)
  return erasures
}

type ErasuresSoFar = Map<string, Erasure & { readonly madeSince: Set<string> }>

function addErasures(erasures: ErasuresSoFar, entries: readonly KeyLogEntry[]): void {
  for (const entry of entries) {
    const { userId, at } = entry
    if (userId === POOL_USER_ID) continue
    if (entry.event === 'shredded')
      erasures.set(userId, { userId, at, forget: entry.forget, madeSince: new Set() })
    else if (isMade(entry)) erasures.get(userId)?.madeSince.add(nameOf(entry.version, at))
    // Its line may have come after the erasure that had ended it.
    else if (entry.event === 'lost')
      erasures.get(userId)?.madeSince.delete(nameOf(entry.version, entry.createdAt))
  }
}

/** {@link readErasures} for entries from the end of a log. */
export function erasuresOf(entries: readonly KeyLogEntry[]): Erasures {
  const erasures: ErasuresSoFar = new Map()
  addErasures(erasures, entries)
  return erasures
}

/** Whether an entry made a key. */
export function isMade(entry: KeyLogEntry): entry is MadeEntry {
  return entry.event === 'minted' || entry.event === 'rotated'
}

export function nameOf(version: number, createdAt: Date): string {
  return `${version} ${createdAt.getTime()}`
}

/** {@link nameOf} among the keys of all users. */
export function fullName({ userId, version, createdAt }: KeyIdentity): string {
  return `${nameOf(version, createdAt)} ${userId}`
}

/** Users whose erasure was begun and not finished, as far as the log says, and who have live rows. */
export async function findUnfinishedErasures(store: KeyStore, keyLog: string): Promise<readonly string[]> {
  assertKeyLogPath(keyLog)
  const begun = new Set<string>()
  for await (const entries of readEntries(keyLog)) {
    for (const { event, userId } of entries) {
      if (event === 'shredding') begun.add(userId)
      else if (event === 'shredded') begun.delete(userId)
    }
  }
  const users = [...begun]
  const unfinished: string[] = []
  for (let i = 0; i < users.length; i += USERS) {
    const some = users.slice(i, i + USERS)
    const found = await readableRows(store, some)
    for (const userId of some) {
      const rows = found.get(userId)
      if (!(rows instanceof Error) && rows?.some((row) => !isTombstone(row))) unfinished.push(userId)
    }
  }
  return unfinished
}

/** Whether a key log has a line of a user. Where there is no file yet, it has none. */
export async function isNamedIn(keyLog: string, userId: string): Promise<boolean> {
  if ((await readLastEntries(keyLog, 1)) === null) return false
  for await (const entries of readEntries(keyLog))
    if (entries.some((entry) => entry.userId === userId)) return true
  return false
}

/** A row as the erasures leave it: erased, gone (null), or unchanged if its user was minted anew after being forgotten. */
export function afterErasures(record: KeyRecord, erasures: Erasures): KeyRecord | null {
  const erasure = erasures.get(record.userId)
  if (erasure === undefined) return record
  if (erasure.forget) {
    const isAnother = erasure.madeSince.has(nameOf(record.version, record.createdAt))
    return isAnother || record.createdAt.getTime() > erasure.at.getTime() ? record : null
  }
  if (record.shreddedAt !== null) return record
  return { ...record, encryptedKey: new Uint8Array(0), shreddedAt: erasure.at }
}

/**
 * Erases again the live rows of the users whom a key log names as shredded. A user who was forgotten and minted anew keeps the newer rows.
 * The pool is left as it is.
 *
 * @returns the users whose rows were erased
 * @throws ERR_INVALID_ARGUMENT · ERR_STORE (the store, or a line of the log that cannot be read: then nothing was erased) · ERR_CLOSED
 * @example
 * await applyKeyLog({ store, keyLog: 'keys.jsonl' }) // after the database was restored
 */
export async function applyKeyLog(options: {
  readonly store: KeyStore
  readonly keyLog: string
}): Promise<readonly string[]> {
  const { store, keyLog } = ownOptions(options)
  return eraseAgain(store, await readErasures(keyLog), { dryRun: false, restoreTombstones: true })
}

/** Users that are read in one query. */
const USERS = 1000

/** {@link applyKeyLog} with what was read of it; with `dryRun` it only names the users. `restoreTombstones`: of users without rows too. */
export async function eraseAgain(
  store: KeyStore,
  erasures: Erasures,
  { dryRun, restoreTombstones = false }: { readonly dryRun: boolean; readonly restoreTombstones?: boolean },
): Promise<readonly string[]> {
  const everybody = [...erasures.values()]
  const erased: string[] = []
  for (let i = 0; i < everybody.length; i += USERS) {
    const some = everybody.slice(i, i + USERS)
    const found = await readableRows(
      store,
      some.map(({ userId }) => userId),
    )
    for (const { userId, at, forget } of some) {
      const rows = found.get(userId) ?? []
      if (rows instanceof Error) {
        // Which rows were made after the user was forgotten, cannot be known: doctor names the one that cannot be read.
        if (forget) continue
        erased.push(userId)
        if (!dryRun) await store.shred(userId, { forget, at })
        continue
      }
      const stale = rows.filter((row) => afterErasures(row, erasures) !== row)
      // An older copy may lack the user's tombstone, without which a new key would be made.
      const isTombstoneLost = restoreTombstones && !forget && rows.length === 0
      if (stale.length === 0 && !isTombstoneLost) continue
      erased.push(userId)
      if (dryRun) continue
      if (forget && stale.length < rows.length) await store.remove(stale)
      else await store.shred(userId, { forget, at })
    }
  }
  return erased
}
