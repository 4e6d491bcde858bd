/** Finds triggers and indexes that may copy wrapped keys out of our table, where an erasure does not reach. */
import type { BoundStatement } from '../../drivers/async-sqlite.js'
import type { SqliteClient } from '../../drivers/sqlite-client.js'
import { printable } from '../../errors.js'
import { encryptionKeysDeclaration } from '../../table.js'
import { copiedBy } from '../erasure.js'
import { sqliteMigrations } from '../generated/migrations.js'

/** Why erased keys may still be elsewhere, or null: the triggers on our table that are not ours, and indexes of wrapped keys. */
export function copiersOf(client: SqliteClient): string | null {
  const triggers = client.prepare(TRIGGERS).all(...tables, ...tables) as readonly Trigger[]
  const indexes = client.prepare(INDEXES).all(...tables, WRAPPED_KEY) as readonly { readonly name: string }[]
  return copiedByAll([...foreignTriggers(triggers), ...indexes.map(({ name }) => `index ${printable(name)}`)])
}

/** The statement that {@link copiedByTriggers} takes the rows of, for drivers without temporary triggers. */
export function selectTriggers(): BoundStatement {
  return { sql: MAIN_TRIGGERS, params: tables }
}

interface Trigger {
  readonly name: string
  readonly sql: string
}

/** @param found all triggers on our table */
export function copiedByTriggers(found: readonly Trigger[]): string | null {
  return copiedByAll(foreignTriggers(found))
}

function foreignTriggers(found: readonly Trigger[]): string[] {
  return found.filter(({ sql }) => !ours.has(normalized(sql))).map(({ name }) => `trigger ${printable(name)}`)
}

function copiedByAll(copiers: readonly string[]): string | null {
  return copiers.length === 0 ? null : copiedBy(copiers)
}

const WRAPPED_KEY = encryptionKeysDeclaration.columns.encryptedKey.name
const tables = [encryptionKeysDeclaration.name]

const MAIN_TRIGGERS = `select name, sql from sqlite_master where type = 'trigger' and tbl_name = ? collate nocase`
// A temporary trigger may be one of the host's own connection.
const TRIGGERS = `${MAIN_TRIGGERS.replace('from ', 'from main.')}
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
