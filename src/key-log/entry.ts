/**
 * The key log: a record, outside the database, of each key that was minted, rotated, pruned or shredded. It holds no secret.
 *
 * A database cannot know that an older copy of it was put in its place. Then keys are missing, and shredded users have keys again. The log
 * shows both. This file defines the entries, and the line of JSON for each of them.
 */
import { invalidArgument } from '../errors.js'
import { type KeyRef, MAX_KEY_VERSION } from '../table.js'
import { kindOf } from '../validate.js'

/** A key that was made and stored: a user's first one, or a further version. `at` is the time that its row was made with. */
export interface MadeEntry extends KeyRef {
  readonly event: 'minted' | 'rotated'
  readonly kekId: string | null
  readonly at: Date
}

/** A key that is about to be removed, because no token needs it any more. */
export interface PrunedEntry extends KeyRef {
  readonly event: 'pruned'
  /** Null too if the row could not be read. */
  readonly kekId: string | null
  readonly at: Date
}

/** `shredding`: all keys of a user are about to be erased, or with `forget` removed. `shredded`: they are. */
export interface ShreddedEntry {
  readonly event: 'shredding' | 'shredded'
  /** Empty for the pool. */
  readonly userId: string
  /** The live versions, ascending. Empty if the user has none, or if they cannot be read. */
  readonly versions: readonly number[]
  /** The distinct KEK ids they were wrapped under. */
  readonly kekIds: readonly (string | null)[]
  /** Whether the rows are removed too, so that the user may be minted anew. */
  readonly forget: boolean
  readonly at: Date
}

/** A key that is not in the store, and that the operator has given up. */
export interface LostEntry extends KeyRef {
  readonly event: 'lost'
  readonly kekId: string | null
  /** Which key it was: the `at` of the entry with which it was made. */
  readonly createdAt: Date
  readonly at: Date
}

/** A line of the key log: what was done to which key, and when. It has no secret. */
export type KeyLogEntry = MadeEntry | PrunedEntry | ShreddedEntry | LostEntry

/**
 * Where the entries go: the path of a file outside the database and its backups, to which lines of JSON are appended and synced; or a
 * function that stores them elsewhere, and has stored them when it returns or its promise resolves.
 */
export type KeyLog = string | ((entries: readonly KeyLogEntry[]) => void | Promise<void>)

/** @throws ERR_INVALID_ARGUMENT */
export function assertKeyLog(keyLog: unknown): asserts keyLog is KeyLog {
  if (typeof keyLog === 'function') return
  if (typeof keyLog !== 'string' || keyLog === '')
    throw invalidArgument(`keyLog must be the path of a file or a function, got ${kindOf(keyLog)}`)
}

/** @throws ERR_INVALID_ARGUMENT unless the path of a file */
export function assertKeyLogPath(keyLog: unknown): asserts keyLog is string {
  if (typeof keyLog !== 'string' || keyLog === '')
    throw invalidArgument(`keyLog must be the path of a file, got ${kindOf(keyLog)}`)
}

/** The lines of a file, each with its line end. */
export function linesOf(entries: readonly KeyLogEntry[]): string {
  return entries.map((entry) => `${JSON.stringify(entry)}\n`).join('')
}

/** The entry of a line. @returns null if it is none */
export function parseEntry(line: string): KeyLogEntry | null {
  let parsed: unknown
  try {
    parsed = JSON.parse(line)
  } catch {
    return null
  }
  if (typeof parsed !== 'object' || parsed === null) return null
  const { event, userId, version, kekId, at: atText, ...rest } = parsed as Record<string, unknown>
  const at = timeOf(atText)
  if (!isUserId(userId) || at === null) return null
  if (event === 'shredding' || event === 'shredded') {
    const { versions, kekIds, forget } = rest
    if (typeof forget !== 'boolean' || !isListOf(versions, isVersion) || !isListOf(kekIds, isKekId))
      return null
    return { event, userId, versions, kekIds, forget, at }
  }
  if (!isVersion(version) || !isKekId(kekId)) return null
  if (event === 'minted' || event === 'rotated' || event === 'pruned')
    return { event, userId, version, kekId, at }
  const createdAt = timeOf(rest.createdAt)
  return event === 'lost' && createdAt !== null ? { event, userId, version, kekId, createdAt, at } : null
}

function timeOf(text: unknown): Date | null {
  const time = new Date(typeof text === 'string' ? text : Number.NaN)
  return Number.isNaN(time.getTime()) ? null : time
}

/** No row has a longer id, and messages show them. */
const LONGEST_USER_ID = 1024

function isUserId(value: unknown): value is string {
  return typeof value === 'string' && value.length <= LONGEST_USER_ID
}

function isVersion(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 1 && (value as number) <= MAX_KEY_VERSION
}

function isKekId(value: unknown): value is string | null {
  return value === null || typeof value === 'string'
}

function isListOf<Item>(value: unknown, isItem: (item: unknown) => item is Item): value is Item[] {
  return Array.isArray(value) && value.every(isItem)
}
