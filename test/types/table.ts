/** Compiled, never run: both Drizzle tables have KeyRecord's rows, and the factories take the host's own db. */
import type { BetterSQLite3Database } from 'drizzle-orm/better-sqlite3'
import type { NodePgDatabase } from 'drizzle-orm/node-postgres'
import type pg from 'pg'
import type { encryptionKeysIn, encryptionKeys as inPostgres } from '../../src/adapters/postgres/schema.js'
import { postgresKeyStore } from '../../src/adapters/postgres/store.js'
import type { encryptionKeys as inSqlite } from '../../src/adapters/sqlite/schema.js'
import { sqliteKeyStore } from '../../src/adapters/sqlite/store.js'
import type { KeyRecord } from '../../src/index.js'

/** Whether two types are the same, not merely assignable: optional, nullable and readonly count. */
type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
type Flat<T> = { [K in keyof T]: T[K] }
type Assert<_T extends true> = never

type Row = Flat<KeyRecord>
type SqliteRow = Flat<typeof inSqlite.$inferSelect>
type PostgresRow = Flat<typeof inPostgres.$inferSelect>
type SchemaRow = Flat<ReturnType<typeof encryptionKeysIn>['$inferSelect']>
type Optional = 'version' | 'kekId' | 'wrappedAt' | 'shreddedAt'
type NewRow = Flat<Omit<KeyRecord, Optional> & { [K in Optional]?: KeyRecord[K] | undefined }>
type NewSqliteRow = Flat<typeof inSqlite.$inferInsert>
type NewPostgresRow = Flat<typeof inPostgres.$inferInsert>

export type Proofs = [
  Assert<Equal<SqliteRow, Row>>,
  Assert<Equal<PostgresRow, Row>>,
  Assert<Equal<SchemaRow, Row>>,
  Assert<Equal<SqliteRow, PostgresRow>>,
  Assert<Equal<NewSqliteRow, NewPostgresRow>>,
  Assert<Equal<NewSqliteRow, NewRow>>,
]

// Proofs that would compile if a column had another nullability or type, or were missing: each must fail.
type With<K extends keyof KeyRecord, T> = Flat<Omit<KeyRecord, K> & Record<K, T>>

export type Controls = [
  // @ts-expect-error kekId is nullable
  Assert<Equal<SqliteRow, With<'kekId', string>>>,
  // @ts-expect-error userId is not nullable
  Assert<Equal<PostgresRow, With<'userId', string | null>>>,
  // @ts-expect-error an instant is a Date
  Assert<Equal<SqliteRow, With<'createdAt', string>>>,
  // @ts-expect-error bytes are a Uint8Array, not a Buffer
  Assert<Equal<PostgresRow, With<'encryptedKey', Buffer>>>,
  // @ts-expect-error a version is a number
  Assert<Equal<PostgresRow, With<'version', bigint>>>,
  // @ts-expect-error a column is missing
  Assert<Equal<SqliteRow, Omit<Row, 'shreddedAt'>>>,
  // @ts-expect-error a column too many
  Assert<Equal<SqliteRow, Row & { readonly note: string }>>,
  // @ts-expect-error any is equal to nothing else
  Assert<Equal<With<'userId', unknown>, Row>>,
  // @ts-expect-error without its default, version would be required
  Assert<Equal<NewSqliteRow, Flat<Omit<NewRow, 'version'> & Pick<KeyRecord, 'version'>>>>,
  // @ts-expect-error a row to insert is not a row that was read
  Assert<Equal<NewSqliteRow, SqliteRow>>,
]

type HostSchema = { readonly hostTable: typeof inPostgres }

export function hostDatabases(
  sqlite: BetterSQLite3Database<{ hostTable: typeof inSqlite }> & {
    $client: import('better-sqlite3').Database
  },
  postgres: NodePgDatabase<HostSchema> & { $client: pg.Pool },
  plain: NodePgDatabase,
  pool: pg.Pool,
) {
  sqliteKeyStore({ db: sqlite })
  postgresKeyStore({ db: postgres })
  postgresKeyStore({ db: plain })
  postgresKeyStore({ pool })
  void postgres.transaction(async (tx) => {
    postgresKeyStore({ db: tx })
    postgresKeyStore({ db: tx, transactional: true })
    await tx.transaction(async (savepoint) => {
      postgresKeyStore({ db: savepoint })
    })
  })

  // @ts-expect-error a plain object is no drizzle db
  sqliteKeyStore({ db: {} })
  // @ts-expect-error a plain object is no drizzle db
  postgresKeyStore({ db: {} })
  // @ts-expect-error neither is an object with some of its methods
  postgresKeyStore({ db: { select: () => undefined, insert: () => undefined } })
  // @ts-expect-error a pool is not a db
  postgresKeyStore({ db: pool })
  // @ts-expect-error the other dialect's db lacks execute()
  postgresKeyStore({ db: sqlite })
  sqlite.transaction((tx) => {
    // @ts-expect-error a SQLite transaction is synchronous: mint before it begins
    sqliteKeyStore({ db: tx })
  })
}
