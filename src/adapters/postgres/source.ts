/** Where a Postgres store's database is, as its factory takes it. Its types name none of Drizzle's, whose names 0.45 and 1.0 do not share. */
import type { PostgresPool } from '../../drivers/client-pool.js'
import type { PostgresUrlSource } from '../../drivers/postgres-pool.js'

/**
 * The host application's drizzle db or transaction, on any driver that has transactions: node-postgres, postgres-js, PGlite, Neon's
 * WebSocket driver. Typed structurally: it may come from another copy of drizzle-orm.
 */
export interface HostPostgresDb {
  select(...args: never[]): unknown
  insert(...args: never[]): unknown
  update(...args: never[]): unknown
  delete(...args: never[]): unknown
  execute(...args: never[]): unknown
  transaction(...args: never[]): unknown
  /** Tells it from a MySQL db. */
  refreshMaterializedView(...args: never[]): unknown
  /** Only neon-http has it, and no transactions. */
  readonly batch?: never
}

/**
 * Where the store's database is. A `url`: the store has a pool of its own, for which it imports the package pg. A `pool` or `db`: the host
 * application's, which the store does not close.
 */
export type PostgresSource =
  | PostgresUrlSource
  | { readonly pool: PostgresPool }
  | {
      readonly db: HostPostgresDb
      /** Whether `db` is a transaction of the caller's. A drizzle transaction is recognised as one in any case. Default false. */
      readonly transactional?: boolean
    }
