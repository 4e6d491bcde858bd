/**
 * Shredding: the erasure of all wrapped keys of a user, and its record outside the database. Needs no master key.
 *
 * A database cannot know that a backup of it brought a row back. So receipts go into a log that no backup restores, before the
 * erasure begins, and `restore`, `copy` and `doctor --shred-log` apply it again.
 */
import { appendFileSync, closeSync, fstatSync, fsyncSync, openSync, readSync } from 'node:fs'
import { dirname } from 'node:path'
import { invalidArgument, isKeystoreError, StoreError } from './errors.js'
import type { KeyRecord, KeyStore, ShredResult } from './store.js'
import { syncFolder } from './sync-folder.js'
import { kindOf } from './validate.js'

/** What was erased, and what is still to be done. */
export interface ShredReceipt extends Required<ShredResult> {
  /** Whether the rows were removed too, so that the user may be minted anew. */
  readonly forget: boolean
}

/**
 * The path of a file outside the database and its backups, to which a line of JSON is appended and synced; or a function that stores
 * the receipt elsewhere. It gets what is about to be erased, `erased: 'pending'`, and when it fails nothing is shredded.
 */
export type ShredLog = string | ((receipt: ShredReceipt) => void | Promise<void>)

export interface ShredUserOptions {
  /** Remove the rows too: the user may be minted anew. Without it every later use is ERR_KEY_SHREDDED. Default false. */
  readonly forget?: boolean
}

/**
 * Erases a user's keys: logs first, then erases until a fresh look finds no live row. Safe to repeat.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_STORE (the log or the store; after a store's error call again) · ERR_CLOSED
 */
export async function shredIn(
  store: KeyStore,
  userId: string,
  options: ShredUserOptions & { readonly shredLog?: ShredLog | undefined },
): Promise<ShredReceipt> {
  const { forget = false, shredLog } = options
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

/** A row that cannot be read must not keep its user from being erased: then the log names no version. */
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

/** Durable when it returns. Begins a line of its own after one that a crash has cut off. */
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
