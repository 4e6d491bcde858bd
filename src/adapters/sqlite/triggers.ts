/** Finds triggers that may copy wrapped keys out of our table, where an erasure does not reach. */
import type { BoundStatement } from '../../drivers/async-sqlite.js'
import type { SqliteClient } from '../../drivers/sqlite-client.js'
import { printable } from '../../errors.js'
import { encryptionKeysDeclaration } from '../../table.js'
import { copiedBy } from '../erasure.js'
import { sqliteMigrations } from '../generated/migrations.js'

/** Why erased keys may still be elsewhere, or null: the triggers on our table that are not ours. */
export function triggersThatCopy(client: SqliteClient): string | null {
  const found = client.prepare(TRIGGERS).all(...tables, ...tables)
  return copiedByTriggers(found as readonly Trigger[])
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
  const others = found.filter(({ sql }) => !ours.has(normalized(sql)))
  return others.length === 0 ? null : copiedBy(others.map(({ name }) => `trigger ${printable(name)}`))
}

const tables = [encryptionKeysDeclaration.name]

const MAIN_TRIGGERS = `select name, sql from sqlite_master where type = 'trigger' and tbl_name = ? collate nocase`
// A temporary trigger may be one of the host's own connection.
const TRIGGERS = `${MAIN_TRIGGERS.replace('from ', 'from main.')}
  union all select name, sql from sqlite_temp_master where type = 'trigger' and tbl_name = ? collate nocase`

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
