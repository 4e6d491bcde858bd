/** Removes erased bytes from the files of a Postgres table. */
import { sql } from 'drizzle-orm'
import { retryingPostgres } from '../../drivers/retry.js'
import { isKeystoreError, StoreError } from '../../errors.js'
import type { ErasureState } from '../../store.js'
import { encryptionKeysDeclaration as declaration } from '../../table.js'
import { ERASED, FINISH_ERASURE, pendingErasure } from '../erasure.js'
import type { PostgresConnection } from './connection.js'
import { disableSampling } from './migrate.js'

/** How long to wait for the table's lock. Whoever asks for the table later waits behind us. */
const LOCK_TIMEOUT_MS = 2000

/**
 * Rewrites the table without the bytes of old rows. A plain VACUUM leaves them in the free space of the pages. CLUSTER rewrites the
 * table, as VACUUM FULL does, but also runs inside a transaction, where a lock_timeout can be set behind any pooler.
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
  const table = sql`${sql.identifier(schema)}.${sql.identifier(declaration.name)}`
  // Every transaction that erased something before this call has a lower id.
  const [snapshot] = await connection.query(
    'finish the erasure',
    sql`select pg_snapshot_xmax(pg_current_snapshot())::text as xid`,
  )
  try {
    await waitForOlderTransactions(connection, String(snapshot?.xid))
    await connection.transaction('rewrite the table', async (run) => {
      await run(sql.raw(`set local lock_timeout = ${LOCK_TIMEOUT_MS}`))
      await run(disableSampling(schema))
      await run(sql`cluster ${table} using ${sql.identifier(declaration.primaryKey.name)}`)
      // CLUSTER marks the table as clustered. Whether it is to be is the owner's choice.
      await run(sql`alter table ${table} set without cluster`)
    })
  } catch (error) {
    if (!isKeystoreError(error)) throw error
    return pendingErasure(`${error.message}: ${FINISH_ERASURE}`)
  }
  const [samples] = await connection.query(
    'finish the erasure',
    sql`select 1 from pg_stats where schemaname = ${schema} and tablename = ${declaration.name}
      and attname = ${declaration.columns.encryptedKey.name}`,
  )
  if (samples === undefined) return ERASED
  return pendingErasure(
    `ANALYZE has copied some wrapped keys into pg_statistic. A superuser must \`delete from pg_statistic where starelid = ` +
      `'"${schema}".${declaration.name}'::regclass\` and \`vacuum full pg_statistic\`; then ${FINISH_ERASURE}`,
  )
}

/**
 * Waits until no transaction may still see rows that were erased before `xid`: a rewrite would keep those rows. The server decides by
 * the snapshots of this database's sessions, our own included, and of standbys that give feedback. A snapshot begins with the oldest
 * transaction that runs or is prepared in any database (GetSnapshotData and ComputeXidHorizons in procarray.c).
 *
 * @throws ERR_STORE, which names them, if there still are some at the deadline
 */
async function waitForOlderTransactions(connection: PostgresConnection, xid: string): Promise<void> {
  const isTransient = (error: unknown) => isKeystoreError(error) && error.retryable
  const assertNone = async () => {
    const [found] = await connection.query(
      'finish the erasure',
      sql`select string_agg(distinct holder, ', ') as holders from (
        select 'process ' || pid as holder, backend_xid as xid from pg_stat_activity where pid <> pg_backend_pid()
        union all select 'process ' || pid, backend_xmin from pg_stat_activity
          where (datname = current_database() or datname is null) and pid <> pg_backend_pid()
        union all select 'replication slot ' || slot_name, xmin from pg_replication_slots
        union all select 'a prepared transaction', transaction from pg_prepared_xacts
      ) as held where age(xid) > age(${xid}::xid8::xid)`,
    )
    if (typeof found?.holders !== 'string') return
    throw new StoreError(
      `The key store could not rewrite the table: older transactions may still see the erased rows (${found.holders})`,
      { retryable: true },
    )
  }
  await retryingPostgres(connection.deadlineMs, assertNone, isTransient)
}
