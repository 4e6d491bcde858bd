/** Migrates a Postgres schema: one transaction under an advisory lock, for a role with rights on that schema only. */
import { type SQL, sql } from 'drizzle-orm'
import { isKeystoreError } from '../../errors.js'
import { encryptionKeysDeclaration } from '../../table.js'
import { type Migration, postgresMigrations } from '../generated/migrations.js'
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
import { castTo, EQUALS, MAKE_DURABLE } from './catalog.js'
import { assertHolds } from './one-statement.js'

/** Runs one statement. @returns its rows */
export type RunSql = (query: SQL) => Promise<readonly Record<string, unknown>[]>

/** How a migration reaches the database. */
interface MigrationAccess {
  readonly run: RunSql
  /** Runs `work` in one transaction. Null on a connection that the application uses too. */
  readonly transaction: (<T>(work: (run: RunSql) => Promise<T>) => Promise<T>) | null
  /** Runs statements in one transaction, at the level "read committed". */
  batch(statements: readonly SQL[]): Promise<void>
}

/** The two keys of our advisory lock: the first four bytes of SHA-256("drizzle-keystore") as a signed integer, and the lock's number. */
const LOCK_CLASS = 23_301_334
const MIGRATION_LOCK = 1
/** The settings of Postgres are of 32 bits. */
const MAX_LOCK_TIMEOUT_MS = 2 ** 31 - 1

/** A migration whose commit was not answered, if there was one: it may have been committed all the same. */
export interface UnansweredMigration {
  /** The id of its transaction, and what it applied. */
  last: { readonly xid: string; readonly report: MigrationReport } | null
}

/**
 * Brings the table up to date. Reads the ledger first: when no migration is missing it takes no lock.
 *
 * The lock belongs to the transaction: one of the session would leak through a pooler in transaction mode.
 *
 * @throws ERR_SCHEMA · the driver's errors, such as 55P03 (lock timeout), after which the caller may try again
 */
export async function migratePostgres(
  access: MigrationAccess,
  options: {
    readonly schema: string
    readonly mode: Exclude<MigrateMode, 'off'>
    /** How long the transaction may still wait for a lock. */
    lockTimeoutMs(): number
    /** Of earlier attempts. */
    readonly unanswered: UnansweredMigration
  },
): Promise<MigrationReport> {
  const { schema, mode, unanswered } = options
  const { run, transaction } = access
  const pending = await plan(run, schema)
  if (pending.length === 0) return committedBefore(run, unanswered)
  refuseInCheckMode(mode, pending, toDoIn(schema))
  const locking = [
    setLockTimeout(options.lockTimeoutMs()),
    sql`select ${MAKE_DURABLE}`,
    sql`select pg_catalog.pg_advisory_xact_lock(${LOCK_CLASS}::int, ${MIGRATION_LOCK}::int)`,
  ]
  if (transaction === null) {
    const { prepare, migrate } = statementsOf(pending, schema, await hasSchema(run, schema))
    await access.batch([...locking, ...prepare, assertPending(pending, schema), ...migrate])
    return reportOf(pending)
  }
  const report = await transaction(async (runInside) => {
    // A stricter level, if it is the server's default, would keep the snapshot from before the wait for the lock.
    await runInside(sql`set transaction isolation level read committed`)
    for (const statement of locking) await runInside(statement)
    const applied = await apply(runInside, schema)
    const [transaction] = await runInside(sql`select pg_catalog.pg_current_xact_id()${castTo('text')} as xid`)
    unanswered.last = { xid: String(transaction?.xid), report: applied }
    return applied
  })
  unanswered.last = null
  return report
}

/** What an earlier attempt applied whose answer was lost. If another process applied it, nothing. */
async function committedBefore(run: RunSql, { last }: UnansweredMigration): Promise<MigrationReport> {
  if (last === null) return NOTHING_APPLIED
  const [found] = await run(sql`select pg_catalog.pg_xact_status(${last.xid}::pg_catalog.xid8) as status`)
  return found?.status === 'committed' ? last.report : NOTHING_APPLIED
}

/** Bounds each wait for a lock until the end of the transaction. */
export function setLockTimeout(ms: number): SQL {
  return sql.raw(`set local lock_timeout = ${Math.min(Math.max(1, Math.round(ms)), MAX_LOCK_TIMEOUT_MS)}`)
}

/** Keeps ANALYZE from copying wrapped keys into pg_statistic, where they would outlive a shred. drizzle-kit cannot express it. */
function disableSampling(schema: string): SQL {
  return sql`alter table ${sql.identifier(schema)}.${sql.identifier(encryptionKeysDeclaration.name)} ${NO_SAMPLES}`
}

/** To follow `alter table …`. */
export const NO_SAMPLES = sql`alter column ${sql.identifier(encryptionKeysDeclaration.columns.encryptedKey.name)} set statistics 0`

/** The command works on the schema public. */
function toDoIn(schema: string): string | undefined {
  if (schema === 'public') return undefined
  return `open the store once with { schema: ${JSON.stringify(schema)}, migrate: 'auto' }, as when you deploy`
}

/**
 * What is wrong with the schema, or null: missing migrations, for example. A table that the host's own migrations made has no
 * ledger; it is in order if it has all columns.
 */
export async function schemaProblem(run: RunSql, schema: string, mode: MigrateMode): Promise<string | null> {
  try {
    if (mode === 'off' && (await isHostTable(run, schema))) return null
    const pending = await plan(run, schema)
    if (pending.length > 0) refuseInCheckMode('check', pending, toDoIn(schema))
    return null
  } catch (error) {
    if (isKeystoreError(error) && error.code === 'ERR_SCHEMA') return error.message
    throw error
  }
}

async function isHostTable(run: RunSql, schema: string): Promise<boolean> {
  const names = Object.values(encryptionKeysDeclaration.columns).map(({ name }) => name)
  const isNamed = sql.join(
    names.map((name) => sql`${name}`),
    sql`, `,
  )
  const [found] = await run(sql`select pg_catalog.count(*)::int as columns from information_schema.columns
    where table_schema ${EQUALS} ${schema} and table_name ${EQUALS} ${encryptionKeysDeclaration.name}
      and column_name ${EQUALS} any (array[${isNamed}]${castTo('text[]')})
      and not exists (select 1 from information_schema.tables
        where table_schema ${EQUALS} ${schema} and table_name ${EQUALS} ${LEDGER})`)
  return found?.columns === names.length
}

async function plan(run: RunSql, schema: string) {
  // Not to_regclass: it reads the session's cache, which waiting for our lock does not refresh, and so may miss what the process
  // that had the lock made.
  const exists = (
    table: string,
  ) => sql`exists (select 1 from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid ${EQUALS} c.relnamespace
    where n.nspname ${EQUALS} ${schema} and c.relname ${EQUALS} ${table})`
  const [found] = await run(
    sql`select ${exists(LEDGER)} as ledger, ${exists(encryptionKeysDeclaration.name)} as "table"`,
  )
  if (found?.ledger !== true) {
    if (found?.table === true) throw tableWithoutLedger('Postgres has none')
    return postgresMigrations
  }
  const ledger = await run(
    sql`select tag, sha256 from ${sql.identifier(schema)}.${sql.identifier(LEDGER)} order by tag`,
  )
  const rows: LedgerRow[] = ledger.map(({ tag, sha256 }) => ({ tag: String(tag), sha256: String(sha256) }))
  const pending = pendingMigrations(rows, postgresMigrations)
  if (pending.length < postgresMigrations.length && found.table !== true) throw tableDropped()
  return pending
}

/** Runs under the lock. Plans again: another process may have migrated before we got the lock. */
async function apply(run: RunSql, schema: string): Promise<MigrationReport> {
  const pending = await plan(run, schema)
  if (pending.length === 0) return NOTHING_APPLIED
  const { prepare, migrate } = statementsOf(pending, schema, await hasSchema(run, schema))
  for (const statement of [...prepare, ...migrate]) await run(statement)
  return reportOf(pending)
}

async function hasSchema(run: RunSql, schema: string): Promise<boolean> {
  const [found] = await run(sql`select 1 from pg_catalog.pg_namespace where nspname ${EQUALS} ${schema}`)
  return found !== undefined
}

/** @returns what makes the ledger, and what migrates */
function statementsOf(
  pending: readonly Migration[],
  schema: string,
  schemaExists: boolean,
): { readonly prepare: readonly SQL[]; readonly migrate: readonly SQL[] } {
  const ledger = ledgerOf(schema)
  const prepare = [
    // "if not exists" would need the right to create schemas even if the schema exists.
    ...(schemaExists ? [] : [sql`create schema if not exists ${sql.identifier(schema)}`]),
    // The generated SQL does not name the schema. pg_catalog, which the path does not name either, comes before it. The setting ends with
    // this transaction.
    sql`select pg_catalog.set_config('search_path', pg_catalog.quote_ident(${schema}), true)`,
    sql`create table if not exists ${ledger} (
      tag pg_catalog.text primary key, sha256 pg_catalog.text not null,
      applied_at timestamp with time zone not null default pg_catalog.now())`,
  ]
  const migrate = pending.flatMap(({ tag, sha256, statements }) => [
    ...statements.map((statement) => sql.raw(statement)),
    sql`insert into ${ledger} (tag, sha256) values (${tag}, ${sha256})`,
  ])
  return { prepare, migrate: [...migrate, disableSampling(schema)] }
}

/** Another process may have migrated before we got the lock. */
function assertPending(pending: readonly Migration[], schema: string): SQL {
  const applied = postgresMigrations.length - pending.length
  return assertHolds(sql`(select pg_catalog.count(*) from ${ledgerOf(schema)}) ${EQUALS} ${applied}`)
}

function ledgerOf(schema: string): SQL {
  return sql`${sql.identifier(schema)}.${sql.identifier(LEDGER)}`
}

function reportOf(pending: readonly Migration[]): MigrationReport {
  return { applied: pending.map(({ tag }) => tag), adopted: null }
}
