/** Rows as they are stored, which anybody with access to the database can have written, and what keeps some of them from being records. */
import { type KeystoreError, printable, quoted, StoreError } from '../errors.js'
import type { UnreadableRow } from '../store.js'
import { type KeyRecord, MAX_KEY_VERSION } from '../table.js'
import { MAX_USER_ID_BYTES } from '../validate.js'

export type StoredRow = KeyRecord | Unreadable

/** A stored row that is no record. */
export class Unreadable implements UnreadableRow {
  readonly userId: string
  readonly version: number
  readonly hasId: boolean
  readonly error: KeystoreError
  /** Null if it is a live row; an invalid Date if it is a tombstone, or may be one. */
  readonly shreddedAt: Date | null

  /** @param hasId whether `userId` is the stored id, and not only what can be shown of it */
  constructor(
    row: { readonly userId: string; readonly version: unknown; readonly shreddedAt: unknown },
    hasId: boolean,
    defect: string,
  ) {
    const { userId, shreddedAt } = row
    const version = shownVersion(row.version)
    const text = exactText(row.version)
    const shown = hasId ? userId : shortened(userId)
    this.userId = shown
    this.version = version
    this.hasId = hasId
    this.shreddedAt = shreddedAt === null ? null : new Date(Number.NaN)
    const user = hasId ? quoted(shown) : printable(shown)
    this.error = new StoreError(`The row of user ${user}, version ${text ?? version}, ${defect}`, {
      ref: { userId: shown, version, ...(text === null ? {} : { exactVersion: text }) },
    })
  }
}

const SHOWN_CHARACTERS = 64

/** An id may have megabytes, and is named in reports. */
function shortened(text: string): string {
  return text.length <= SHOWN_CHARACTERS ? text : `${text.slice(0, SHOWN_CHARACTERS).toWellFormed()}…`
}

/** @throws ERR_STORE, which names the ref, if the row is no record */
export function requireReadable(row: StoredRow): KeyRecord {
  if (row instanceof Unreadable) throw row.error
  return row
}

export function isReadable(row: StoredRow): row is KeyRecord {
  return !(row instanceof Unreadable)
}

/** What is wrong with a stored user id, or null. */
export function userIdDefect(userId: unknown): string | null {
  if (typeof userId !== 'string') return 'has an id that is not text'
  if (userId.includes('\0')) return 'has an id with a NUL character'
  // No character takes more than three bytes for a unit of UTF-16.
  const isShort = userId.length * 3 <= MAX_USER_ID_BYTES || Buffer.byteLength(userId) <= MAX_USER_ID_BYTES
  return isShort ? null : `has an id of more than ${MAX_USER_ID_BYTES} bytes`
}

export const NOT_A_VERSION = `has a version that is none: versions are whole numbers from 1 to ${MAX_KEY_VERSION}`

/** What is wrong with the other columns of a row, or null. Times are Dates already, invalid ones if they could not be read. */
export function columnDefect(
  row: Readonly<Record<Exclude<keyof KeyRecord, 'userId'>, unknown>>,
): string | null {
  const { version, encryptedKey, kekId, createdAt, wrappedAt, shreddedAt } = row
  if (typeof version !== 'number' || !Number.isInteger(version) || version < 1 || version > MAX_KEY_VERSION)
    return NOT_A_VERSION
  if (!(encryptedKey instanceof Uint8Array)) return 'has a wrapped key that is not bytes'
  if (kekId !== null && (typeof kekId !== 'string' || kekId.includes('\0')))
    return 'has a master key id that is not text'
  const areTimes = isTime(createdAt) && isTimeOrNull(wrappedAt) && isTimeOrNull(shreddedAt)
  return areTimes ? null : 'has a time that cannot be read: repair created_at, wrapped_at or shredded_at'
}

function isTimeOrNull(time: unknown): boolean {
  return time === null || isTime(time)
}

/** Both dialects can store the years 1 to 9999. */
function isTime(time: unknown): boolean {
  if (!(time instanceof Date)) return false
  const ms = time.getTime()
  return ms >= FIRST_MS && ms <= LAST_MS
}

const FIRST_MS = Date.parse('0001-01-01T00:00:00.000Z')
const LAST_MS = Date.parse('9999-12-31T23:59:59.999Z')

/** A row that the driver has decoded without loss: its id is the stored one. */
export function storedRow(record: KeyRecord): StoredRow {
  const defect = userIdDefect(record.userId) ?? columnDefect(record)
  if (defect === null) return record
  return new Unreadable(record, userIdDefect(record.userId) === null, defect)
}

/** A number to name a row with, whatever stands in its column; 0 for what is no number. */
export function shownVersion(version: unknown): number {
  if (typeof version === 'string') return INTEGER.test(version) ? Number(version) : 0
  return typeof version === 'number' || typeof version === 'bigint' ? Number(version) : 0
}

const INTEGER = /^-?\d+$/

/** A whole number, as text, that {@link shownVersion} rounds; null if it does not. Such integers come as bigints or as text. */
function exactText(version: unknown): string | null {
  const isExact = typeof version === 'bigint' || (typeof version === 'string' && INTEGER.test(version))
  return isExact && !Number.isSafeInteger(Number(version)) ? String(version) : null
}
