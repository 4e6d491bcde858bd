/** Turns rows as a driver gives them into records, or says why they are none. */
import { bytesLiteral } from '../../../drivers/bytes-literal.js'
import { isExactText } from '../../../drivers/sqlite-text.js'
import type { CensusOptions, CensusRow, DatedCensusRow, SampledRef, ShredResult } from '../../../store.js'
import type { KeyRecord } from '../../../table.js'
import { columnDefect, type StoredRow, shownVersion, Unreadable, userIdDefect } from '../../stored-rows.js'
import { encryptionKeys as keys } from '../schema.js'

/** The columns of a row in their order in the table, of any type: SQLite stores what it is given. */
export type RawRow = readonly [
  userId: unknown,
  version: unknown,
  encryptedKey: unknown,
  kekId: unknown,
  createdAt: unknown,
  wrappedAt: unknown,
  shreddedAt: unknown,
]

/** Decodes a row whose id is known to be exact, since the row was found by it, or is decoded again by {@link decodeWithBytes}. */
export function decodeRow(row: RawRow): StoredRow {
  const [userId, version, encryptedKey, kekId] = row
  const record = {
    userId,
    version,
    // The driver has already copied the bytes for us.
    encryptedKey:
      encryptedKey instanceof Uint8Array
        ? new Uint8Array(encryptedKey.buffer, encryptedKey.byteOffset, encryptedKey.length)
        : encryptedKey,
    kekId,
    createdAt: time(row[4], 'createdAt'),
    wrappedAt: row[5] === null ? null : time(row[5], 'wrappedAt'),
    shreddedAt: row[6] === null ? null : time(row[6], 'shreddedAt'),
  }
  const idDefect = userIdDefect(userId)
  const defect = idDefect ?? columnDefect(record)
  if (defect === null) return record as KeyRecord
  const ref = { userId: shownId(userId), version, shreddedAt: row[6] }
  return new Unreadable(ref, idDefect === null, defect)
}

function time(value: unknown, column: 'createdAt' | 'wrappedAt' | 'shreddedAt'): unknown {
  return typeof value === 'string' ? keys[column].mapFromDriverValue(value) : value
}

/** The texts of a row as they are stored. */
export interface StoredTexts {
  readonly userId: Uint8Array | null
  readonly kekId: Uint8Array | null
  /** Of the database, as `pragma encoding` says. */
  readonly encoding: string
}

/** {@link decodeRow}, but compares the decoded texts with the stored bytes. */
export function decodeWithBytes(row: RawRow, { userId, kekId, encoding }: StoredTexts): StoredRow {
  const [id, version] = row
  if (typeof id === 'string' && !isExactText(id, userId, encoding)) {
    const ref = { userId: bytesLiteral(userId), version, shreddedAt: row[6] }
    return new Unreadable(ref, false, 'has an id that is not UTF-8')
  }
  const record = decodeRow(row)
  if (record instanceof Unreadable || record.kekId === null || isExactText(record.kekId, kekId, encoding))
    return record
  return new Unreadable(record, true, 'has a master key id that is not UTF-8')
}

/** What counts and receipts say of columns whose rows may be no records. */
export function shownColumns<Row extends { readonly kekId: unknown; readonly version: unknown }>(row: Row) {
  const { kekId, version } = row
  const shown = kekId instanceof Uint8Array ? bytesLiteral(kekId) : kekId === null ? null : String(kekId)
  return { ...row, kekId: shown, version: shownVersion(version) }
}

/** What can be shown of an id that is none. */
function shownId(userId: unknown): string {
  return userId instanceof Uint8Array ? bytesLiteral(userId) : String(userId)
}

/** What a shred's receipt says of the rows that it erased. @param rows of `shredRows`: version and KEK id */
export function erasedVersions(
  rows: readonly (readonly unknown[])[],
): Pick<ShredResult, 'versions' | 'kekIds'> {
  const shown = rows.map(([version, kekId]) => shownColumns({ version, kekId }))
  return {
    versions: shown.map(({ version }) => version).sort((a, b) => a - b),
    kekIds: [...new Set(shown.map(({ kekId }) => kekId))],
  }
}

/** The placeholder `:named` of `countRows`. */
export function namedKekIds({ rootIds = [] }: CensusOptions): string {
  return JSON.stringify(rootIds)
}

/** @param rows of `countRows` */
export function censusOf(rows: readonly (readonly unknown[])[]): CensusRow[] {
  return rows.map(([kekId, version, shredded, count, ofTenants]) => ({
    ...shownColumns({ kekId, version }),
    shredded: Number(shredded) === 1,
    count: Number(count),
    ...(Number(ofTenants) === 1 ? { ofTenants: true } : {}),
  }))
}

/** @param rows of `countRowsWithAges` */
export function datedCensusOf(rows: readonly (readonly unknown[])[]): DatedCensusRow[] {
  const dateOf = (ms: unknown) => new Date(ms === null ? Number.NaN : Number(ms))
  return censusOf(rows).map((row, index) => ({
    ...row,
    oldest: dateOf(rows[index]?.[5] ?? null),
    newest: dateOf(rows[index]?.[6] ?? null),
  }))
}

/** @param rows of `countUnderKeks` */
export function countsByKek(rows: readonly (readonly unknown[])[]): Map<string, number> {
  return new Map(rows.map(([kekId, count]) => [String(kekId), Number(count)]))
}

/** @param rows of `selectRefsAt` */
export function sampledRefs(rows: readonly (readonly unknown[])[]): SampledRef[] {
  return rows.flatMap(([userId, version, kekId]) => {
    if (typeof userId !== 'string' || typeof version !== 'number') return []
    return [{ userId, version, kekId: typeof kekId === 'string' ? kekId : null }]
  })
}
