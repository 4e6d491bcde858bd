/**
 * Decides which migrations a database needs. The dialects apply them, each in one transaction under a lock.
 *
 * This replaces Drizzle's migrator, which fails when several processes start on a fresh database at once, shares one ledger with
 * the host application, and reads a folder at run time, which bundlers break.
 */
import { invalidArgument, type KeystoreError, printable, StoreError, schemaError } from '../errors.js'
import type { Migration } from './generated/migrations.js'

/** Our ledger table, not shared with the host application: one row for each applied migration, with its tag and the SHA-256 of its SQL. */
export const LEDGER = '__drizzle_keystore_migrations'

/**
 * What opening a store does about migrations.
 *
 * - `auto`: applies the missing ones. Reads the ledger first; when none is missing it takes no lock and issues no DDL
 * - `check`: throws ERR_SCHEMA when one is missing
 * - `off`: checks nothing; your own migrations make the table
 */
export type MigrateMode = 'auto' | 'check' | 'off'

/** @throws ERR_INVALID_ARGUMENT unless one of the three, or undefined */
export function assertMigrateMode(mode: unknown): void {
  if (mode !== undefined && mode !== 'auto' && mode !== 'check' && mode !== 'off')
    throw invalidArgument("migrate must be 'auto', 'check' or 'off'")
}

export interface LedgerRow {
  readonly tag: string
  readonly sha256: string
}

/** What opening a store did to its schema. */
export interface MigrationReport {
  /** The tags of the migrations that this call applied. */
  readonly applied: readonly string[]
  /** How many rows of the Python reference this call adopted; null unless it adopted a file. */
  readonly adopted: number | null
}

export const NOTHING_APPLIED: MigrationReport = { applied: [], adopted: null }

/**
 * The migrations that are not in the ledger.
 *
 * @throws ERR_SCHEMA if the ledger has a migration that this version of the library does not know, or whose SQL differs
 */
export function pendingMigrations(
  ledger: readonly LedgerRow[],
  migrations: readonly Migration[],
): readonly Migration[] {
  const known = new Map(migrations.map((migration) => [migration.tag, migration]))
  for (const { tag, sha256 } of ledger) {
    const migration = known.get(tag)
    if (migration === undefined) {
      throw schemaError(
        `The database has migration ${printable(tag)}, which this version of drizzle-keystore does not know: ` +
          'upgrade the package to the version that made it',
      )
    }
    if (migration.sha256 !== sha256) {
      throw schemaError(
        `Migration ${printable(tag)} in the database was made from other SQL than the one in this version of drizzle-keystore: ` +
          `compare ${LEDGER} with the package's migrations folder, and restore a backup if the table was altered by hand`,
      )
    }
  }
  const applied = new Set(ledger.map(({ tag }) => tag))
  const pending = migrations.filter(({ tag }) => !applied.has(tag))
  if (
    pending.some((migration, index) => migration !== migrations[migrations.length - pending.length + index])
  ) {
    throw schemaError(
      `${LEDGER} has a gap: restore a backup, or compare the table with the package's migrations folder`,
    )
  }
  return pending
}

/** The end of a message, which the command line leaves out: it has no such option. */
export const OR_MIGRATE_AUTO = ", or open it with migrate: 'auto'"

/** Whether our table is missing, because its first migration is. @param tags of the pending migrations */
export function lacksTable(tags: readonly string[]): boolean {
  return tags.some((tag) => tag.startsWith('0000_'))
}

/** What else a missing table may mean. */
export const IF_TABLES_WERE_DROPPED =
  'If the store had keys, its tables were dropped, as `drizzle-kit push` does with tables that neither the schema nor tablesFilter names: ' +
  'then restore a backup, because a migration would make an empty table, and no token could be decrypted'

/** The error for a database whose ledger says that our table was made, and which has no such table. */
export function tableDropped(): Error {
  return schemaError(
    `The database has ${LEDGER}, but no table encryption_keys any more: it was dropped, as \`drizzle-kit push\` does with tables that neither ` +
      `the schema nor tablesFilter names. Restore a backup. Only if the store had no keys: drop ${LEDGER} too, and migrate anew`,
  )
}

/** ERR_SCHEMA of a database that lacks migrations. */
export class PendingMigrationsError extends StoreError {
  readonly tags: readonly string[]

  constructor(pending: readonly Migration[], toDo = `run \`npx keystore migrate\`${OR_MIGRATE_AUTO}`) {
    const tags = pending.map(({ tag }) => tag)
    const lost = lacksTable(tags) ? `. ${IF_TABLES_WERE_DROPPED}` : ''
    super(`The database lacks migrations (${tags.join(', ')}): ${toDo}${lost}`, { code: 'ERR_SCHEMA' })
    this.tags = tags
  }
}

/** The same ERR_STORE, which says what to do if a statement failed because the table is not there, as with `migrate: 'off'` before the application's migrations have run. */
export function missingTable(error: KeystoreError): KeystoreError {
  if (error.code !== 'ERR_STORE' || !NO_TABLE.test(error.message)) return error
  return new StoreError(
    `${error.message}. With migrate: 'off' the application's own migrations make the table; else run \`npx keystore migrate\`${OR_MIGRATE_AUTO}. ` +
      IF_TABLES_WERE_DROPPED,
    { cause: error.cause },
  )
}

/** Of SQLite, and of Postgres (42P01: undefined_table). */
const NO_TABLE = /no such table: (main\.)?encryption_keys\b|SQLSTATE 42P01: .*\bencryption_keys\b/

/** @param toDo where the command cannot apply them @throws ERR_SCHEMA in mode `check` if a migration is pending */
export function refuseInCheckMode(mode: MigrateMode, pending: readonly Migration[], toDo?: string): void {
  if (mode === 'check' && pending.length > 0) throw new PendingMigrationsError(pending, toDo)
}

/**
 * The error for a database that has a table `encryption_keys` and no ledger.
 *
 * @param found how the table differs from the Python reference's
 */
export function tableWithoutLedger(found: string): Error {
  return schemaError(
    `The database has a table encryption_keys, but not ${LEDGER}, and no earlier implementation made the table (${found}). ` +
      "If your own migrations made it from drizzle-keystore's schema, it must have all columns, and the application opens it with migrate: " +
      "'off'; if it is of another program, use another database or, on Postgres, another schema. Nothing was changed",
  )
}
