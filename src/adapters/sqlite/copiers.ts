/** Finds triggers and indexes that may copy wrapped keys out of our table, where an erasure does not reach. */
import type { SqliteClient } from '../../drivers/sqlite-client.js'
import { printable } from '../../errors.js'
import { encryptionKeysDeclaration } from '../../table.js'
import { copiedBy } from '../erasure.js'
import { sqliteMigrations } from '../generated/migrations.js'

/** Why erased keys may still be elsewhere, or null: the triggers on our table that are not ours, and indexes of wrapped keys. */
export function copiersOf(client: SqliteClient): string | null {
  const found = client.prepare(TRIGGERS).all(...tables, ...tables) as readonly {
    readonly name: string
    readonly sql: string
  }[]
  const others = found.filter(({ sql }) => !ours.has(normalized(sql)))
  const indexes = client
    .prepare(INDEXES)
    .all(...tables, encryptionKeysDeclaration.columns.encryptedKey.name) as {
    readonly name: string
  }[]
  const copiers = [
    ...others.map(({ name }) => `trigger ${printable(name)}`),
    ...indexes.map(({ name }) => `index ${printable(name)}`),
  ]
  return copiers.length === 0 ? null : copiedBy(copiers)
}

const tables = [encryptionKeysDeclaration.name]

// A temporary trigger may be one of the host's own connection.
const TRIGGERS = `select name, sql from main.sqlite_master where type = 'trigger' and tbl_name = ? collate nocase
  union all select name, sql from sqlite_temp_master where type = 'trigger' and tbl_name = ? collate nocase`

// ANALYZE copies some of an index's values into sqlite_stat4 (sqlite.org/fileformat2.html#stat4tab). An expression has no column name.
const INDEXES = `select distinct i.name from pragma_index_list(?) i, pragma_index_xinfo(i.name) c
  where c.name = ? collate nocase or c.cid = -2`

const ours: ReadonlySet<string> = new Set(
  sqliteMigrations.flatMap(({ statements }) => statements).map(normalized),
)

/** SQLite keeps the statement without its comments before, and without its last semicolon. */
function normalized(sql: string): string {
  return sql
    .replace(/^(\s*--.*\n)+/, '')
    .replace(/\s+/g, ' ')
    .replace(/\s*;\s*$/, '')
}
