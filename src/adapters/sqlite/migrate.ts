/** Migrates a SQLite database, and adopts files of the Python reference. Synchronous, because better-sqlite3 is. */

import type { SqliteClient } from '../../drivers/sqlite-client.js'
import { withoutBusyTimeout } from '../../drivers/sqlite-locks.js'
import { isKeystoreError, schemaError } from '../../errors.js'
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
import type { SqliteKeyStoreOptions } from '../options.js'
import { countAdoptableRows, differenceFromReference, referenceDigest } from './adopt-reference.js'

const TABLE = encryptionKeysDeclaration.name
const [referenceMigration] = sqliteMigrations

interface SqliteMigrationOptions extends Required<Pick<SqliteKeyStoreOptions, 'adopt'>> {
  readonly mode: Exclude<MigrateMode, 'off'>
}

/**
 * Brings the table up to date. Reads the ledger first: when no migration is missing it takes no lock.
 *
 * @throws ERR_SCHEMA · the driver's errors, such as SQLITE_BUSY, after which the caller may try again
 */
export function migrateSqlite(client: SqliteClient, options: SqliteMigrationOptions): MigrationReport {
  const { pending } = plan(client, options)
  if (pending.length === 0) return NOTHING_APPLIED
  refuseInCheckMode(options.mode, pending)

  // Else the rebuild of the table would cascade into the host's child tables. Inside a transaction the pragma has no effect.
  const foreignKeys = client.pragma('foreign_keys', { simple: true })
  client.pragma('foreign_keys = OFF')
  try {
    return withoutBusyTimeout(client, () => client.transaction(() => apply(client, options)).immediate())
  } finally {
    client.pragma(`foreign_keys = ${foreignKeys}`)
  }
}

/** Throws what {@link migrateSqlite} would throw, and changes nothing: a read-only connection is enough. */
export function checkSqlite(client: SqliteClient, options: SqliteMigrationOptions): void {
  refuseInCheckMode(options.mode, plan(client, options).pending)
}

/**
 * What is wrong with the schema, or null: missing migrations, for example. A table that the host's own migrations made has no
 * ledger; it is in order if it has all columns.
 */
export function schemaProblem(client: SqliteClient, mode: MigrateMode): string | null {
  if (mode === 'off' && !tableExists(client, LEDGER) && hasEveryColumn(client)) return null
  try {
    checkSqlite(client, { mode: 'check', adopt: false })
    return null
  } catch (error) {
    if (isKeystoreError(error) && error.code === 'ERR_SCHEMA') return error.message
    throw error
  }
}

/** Whether the migrations that a database lacks, one or more, only add rules for new rows: its rows can be read as they are. */
export function lacksOnlyRules(client: SqliteClient): boolean {
  if (!tableExists(client, LEDGER)) return false
  try {
    const { pending } = plan(client, { mode: 'check', adopt: false })
    return pending.length > 0 && pending.every(({ tag }) => RULES.has(tag))
  } catch {
    return false
  }
}

/** Migrations that change no column and no row. */
export const RULES: ReadonlySet<string> = new Set(['0003_user_ids', '0004_keks_of_users'])

function hasEveryColumn(client: SqliteClient): boolean {
  const found = client.prepare('select name from pragma_table_info(?)').all(TABLE) as { name: string }[]
  const names = new Set(found.map(({ name }) => name))
  return Object.values(encryptionKeysDeclaration.columns).every(({ name }) => names.has(name))
}

interface Plan {
  readonly pending: readonly Migration[]
  readonly adopting: boolean
}

function plan(client: SqliteClient, options: SqliteMigrationOptions): Plan {
  if (tableExists(client, LEDGER)) {
    const ledger = client.prepare(`select tag, sha256 from ${LEDGER} order by tag`).all() as LedgerRow[]
    const pending = pendingMigrations(ledger, sqliteMigrations)
    if (pending.length < sqliteMigrations.length && !tableExists(client, TABLE)) throw tableDropped()
    return { pending, adopting: false }
  }
  try {
    return planWithoutLedger(client, options)
  } catch (error) {
    // Another process may have adopted the file between two of our reads, which then saw two different tables.
    if (tableExists(client, LEDGER)) return plan(client, options)
    throw error
  }
}

function planWithoutLedger(client: SqliteClient, { adopt }: SqliteMigrationOptions): Plan {
  if (!tableExists(client, TABLE)) return { pending: sqliteMigrations, adopting: false }
  const difference = differenceFromReference(client)
  if (difference !== null) throw tableWithoutLedger(difference)
  const rows = countAdoptableRows(client)
  if (!adopt) throw adoptionNotAllowed(rows)
  return { pending: sqliteMigrations.filter((migration) => migration !== referenceMigration), adopting: true }
}

/** Runs inside the transaction. Plans again: another process may have migrated before we got the lock. */
function apply(client: SqliteClient, options: SqliteMigrationOptions): MigrationReport {
  const { pending, adopting } = plan(client, options)
  if (pending.length === 0) return NOTHING_APPLIED
  client.exec(`create table if not exists ${LEDGER} (
    tag text primary key not null, sha256 text not null, applied_at text not null)`)
  const record = client.prepare(`insert into ${LEDGER} (tag, sha256, applied_at) values (?, ?, ?)`)
  const appliedAt = new Date().toISOString()
  const before = adopting ? referenceDigest(client) : null
  if (adopting) clearFreePages(client)
  if (adopting && referenceMigration) record.run(referenceMigration.tag, referenceMigration.sha256, appliedAt)

  for (const { tag, sha256, statements } of pending) {
    for (const statement of statements) client.exec(statement)
    record.run(tag, sha256, appliedAt)
  }

  if (before !== null) {
    const after = referenceDigest(client)
    if (after.rows !== before.rows || after.digest !== before.digest) {
      throw schemaError(
        'Adoption was rolled back: the rebuilt table does not hold the same rows. Nothing was changed',
      )
    }
  }
  const broken = client
    .prepare('select count(*) as n from pragma_foreign_key_check where parent = ?')
    .get(TABLE)
  if ((broken as { n: number }).n > 0) {
    throw schemaError(`Rows of other tables refer to keys that ${TABLE} does not have. Nothing was changed`)
  }
  return { applied: pending.map(({ tag }) => tag), adopted: before?.rows ?? null }
}

/**
 * Fills the file's free pages and frees them again. The reference runs without `secure_delete`, so that they still hold keys that
 * it replaced or deleted. With `secure_delete`, which connections of ours have, SQLite zeroes pages as they become free; those of
 * the reference's table are zeroed when it is dropped.
 */
function clearFreePages(client: SqliteClient): void {
  const pageBytes = client.pragma('page_size', { simple: true }) as number
  let pages = client.pragma('freelist_count', { simple: true }) as number
  client.exec(`create table ${SCRATCH} (bytes blob)`)
  const fill = client.prepare(`insert into ${SCRATCH} values (zeroblob(?))`)
  for (; pages > 0; pages -= PAGES_AT_ONCE) fill.run(Math.min(pages, PAGES_AT_ONCE) * pageBytes)
  client.exec(`drop table ${SCRATCH}`)
}

const SCRATCH = '__drizzle_keystore_scratch'
/** One value fills them: it may have up to 1,000,000,000 bytes, and a page up to 65,536. */
const PAGES_AT_ONCE = 10_000

function tableExists(client: SqliteClient, table: string): boolean {
  return client.prepare('select 1 from sqlite_master where name = ? collate nocase').get(table) !== undefined
}

function adoptionNotAllowed(rows: number): Error {
  return schemaError(
    `This file holds ${rows} keys of the Python reference. To take it over, make a backup of it and open it with ` +
      '`adopt: true` (on the command line: --adopt). That rebuilds the table in one transaction and keeps every key. ' +
      "A Python process that goes on using the file keeps working as long as this library writes format: 'v2'; " +
      'what is written in v3 it cannot read. Nothing was changed',
  )
}
