/**
 * Shredding: the erasure of all wrapped keys of a user, and its record outside the database. Needs no master key.
 *
 * A database cannot know that a restored backup brought a row back. So each receipt is written to a log that no backup restores, before
 * the erasure begins. `restore`, `copy` and `doctor --shred-log` apply the log again.
 */
import { appendFileSync, closeSync, fstatSync, fsyncSync, openSync, readFileSync, readSync } from 'node:fs'
import { dirname } from 'node:path'
import { invalidArgument, isKeystoreError, StoreError } from './errors.js'
import type { KeyStore, ShredResult } from './store.js'
import { syncFolder } from './sync-folder.js'
import type { KeyRecord } from './table.js'
import { kindOf, ownOptions } from './validate.js'

/** What was erased, and what is still to be done. */
export interface ShredReceipt extends Required<ShredResult> {
  /** Whether the rows were removed too, so that the user may be minted anew. */
  readonly forget: boolean
}

/**
 * The path of a file outside the database and its backups, to which a line of JSON is appended and synced; or a function that stores the
 * receipt elsewhere. The receipt says what is about to be erased, with `erased: 'pending'`. If it cannot be written, nothing is shredded.
 */
export type ShredLog = string | ((receipt: ShredReceipt) => void | Promise<void>)

export interface ShredUserOptions {
  /** Remove the rows too: the user may be minted anew. Without it every later use is ERR_KEY_SHREDDED. Default false. */
  readonly forget?: boolean | undefined
}

/**
 * Erases a user's keys: writes the log first, then erases until a fresh read finds no live row. Safe to repeat.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_STORE (the log or the store; after a store's error call again) · ERR_CLOSED
 */
export async function shredIn(
  store: KeyStore,
  userId: string,
  options: ShredUserOptions & { readonly shredLog?: ShredLog | undefined },
): Promise<ShredReceipt> {
  const { forget = false, shredLog } = ownOptions(options)
  if (typeof forget !== 'boolean') throw invalidArgument(`forget must be a boolean, got ${kindOf(forget)}`)
  const at = new Date()
  if (shredLog !== undefined) await record(shredLog, await announcement(store, userId, forget, at))
  // With the time that the log has: a shred that is applied again then leaves the same row.
  const result = await store.shred(userId, { forget, at })
  const { versions, kekIds, erased = 'pending' } = result
  const { pending = erased === 'pending' ? UNKNOWN : null } = result
  return { userId, versions, kekIds, at: result.at, forget, erased, pending }
}

const UNKNOWN = 'This key store does not say whether the erased bytes have left its storage'
const ANNOUNCED = 'Written before the erasure: whoever has this line applies it again'

/** @throws ERR_INVALID_ARGUMENT */
export function assertShredLog(shredLog: unknown): asserts shredLog is ShredLog | undefined {
  const isUsable = typeof shredLog === 'function' || (typeof shredLog === 'string' && shredLog !== '')
  if (shredLog !== undefined && !isUsable)
    throw invalidArgument(`shredLog must be the path of a file or a function, got ${kindOf(shredLog)}`)
}

async function announcement(
  store: KeyStore,
  userId: string,
  forget: boolean,
  at: Date,
): Promise<ShredReceipt> {
  const live = (await rowsOf(store, userId)).filter(({ shreddedAt }) => shreddedAt === null)
  return {
    userId,
    versions: live.map(({ version }) => version),
    at,
    kekIds: [...new Set(live.map(({ kekId }) => kekId))],
    forget,
    erased: 'pending',
    pending: ANNOUNCED,
  }
}

/** A row that cannot be read must not stop the erasure of its user: the log then names no version. */
async function rowsOf(store: KeyStore, userId: string): Promise<readonly KeyRecord[]> {
  try {
    return (await store.getAll([userId])).get(userId) ?? []
  } catch (error) {
    if (isKeystoreError(error) && (error as StoreError).ref !== undefined) return []
    throw error
  }
}

async function record(shredLog: ShredLog, receipt: ShredReceipt): Promise<void> {
  try {
    if (typeof shredLog === 'function') await shredLog(receipt)
    else appendLine(shredLog, JSON.stringify(receipt))
  } catch (error) {
    const reason = error instanceof Error && 'code' in error ? String(error.code) : 'it threw'
    throw new StoreError(`The shred log could not be written (${reason}): nothing was shredded`)
  }
}

/** Durable when it returns. If a crash has cut off the last line, a new line is begun. */
function appendLine(path: string, line: string): void {
  const file = openSync(path, 'a+', 0o600)
  try {
    const { size } = fstatSync(file)
    const last = Buffer.alloc(1)
    if (size > 0) readSync(file, last, 0, 1, size - 1)
    const begin = size > 0 && last[0] !== 0x0a ? '\n' : ''
    // Unlike writeSync it goes on after a part, and throws when the disk is full.
    appendFileSync(file, `${begin}${line}\n`)
    fsyncSync(file)
    if (size === 0) syncFolder(dirname(path))
  } finally {
    closeSync(file)
  }
}

/** The last entry of a shred log about one user. */
export interface ShredEntry {
  readonly userId: string
  readonly at: Date
  readonly forget: boolean
}

/** By user id. */
export type ShredEntries = ReadonlyMap<string, ShredEntry>

/**
 * Reads a shred log: lines of JSON as `shredLog` writes them. The last line of a user counts.
 *
 * @throws ERR_STORE naming the line that cannot be read, or the file: nothing may be skipped silently
 */
export function readShredLog(path: string): ShredEntries {
  if (typeof path !== 'string' || path === '')
    throw invalidArgument(`shredLog must be the path of a file, got ${kindOf(path)}`)
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    const reason = error instanceof Error && 'code' in error ? String(error.code) : 'unreadable'
    throw new StoreError(`The shred log ${path} cannot be read (${reason})`)
  }
  const entries = new Map<string, ShredEntry>()
  for (const [index, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue
    const entry = entryOf(line)
    if (entry === null) {
      throw new StoreError(
        `Line ${index + 1} of the shred log ${path} cannot be read: if a crash cut it off, nothing was shredded by it and it can be ` +
          'deleted; otherwise repair it',
      )
    }
    entries.set(entry.userId, entry)
  }
  return entries
}

function entryOf(line: string): ShredEntry | null {
  let parsed: unknown
  try {
    parsed = JSON.parse(line)
  } catch {
    return null
  }
  if (typeof parsed !== 'object' || parsed === null) return null
  const { userId, at, forget = false } = parsed as Record<string, unknown>
  const time = new Date(typeof at === 'string' ? at : Number.NaN)
  if (typeof userId !== 'string' || Number.isNaN(time.getTime()) || typeof forget !== 'boolean') return null
  return { userId, at: time, forget }
}

/** A row as a shred log leaves it: erased, gone (null), or unchanged if its user was minted anew after being forgotten. */
export function afterShredLog(record: KeyRecord, entries: ShredEntries): KeyRecord | null {
  const entry = entries.get(record.userId)
  if (entry === undefined) return record
  if (entry.forget) return record.createdAt.getTime() <= entry.at.getTime() ? null : record
  if (record.shreddedAt !== null) return record
  return { ...record, encryptedKey: new Uint8Array(0), shreddedAt: entry.at }
}

/** Users that are read in one query. */
const USERS = 1000

/**
 * Erases again the live rows of the users that a shred log names. A user who was forgotten and minted anew keeps the newer rows.
 *
 * @returns the users whose rows were erased
 * @throws ERR_STORE · ERR_CLOSED
 */
export async function applyShredLog(options: {
  readonly store: KeyStore
  readonly shredLog: string
}): Promise<readonly string[]> {
  const { store, shredLog } = ownOptions(options)
  return eraseAgain(store, readShredLog(shredLog), { dryRun: false })
}

/** {@link applyShredLog} with what was read of it; with `dryRun` it only names the users. */
export async function eraseAgain(
  store: KeyStore,
  entries: ShredEntries,
  { dryRun }: { readonly dryRun: boolean },
): Promise<readonly string[]> {
  const everybody = [...entries.values()]
  const erased: string[] = []
  for (let i = 0; i < everybody.length; i += USERS) {
    const some = everybody.slice(i, i + USERS)
    const found = await store.getAll(some.map(({ userId }) => userId))
    for (const { userId, at, forget } of some) {
      const rows = found.get(userId) ?? []
      const stale = rows.filter((row) => afterShredLog(row, entries) !== row)
      if (stale.length === 0) continue
      erased.push(userId)
      if (dryRun) continue
      if (forget && stale.length < rows.length) await store.remove(stale)
      else await store.shred(userId, { forget, at })
    }
  }
  return erased
}
