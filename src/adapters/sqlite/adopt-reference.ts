/** Recognises a SQLite file of the Python reference, and checks that all of its rows can be adopted. */

import type { SqliteClient } from '../../drivers/sqlite-client.js'
import { printable, schemaError } from '../../errors.js'
import { sha256 } from '../../format/aead.js'
import { encryptionKeysDeclaration } from '../../table.js'
import { MAX_USER_ID_BYTES } from '../../validate.js'
import { instantFromText } from './instant.js'

const TABLE = encryptionKeysDeclaration.name

/** `pragma_table_xinfo` of the reference's table: cid, name, type, notnull, dflt_value, pk, hidden. */
const REFERENCE_COLUMNS = [
  [0, 'user_id', 'TEXT', 0, null, 1, 0],
  [1, 'encrypted_key', 'BLOB', 1, null, 0, 0],
  [2, 'created_at', 'TEXT', 1, null, 0, 0],
]

/** How `encryption_keys` differs from the reference's: a plain table with exactly its columns. Null if it does not differ. */
export function differenceFromReference(client: SqliteClient): string | null {
  const kind = client.prepare(TABLE_KIND).get(TABLE) as Record<string, unknown> | undefined
  if (kind?.type !== 'table') return `it is ${kind === undefined ? 'no table' : `a ${kind.type}`}`
  if (kind.wr !== 0) return 'it is WITHOUT ROWID'
  if (kind.strict !== 0) return 'it is STRICT'
  const columns = client.prepare('select * from pragma_table_xinfo(?)').all(TABLE) as Record<
    string,
    unknown
  >[]
  if (JSON.stringify(columns.map((column) => Object.values(column))) !== JSON.stringify(REFERENCE_COLUMNS))
    return 'it has other columns'
  // The columns do not show these, and a rebuild of the table would lose them.
  const [constraint] = /\b(check|collate|references|unique|generated)\b/i.exec(String(kind.sql)) ?? []
  return constraint === undefined ? null : `it has a constraint, ${constraint.toUpperCase()}`
}

/**
 * Counts the rows to adopt, and checks each of them.
 *
 * @throws ERR_SCHEMA if an index, trigger, view or foreign key refers to the table, which a rebuild would drop or break, or if
 *   our table cannot represent a row
 */
export function countAdoptableRows(client: SqliteClient): number {
  const dependants = client.prepare(DEPENDANTS).all(TABLE, TABLE, `%${TABLE}%`, TABLE) as { what: string }[]
  if (dependants.length > 0) {
    const list = dependants.map(({ what }) => what).join(', ')
    throw schemaError(
      `The table ${TABLE} cannot be adopted while these hang on it: ${printable(list, 1000)}. Nothing was changed`,
    )
  }
  let rows = 0
  const problems = new Map<string, number>()
  for (const row of client.prepare(ROWS).iterate() as IterableIterator<ReferenceRow>) {
    rows += 1
    const problem = problemOf(row)
    if (problem !== null) problems.set(problem, (problems.get(problem) ?? 0) + 1)
  }
  if (problems.size > 0) {
    const list = [...problems].map(([problem, count]) => `${count} with ${problem}`).join(', ')
    throw schemaError(
      `The table ${TABLE} has rows that cannot be adopted: ${list}. Repair or remove them. Nothing was changed`,
    )
  }
  return rows
}

/** The count and a hash of the reference's rows. Adoption must not change it. */
export function referenceDigest(client: SqliteClient): { rows: number; digest: string } {
  let rows = 0
  function* pieces() {
    const ordered = client.prepare(`${ROWS} order by user_id`).iterate() as IterableIterator<ReferenceRow>
    for (const { idBytes, wrapped, createdAt } of ordered) {
      rows += 1
      yield `${idBytes.length} ${wrapped.length} ${createdAt} `
      yield idBytes
      yield wrapped
    }
  }
  const digest = sha256(pieces()).toString('hex')
  return { rows, digest }
}

interface ReferenceRow {
  readonly id: string | null
  readonly idBytes: Uint8Array
  readonly idType: string
  readonly wrapped: Uint8Array
  readonly wrappedType: string
  readonly createdAt: string
  readonly createdAtType: string
}

const TABLE_KIND = `select l.type, l.wr, l.strict, m.sql from pragma_table_list(?) l
  join sqlite_master m on m.name = l.name where l.schema = 'main'`

const ROWS = `select user_id as id, cast(user_id as blob) as idBytes, typeof(user_id) as idType, encrypted_key as wrapped,
  typeof(encrypted_key) as wrappedType, created_at as createdAt, typeof(created_at) as createdAtType from ${TABLE}`

// The reference's table has one index, of its primary key; a rebuild would silently drop any other.
const DEPENDANTS = `
  select 'index ' || name as what from pragma_index_list(?) where origin = 'c'
  union all
  select type || ' ' || name from sqlite_master
    where type in ('trigger', 'view') and (tbl_name = ? collate nocase or sql like ?)
  union all
  select 'foreign key of ' || m.name from sqlite_master m, pragma_foreign_key_list(m.name) f
    where m.type = 'table' and f."table" = ? collate nocase`

function problemOf(row: ReferenceRow): string | null {
  if (row.id === null || row.idType !== 'text') return 'a user id that is not text'
  if (row.idBytes.length === 0) return 'an empty user id'
  if (row.idBytes.length > MAX_USER_ID_BYTES) return `a user id of more than ${MAX_USER_ID_BYTES} bytes`
  if (row.id.includes('\0')) return 'a NUL in the user id'
  if (Buffer.compare(Buffer.from(row.id), row.idBytes) !== 0) return 'a user id that is not UTF-8'
  if (row.wrappedType !== 'blob') return 'a key that is not a blob'
  if (row.createdAtType !== 'text' || Number.isNaN(instantFromText(row.createdAt).getTime())) {
    return 'a created_at that is no ISO 8601 time with an offset'
  }
  return null
}
