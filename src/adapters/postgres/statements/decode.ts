/** Turns rows whose texts were read as bytes into records, or says why they are none. */
import { isUtf8 } from 'node:buffer'
import { type SQL, type SQLWrapper, sql } from 'drizzle-orm'
import { bytesLiteral } from '../../../drivers/bytes-literal.js'
import { isKeystoreError } from '../../../errors.js'
import type { CensusRow } from '../../../store.js'
import type { KeyRecord } from '../../../table.js'
import { NOT_A_VERSION, type StoredRow, storedRow, Unreadable } from '../../stored-rows.js'
import { bytesOf } from './fragments.js'

/** A row as the statements "with bytes" give it. */
export interface RowWithBytes extends Omit<KeyRecord, 'userId' | 'version' | 'kekId'> {
  readonly userId: Uint8Array
  readonly version: string
  readonly kekId: Uint8Array | null
}

/** SQLSTATEs of a text that cannot be sent in the client's encoding: bytes that are not UTF-8, characters that UTF-8 lacks. */
const NOT_TEXT = /^(22021|22P05)$/

/** Whether Postgres refused to send a text. The same rows can be read as bytes. */
export function isTextRefused(error: unknown): boolean {
  return NOT_TEXT.test(sqlStateOf(error))
}

/** What servers answer that do not know a statement: feature_not_supported, syntax_error, an undefined column, object, function or table. */
const UNSUPPORTED = /^(0A...|42601|42703|42704|42883|42P01)$/

/** Whether the server has no such statement: some that speak Postgres's protocol cannot sample tables. */
export function isUnsupported(error: unknown): boolean {
  return UNSUPPORTED.test(sqlStateOf(error))
}

/** The SQLSTATE that lock_timeout raises. */
export const LOCK_NOT_AVAILABLE = '55P03'

/** Whether another session had a lock for too long. */
export function isLocked(error: unknown): boolean {
  return sqlStateOf(error) === LOCK_NOT_AVAILABLE
}

/** Of an error of the store. @returns '' if it has none */
function sqlStateOf(error: unknown): string {
  if (!isKeystoreError(error) || !(error.cause instanceof Error) || !('code' in error.cause)) return ''
  return String(error.cause.code)
}

export function decodeRow({ userId, version, kekId, ...rest }: RowWithBytes): StoredRow {
  const id = textOf(userId)
  const ref = { userId: id ?? bytesLiteral(userId), version, shreddedAt: rest.shreddedAt }
  if (id === null) return new Unreadable(ref, false, 'has an id that is not UTF-8')
  const number = Number(version)
  if (!Number.isSafeInteger(number)) return new Unreadable(ref, true, NOT_A_VERSION)
  const kek = kekId === null ? null : textOf(kekId)
  if (kek === null && kekId !== null)
    return new Unreadable(ref, true, 'has a master key id that is not UTF-8')
  return storedRow({ userId: id, version: number, kekId: kek, ...rest })
}

/** A text for counts and receipts, which show its bytes if it is not UTF-8. */
export function shownText(text: SQLWrapper): SQL<string | null> {
  const shown = (bytes: Uint8Array) => textOf(bytes) ?? bytesLiteral(bytes)
  return sql<string | null>`${bytesOf(text)}`.mapWith(shown)
}

/** A census row from a row of `countRows`. */
export function censusRow({
  ofTenants,
  ...row
}: Omit<CensusRow, 'ofTenants'> & { ofTenants: boolean }): CensusRow {
  return ofTenants ? { ...row, ofTenants } : row
}

function textOf(bytes: Uint8Array): string | null {
  if (!isUtf8(bytes)) return null
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString()
}
