/** Applying a shred log again: what a restored backup or an old copy brought back is erased, as its line says. */
import { readFileSync } from 'node:fs'
import { invalidArgument, StoreError } from '../errors.js'
import type { KeyRecord, KeyStore } from '../store.js'
import { kindOf } from '../validate.js'

/** The last word of a shred log on one user. */
export interface ShredEntry {
  readonly userId: string
  readonly at: Date
  readonly forget: boolean
}

/** By user id. */
export type ShredEntries = ReadonlyMap<string, ShredEntry>

/**
 * Reads a shred log: lines of JSON, one a receipt, as `shredLog` writes them. The last line of a user counts.
 *
 * @throws ERR_STORE naming the line that cannot be read, and its file if there is none: nothing may be skipped silently
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

/** A row as a shred log leaves it: erased, gone (null), or, of a user minted anew after being forgotten, as it is. */
export function afterShredLog(record: KeyRecord, entries: ShredEntries): KeyRecord | null {
  const entry = entries.get(record.userId)
  if (entry === undefined) return record
  if (entry.forget) return record.createdAt.getTime() <= entry.at.getTime() ? null : record
  if (record.shreddedAt !== null) return record
  return { ...record, encryptedKey: new Uint8Array(0), shreddedAt: entry.at }
}

/** Users that are looked at in one query. */
const USERS = 1000

/**
 * Erases again whoever a shred log names and who has live rows. A user who was forgotten and minted anew keeps the rows made since.
 *
 * @returns the users of whom anything was erased
 * @throws ERR_STORE · ERR_CLOSED
 */
export async function applyShredLog(options: {
  readonly store: KeyStore
  readonly shredLog: string
}): Promise<readonly string[]> {
  return eraseAgain(options.store, readShredLog(options.shredLog), { dryRun: false })
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
