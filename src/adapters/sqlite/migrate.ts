/** Migrates a SQLite database, and adopts a file of the Python reference on the way. Synchronous, as better-sqlite3 is. */

import type { SqliteClient } from '../../drivers/sqlite-client.js'
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
  tableWithoutLedger,
} from '../migrator.js'
import { adoptableRows, differenceFromReference, referenceDigest } from './adopt-reference.js'

const TABLE = encryptionKeysDeclaration.name
const [referenceMigration] = sqliteMigrations

export interface SqliteMigrationOptions {
  readonly mode: Exclude<MigrateMode, 'off'>
  /** Adopt a file of the Python reference. */
  readonly adopt: boolean
}

/**
 * Brings the table up to date. Reads the ledger first: when nothing is missing it takes no lock.
 *
 * @throws ERR_SCHEMA · the driver's own errors, SQLITE_BUSY among them: the caller tries again
 */
export function migrateSqlite(client: SqliteClient, options: SqliteMigrationOptions): MigrationReport {
  const { pending } = plan(client, options)
  if (pending.length === 0) return NOTHING_APPLIED
  refuseInCheckMode(options.mode, pending)

  // Inside a transaction this pragma does nothing, and a rebuild would then cascade into the host's child tables.
  const foreignKeys = client.pragma('foreign_keys', { simple: true })
  client.pragma('foreign_keys = OFF')
  try {
    return client.transaction(() => apply(client, options)).immediate()
  } finally {
    client.pragma(`foreign_keys = ${foreignKeys}`)
  }
}

/** Looks and throws like {@link migrateSqlite}, but changes nothing: a read-only connection will do. */
export function checkSqlite(client: SqliteClient, options: SqliteMigrationOptions): void {
  refuseInCheckMode(options.mode, plan(client, options).pending)
}

/** What {@link checkSqlite} would refuse. Of a table of the host's own migrations, which has no ledger, the columns count. */
export function schemaProblem(client: SqliteClient, mode: MigrateMode): string | null {
  if (mode === 'off' && !exists(client, LEDGER) && hasEveryColumn(client)) return null
  try {
    checkSqlite(client, { mode: 'check', adopt: false })
    return null
  } catch (error) {
    if (isKeystoreError(error) && error.code === 'ERR_SCHEMA') return error.message
    throw error
  }
}

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
  if (exists(client, LEDGER)) {
    const ledger = client.prepare(`select tag, sha256 from ${LEDGER} order by tag`).all() as LedgerRow[]
    return { pending: pendingMigrations(ledger, sqliteMigrations), adopting: false }
  }
  try {
    return planWithoutLedger(client, options)
  } catch (error) {
    // Another process may have adopted the file between two looks, one of which then saw a table that is neither's.
    if (exists(client, LEDGER)) return plan(client, options)
    throw error
  }
}

function planWithoutLedger(client: SqliteClient, { adopt }: SqliteMigrationOptions): Plan {
  if (!exists(client, TABLE)) return { pending: sqliteMigrations, adopting: false }
  const difference = differenceFromReference(client)
  if (difference !== null) throw tableWithoutLedger(difference)
  const rows = adoptableRows(client)
  if (!adopt) throw adoptionNotAllowed(rows)
  return { pending: sqliteMigrations.filter((migration) => migration !== referenceMigration), adopting: true }
}

/** Inside the transaction: what was read before the lock may have changed. */
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
 * What the reference replaced and deleted, without `secure_delete`, is still in the file's free pages. Where that is on, as
 * on a connection of ours, pages that are used and given back are zeroed; those of the old table are when it is dropped.
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
/** A value in SQLite holds 1,000,000,000 bytes at most, and a page up to 65,536. */
const PAGES_AT_ONCE = 10_000

function exists(client: SqliteClient, table: string): boolean {
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
