/**
 * Migrates a SQLite database through an asynchronous driver. All is one batch, whose first statements record the migrations: if another
 * process has recorded them meanwhile, the batch fails on its primary key and changes nothing.
 */
import type { AsyncSqlite, BoundStatement } from '../../drivers/async-sqlite.js'
import { schemaError } from '../../errors.js'
import { encryptionKeysDeclaration } from '../../table.js'
import { type Migration, sqliteMigrations } from '../generated/migrations.js'
import {
  LEDGER,
  type LedgerRow,
  type MigrateMode,
  type MigrationReport,
  NOTHING_APPLIED,
  pendingMigrations,
  refuseInCheckMode,
  tableDropped,
  tableWithoutLedger,
} from '../migrator.js'
import { RULES } from './migrate.js'

const TABLE = encryptionKeysDeclaration.name

/** @throws ERR_SCHEMA · the driver's errors */
export async function migrateAsyncSqlite(
  db: AsyncSqlite,
  mode: Exclude<MigrateMode, 'off'>,
): Promise<MigrationReport> {
  const pending = await pendingOn(db)
  if (pending.length === 0) return NOTHING_APPLIED
  refuseInCheckMode(mode, pending)
  try {
    await db.batch(statementsOf(pending))
  } catch (error) {
    const left = await pendingOn(db)
    if (left.length === 0) return NOTHING_APPLIED
    throw error
  }
  return { applied: pending.map(({ tag }) => tag), adopted: null }
}

/** What is wrong with the schema, or null. @throws ERR_SCHEMA · the driver's errors */
export async function checkAsyncSqlite(db: AsyncSqlite, mode: MigrateMode): Promise<void> {
  if (mode === 'off' && !(await tablesOf(db)).has(LEDGER) && (await hasEveryColumn(db))) return
  refuseInCheckMode('check', await pendingOn(db))
}

async function pendingOn(db: AsyncSqlite): Promise<readonly Migration[]> {
  const tables = await tablesOf(db)
  if (!tables.has(LEDGER)) {
    if (!tables.has(TABLE)) return sqliteMigrations
    // Another process may have migrated between our two reads, or be doing it: then the ledger is there by now.
    if ((await tablesOf(db)).has(LEDGER)) return pendingOn(db)
    throw tableWithoutLedger(
      'or is a file of it, which this driver cannot adopt: adopt it with sqliteKeyStore({ path, adopt: true })',
    )
  }
  const { rows } = await db.run({ sql: `select tag, sha256 from ${LEDGER} order by tag`, params: [] })
  const ledger = rows.map(([tag, sha256]): LedgerRow => ({ tag: String(tag), sha256: String(sha256) }))
  const pending = pendingMigrations(ledger, sqliteMigrations)
  if (pending.length < sqliteMigrations.length && !tables.has(TABLE) && !(await tablesOf(db)).has(TABLE))
    throw tableDropped()
  // They rebuild the table, for which foreign keys must be off. Asynchronous drivers cannot turn them off for one transaction.
  if (!pending.every(({ tag }) => RULES.has(tag))) {
    throw schemaError(
      `The database lacks migrations that rebuild ${TABLE}: open the file once with sqliteKeyStore({ path }), or move the keys with copyKeys`,
    )
  }
  return pending
}

function statementsOf(pending: readonly Migration[]): BoundStatement[] {
  const appliedAt = new Date().toISOString()
  const create = `create table if not exists ${LEDGER} (
    tag text primary key not null, sha256 text not null, applied_at text not null)`
  const record = `insert into ${LEDGER} (tag, sha256, applied_at) values (?, ?, ?)`
  return [
    { sql: create, params: [] },
    ...pending.map(({ tag, sha256 }) => ({ sql: record, params: [tag, sha256, appliedAt] })),
    ...pending
      .flatMap(({ statements }) => statements)
      // Pragmas have no effect inside a transaction, and D1 refuses most of them.
      .filter((sql) => !/^\s*pragma\b/i.test(sql))
      .map((sql) => ({ sql, params: [] })),
  ]
}

/** Which of our two tables there are. */
async function tablesOf(db: AsyncSqlite): Promise<ReadonlySet<string>> {
  const sql = 'select name from sqlite_master where name in (?, ?) collate nocase'
  const { rows } = await db.run({ sql, params: [TABLE, LEDGER] })
  return new Set(rows.map(([name]) => String(name).toLowerCase()))
}

async function hasEveryColumn(db: AsyncSqlite): Promise<boolean> {
  const { rows } = await db.run({ sql: 'select name from pragma_table_info(?)', params: [TABLE] })
  const names = new Set(rows.map(([name]) => name))
  return Object.values(encryptionKeysDeclaration.columns).every(({ name }) => names.has(name))
}
