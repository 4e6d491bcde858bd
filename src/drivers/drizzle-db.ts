/**
 * Recognises the host application's drizzle db: its dialect, and the driver that it is on. Imports neither Drizzle nor a driver.
 *
 * Each class of Drizzle's has its name under a registered symbol, so that copies of drizzle-orm recognise each other's objects.
 */
import { invalidArgument } from '../errors.js'

export type DrizzleDialect = 'sqlite' | 'postgres'

interface Driver {
  /** What Drizzle's documentation calls it. */
  readonly name: string
  /** Why a store cannot be on it, and what to do. Absent: a store can. */
  readonly refusal?: string
}

const NO_TRANSACTIONS = 'has no transactions, which migrations need'

/** Drizzle's databases, by the name of their class. Add a driver here once the conformance suite has passed on it. BunSQLiteDatabase is bun-sql in 1.0, whose client a store refuses. */
const DRIVERS: Readonly<Record<DrizzleDialect, Readonly<Record<string, Driver>>>> = {
  postgres: {
    NodePgDatabase: { name: 'node-postgres' },
    PostgresJsDatabase: { name: 'postgres-js' },
    PgliteDatabase: { name: 'pglite' },
    NeonDatabase: { name: 'neon-serverless' },
    NeonServerlessDatabase: { name: 'neon-serverless' },
    NeonHttpDatabase: {
      name: 'neon-http',
      refusal: `${NO_TRANSACTIONS}: use drizzle-orm/neon-serverless with a Pool`,
    },
    PgRemoteDatabase: {
      name: 'pg-proxy',
      refusal: `${NO_TRANSACTIONS}: use the driver that is behind the proxy`,
    },
    XataHttpDatabase: {
      name: 'xata-http',
      refusal: `${NO_TRANSACTIONS}: use drizzle-orm/node-postgres`,
    },
    PrismaPgDatabase: { name: 'prisma', refusal: `${NO_TRANSACTIONS}: use drizzle-orm/node-postgres` },
    AwsDataApiPgDatabase: {
      name: 'aws-data-api',
      refusal: 'is not supported: use drizzle-orm/node-postgres',
    },
  },
  sqlite: {
    BetterSQLite3Database: { name: 'better-sqlite3' },
    NodeSQLiteDatabase: { name: 'node-sqlite' },
    BunSQLiteDatabase: { name: 'bun-sqlite' },
    SQLiteBunDatabase: { name: 'bun-sqlite' },
    LibSQLDatabase: { name: 'libsql' },
    D1Database: { name: 'd1' },
    SqliteRemoteDatabase: {
      name: 'sqlite-proxy',
      refusal: `${NO_TRANSACTIONS}: use the driver that is behind the proxy`,
    },
    ...unsupported({
      DrizzleSqliteDODatabase: 'durable-sqlite',
      ExpoSQLiteDatabase: 'expo-sqlite',
      OPSQLiteDatabase: 'op-sqlite',
      SQLiteCloudDatabase: 'sqlite-cloud',
      SQLJsDatabase: 'sql-js',
      TursoDatabaseDatabase: 'tursodatabase',
      TursoDatabaseServerlessDatabase: 'tursodatabase-serverless',
      TursoDatabaseSyncDatabase: 'tursodatabase-sync',
    }),
  },
}

/** By the name of a dialect's class. */
const DIALECTS: readonly [RegExp, DrizzleDialect | string][] = [
  [/^(PgDialect|AwsPgDialect|PostgresAuroraDialect)$/, 'postgres'],
  [/^SQLite/, 'sqlite'],
  [/^MySql/, 'MySQL'],
  [/^SingleStore/, 'SingleStore'],
  [/^Gel/, 'Gel'],
  [/^Cockroach/, 'CockroachDB'],
  [/^MsSql/, 'SQL Server'],
]
const DIALECT_NAMES: Readonly<Record<DrizzleDialect, string>> = { sqlite: 'SQLite', postgres: 'Postgres' }
export const FACTORIES: Readonly<Record<DrizzleDialect, string>> = {
  sqlite: 'sqliteKeyStore',
  postgres: 'postgresKeyStore',
}

const ENTITY_KIND = Symbol.for('drizzle:entityKind')
/** What a store calls of the db itself. On SQLite it uses the db's client only. */
const METHODS: Readonly<Record<DrizzleDialect, readonly string[]>> = {
  sqlite: [],
  postgres: ['select', 'insert', 'update', 'delete', 'execute', 'transaction'],
}

/**
 * Throws unless a store of the dialect can be on `db`, a database or a transaction of Drizzle's. Accepts a driver that is not known here:
 * it may offer what is needed.
 *
 * @throws ERR_INVALID_ARGUMENT, which names the driver and says what to do
 */
export function assertDrizzleDb(db: unknown, dialect: DrizzleDialect): asserts db is object {
  const wanted = DIALECT_NAMES[dialect]
  const primary = primaryOf(db)
  const found = dialectOf(primary)
  if (found !== null && found !== dialect) {
    const other = DIALECT_NAMES[found as DrizzleDialect]
    throw invalidArgument(
      other === undefined
        ? `db is a drizzle db on ${found}: it must be one on ${wanted}`
        : `db is a drizzle db on ${other}: give it to ${FACTORIES[found as DrizzleDialect]}`,
    )
  }
  const kind = kindOf(primary)
  const driver = kind === null ? undefined : DRIVERS[dialect][kind]
  if (driver?.refusal !== undefined)
    throw invalidArgument(`db is a drizzle db on ${driver.name}, which ${driver.refusal}`)
  const isDb =
    typeof primary === 'object' &&
    primary !== null &&
    METHODS[dialect].every((name) => typeof Reflect.get(primary, name) === 'function')
  if (!isDb) {
    throw invalidArgument(
      `db must be a drizzle db on ${wanted}, such as drizzle makes for ${supported(dialect)}`,
    )
  }
}

/** The dialect of a drizzle db. @returns null if it is none, or on a dialect that no store is on */
export function dialectOfDb(db: unknown): DrizzleDialect | null {
  const dialect = dialectOf(primaryOf(db))
  return dialect === 'sqlite' || dialect === 'postgres' ? dialect : null
}

/** Whether it is a transaction of Drizzle's. */
export function isTransaction(db: object): boolean {
  return 'rollback' in db
}

/** Of `withReplicas` it is the primary. */
function primaryOf(db: unknown): unknown {
  return typeof db === 'object' && db !== null && '$primary' in db ? db.$primary : db
}

/** @returns null if it is none of Drizzle's */
function dialectOf(db: unknown): string | null {
  const kind = typeof db === 'object' && db !== null ? kindOf(Reflect.get(db, 'dialect')) : null
  if (kind === null) return null
  return DIALECTS.find(([pattern]) => pattern.test(kind))?.[1] ?? null
}

/** The name of the class of one of Drizzle's objects, or null. */
function kindOf(object: unknown): string | null {
  if (typeof object !== 'object' || object === null) return null
  const kind: unknown = Reflect.get(object.constructor ?? Object, ENTITY_KIND)
  return typeof kind === 'string' ? kind : null
}

function unsupported(names: Readonly<Record<string, string>>): Readonly<Record<string, Driver>> {
  const refusal =
    'is not supported: use drizzle-orm/better-sqlite3, drizzle-orm/libsql or drizzle-orm/d1, or { path }'
  return Object.fromEntries(Object.entries(names).map(([kind, name]) => [kind, { name, refusal }]))
}

/** The drivers that a store can be on. */
function supported(dialect: DrizzleDialect): string {
  const drivers = Object.values(DRIVERS[dialect]).filter(({ refusal }) => refusal === undefined)
  return [...new Set(drivers.map(({ name }) => name))].join(', ')
}
