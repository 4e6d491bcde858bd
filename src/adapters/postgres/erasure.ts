/** Gets erased bytes out of a Postgres table's files. */
import { sql } from 'drizzle-orm'
import { retrying } from '../../drivers/retry.js'
import { isKeystoreError, StoreError } from '../../errors.js'
import type { ErasureState } from '../../store.js'
import { encryptionKeysDeclaration as declaration } from '../../table.js'
import { ERASED, FINISH_ERASURE, pendingErasure } from '../erasure.js'
import type { PostgresConnection } from './connection.js'
import { withoutSamples } from './migrate.js'

/** While we wait for the table, whoever comes later waits behind us. */
const LOCK_TIMEOUT_MS = 2000

/**
 * A plain VACUUM removes the pointers to dead rows and leaves their bytes in the page's hole. CLUSTER writes the table anew, as
 * VACUUM FULL does, and unlike that inside a transaction, where a lock_timeout can be set whatever pooler is in between.
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
  // Every transaction that has erased something before this call has a lower id.
  const [mark] = await connection.query(
    'finish the erasure',
    sql`select pg_snapshot_xmax(pg_current_snapshot())::text as xid`,
  )
  try {
    await allEndedBefore(connection, String(mark?.xid))
    await connection.transaction('rewrite the table', async (run) => {
      await run(sql.raw(`set local lock_timeout = ${LOCK_TIMEOUT_MS}`))
      await run(withoutSamples(schema))
      await run(sql`cluster ${table} using ${sql.identifier(declaration.primaryKey.name)}`)
      // Only to rewrite it: whether the table is to be kept in that order is its owner's choice.
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
 * A rewrite keeps the rows that an older transaction may still see. Which ones hold them back is what the server itself goes
 * by: ids and snapshots of this database's sessions, of standbys that give feedback, and of prepared transactions.
 */
async function allEndedBefore(connection: PostgresConnection, xid: string): Promise<void> {
  const policy = {
    deadlineMs: connection.deadlineMs,
    firstWaitMs: 20,
    longestWaitMs: 500,
    isTransient: (error: unknown) => isKeystoreError(error) && error.retryable,
  }
  await retrying(policy, async () => {
    const [found] = await connection.query(
      'finish the erasure',
      sql`select string_agg(distinct holder, ', ') as holders from (
        select 'process ' || pid as holder, unnest(array[backend_xid, backend_xmin]) as xid from pg_stat_activity
          where (datname = current_database() or datname is null) and pid <> pg_backend_pid()
        union all select 'replication slot ' || slot_name, xmin from pg_replication_slots
        union all select 'a prepared transaction', transaction from pg_prepared_xacts where database = current_database()
      ) as held where age(xid) > age(${xid}::xid8::xid)`,
    )
    if (typeof found?.holders !== 'string') return
    throw new StoreError(
      `The key store could not rewrite the table: older transactions may still see the erased rows (${found.holders})`,
      { retryable: true },
    )
  })
}
