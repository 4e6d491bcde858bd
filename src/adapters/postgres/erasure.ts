/** Removes erased bytes from the files of a Postgres table. */
import { type SQL, sql } from 'drizzle-orm'
import type { Deadline } from '../../drivers/deadline.js'
import { describeDriverError } from '../../drivers/driver-error.js'
import { retryingPostgres } from '../../drivers/retry.js'
import { isKeystoreError, StoreError } from '../../errors.js'
import type { ErasureState } from '../../store.js'
import { encryptionKeysDeclaration as declaration } from '../../table.js'
import { ERASED, FINISH_ERASURE, pendingErasure } from '../erasure.js'
import { castTo, DIFFERS, EQUALS, GREATER, MAKE_DURABLE } from './catalog.js'
import type { PostgresConnection } from './connection.js'
import { copiersOf } from './copiers.js'
import {
  type FamilyTable,
  familyOf,
  familyTables,
  quotedTable,
  type TableName,
  tableLiteral,
} from './family.js'
import { NO_SAMPLES, type RunSql, setLockTimeout } from './migrate.js'
import { isLocked, LOCK_NOT_AVAILABLE } from './statements/decode.js'

/** How long to wait for a table's lock. Whoever asks for the table later waits behind us. */
const LOCK_TIMEOUT_MS = 2000
/** The same while there are other tables to be rewritten meanwhile. */
const SHORT_LOCK_TIMEOUT_MS = 100

/**
 * Rewrites the table without the bytes of old rows. A plain VACUUM leaves them in the free space of the pages. CLUSTER rewrites the
 * table, as VACUUM FULL does, but also runs inside a transaction, where a lock_timeout can be set behind any pooler. On a partitioned table
 * it does not (25001), but on each partition. Each step has the time of a call: there may be many partitions.
 */
export async function finishPostgresErasure(
  connection: PostgresConnection,
  schema: string,
): Promise<Required<ErasureState>> {
  connection.assertOpen()
  if (connection.transactional) {
    return pendingErasure(
      `The store is bound to a transaction, in which nothing is erased: ${FINISH_ERASURE}`,
    )
  }
  const run: RunSql = (query) => connection.query('finish the erasure', query)
  // Every transaction that erased something before this call has a lower id.
  const [snapshot] = await run(
    sql`select pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text as xid`,
  )
  let tables: FamilyTable[] = []
  try {
    await waitForOlderTransactions(connection, String(snapshot?.xid), connection.newDeadline())
    tables = await familyTables(run, schema)
    if (tables.length === 0)
      return pendingErasure(`There is no table ${quotedTable({ schema, name: declaration.name })}`)
    await rewriteAll(connection, tables)
  } catch (error) {
    if (!isKeystoreError(error)) throw error
    return pendingErasure(`${error.message}: ${FINISH_ERASURE}`)
  }
  const samples = await sampledTables(run, schema)
  const copies = await copiersOf(run, schema)
  if (copies !== null) return pendingErasure(`${copies}. Then ${FINISH_ERASURE}`)
  const left = tables.find(({ hasRows, index }) => hasRows && index === null)
  if (left !== undefined) return pendingErasure(cannotRewrite(left))
  if (samples.length === 0) return ERASED
  const named = samples.map((table) => `${tableLiteral(table)}::regclass`).join(', ')
  const condition = samples.length === 1 ? `= ${named}` : `in (${named})`
  return pendingErasure(
    `ANALYZE has copied some wrapped keys into pg_statistic. A superuser must \`delete from pg_statistic where starelid ` +
      `${condition}\` and \`vacuum full pg_statistic\`; then ${FINISH_ERASURE}`,
  )
}

/**
 * One by one: whoever uses another partition need not wait. Those that are locked come last.
 *
 * @throws ERR_STORE, which names a table that is left
 */
async function rewriteAll(connection: PostgresConnection, tables: readonly FamilyTable[]): Promise<void> {
  let left = tables.filter((table) => changesOf(table).length > 0)
  const rewriteLeft = async (lockTimeoutMs: number) => {
    const locked: FamilyTable[] = []
    let failure: unknown = null
    for (const table of left) {
      try {
        await rewrite(connection, table, lockTimeoutMs)
      } catch (error) {
        if (!isLocked(error)) throw error
        failure ??= error
        locked.push(table)
      }
    }
    left = locked
    if (failure !== null) throw failure
  }
  try {
    if (left.length > 1) await rewriteLeft(SHORT_LOCK_TIMEOUT_MS).catch(unlessLocked)
    const deadline = connection.newDeadline()
    const waitForLocks = () => {
      const share = deadline.remainingMs / Math.max(1, left.length)
      return rewriteLeft(Math.max(SHORT_LOCK_TIMEOUT_MS, Math.min(LOCK_TIMEOUT_MS, share)))
    }
    await retryingPostgres(deadline, waitForLocks, isLocked)
  } catch (error) {
    if (!isKeystoreError(error) || !isLocked(error) || left.length < 2) throw error
    throw new StoreError(`${error.message}, and ${left.length - 1} more that are locked`, {
      cause: error,
      retryable: true,
    })
  }
}

function unlessLocked(error: unknown): void {
  if (!isLocked(error)) throw error
}

async function rewrite(
  connection: PostgresConnection,
  table: FamilyTable,
  lockTimeoutMs: number,
): Promise<void> {
  const statements = [setLockTimeout(lockTimeoutMs), sql`select ${MAKE_DURABLE}`, ...changesOf(table)]
  await connection.batch(`rewrite the table ${quotedTable(table)}`, statements, {
    mayTakeLong: true,
    isTransient: (error) => {
      const { code, transient } = describeDriverError(error)
      return transient && code !== LOCK_NOT_AVAILABLE
    },
  })
}

function changesOf({ schema, name, hasRows, index, isSampled }: FamilyTable): SQL[] {
  const table = sql`${sql.identifier(schema)}.${sql.identifier(name)}`
  const noSamples = isSampled ? [sql`alter table only ${table} ${NO_SAMPLES}`] : []
  if (!hasRows || index === null) return noSamples
  return [
    ...noSamples,
    sql`cluster ${table} using ${sql.identifier(index)}`,
    // CLUSTER marks the table as clustered. Whether it is to be is the owner's choice.
    sql`alter table ${table} set without cluster`,
  ]
}

function cannotRewrite(table: TableName): string {
  return (
    `The table ${quotedTable(table)} cannot be rewritten, since it is on another server or has no index: if it is here, run ` +
    `\`vacuum full ${quotedTable(table)}\` and give it a primary key (user_id, version); then ${FINISH_ERASURE}`
  )
}

/** The tables of the family of which ANALYZE has kept samples of wrapped keys: of a partitioned one also as a whole. */
async function sampledTables(run: RunSql, schema: string): Promise<TableName[]> {
  const rows = await run(sql`with recursive ${familyOf(schema)}
    select distinct n.nspname${castTo('text')} as schema, c.relname${castTo('text')} as name from family f
      join pg_catalog.pg_class c on c.oid ${EQUALS} f.oid join pg_catalog.pg_namespace n on n.oid ${EQUALS} c.relnamespace
      join pg_catalog.pg_stats s on s.schemaname ${EQUALS} n.nspname and s.tablename ${EQUALS} c.relname
      where s.attname ${EQUALS} ${declaration.columns.encryptedKey.name} order by 1, 2`)
  return rows.map((row) => ({ schema: String(row.schema), name: String(row.name) }))
}

/**
 * Waits until no transaction may still see rows that were erased before `xid`: a rewrite would keep those rows. The server decides by
 * the snapshots of this database's sessions, of standbys that give feedback, and of the rewrite itself. That one takes every transaction
 * of the server for running that has an id, in whichever database it is, prepared ones too.
 *
 * @throws ERR_STORE, which names them, if there still are some at the deadline
 */
async function waitForOlderTransactions(
  connection: PostgresConnection,
  xid: string,
  deadline: Deadline,
): Promise<void> {
  const isTransient = (error: unknown) => isKeystoreError(error) && error.retryable
  let held: StoreError | null = null
  const assertNone = async () => {
    const asked = connection.query(
      'finish the erasure',
      sql`select pg_catalog.pg_current_xact_id_if_assigned() is not null as inside,
          pg_catalog.string_agg(distinct holder, ', ') as holders from (
        select pg_catalog.concat('process ', pid) as holder,
            pg_catalog.unnest(array[backend_xid, case when datname ${EQUALS} pg_catalog.current_database() or datname is null then backend_xmin end]) as xid
          from pg_catalog.pg_stat_activity where pid ${DIFFERS} pg_catalog.pg_backend_pid()
        union all select pg_catalog.concat('replication slot ', slot_name), xmin from pg_catalog.pg_replication_slots
        union all select 'a prepared transaction', transaction from pg_catalog.pg_prepared_xacts
      ) as held where pg_catalog.age(xid) ${GREATER} pg_catalog.age(${xid}::pg_catalog.xid8::pg_catalog.xid)`,
      { deadline },
    )
    // The last question may have been asked just before the deadline.
    const [found] = await asked.catch((error) => {
      throw held !== null && deadline.isOver ? held : error
    })
    // A transaction of the application's on this connection keeps the snapshots of others old. The rewrite is refused in it.
    if (found?.inside === true || typeof found?.holders !== 'string') return
    held = new StoreError(
      `The key store could not rewrite the table: older transactions may still see the erased rows (${found.holders})`,
      { retryable: true },
    )
    throw held
  }
  await retryingPostgres(deadline, assertNone, isTransient)
}
