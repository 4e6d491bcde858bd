/**
 * Recognises what somebody gave to a store in the wrong place, such as a connection where a drizzle db is wanted, and says what to write
 * instead. Imports no driver.
 */
import { asyncSqlite } from './async-sqlite.js'
import { isPool } from './client-pool.js'
import { dialectOfDb, FACTORIES } from './drizzle-db.js'
import { isPglite, isPostgresJs } from './postgres-clients.js'
import { syncSqlite } from './sync-sqlite.js'

export interface Misplaced {
  /** Such as `a Pool of pg`. */
  readonly what: string
  /** The call that takes it. */
  readonly write: string
}

export const A_DRIZZLE_DB = 'a drizzle db'

/** @returns null if it is nothing that a store could use somewhere else */
export function misplaced(value: unknown): Misplaced | null {
  try {
    return recognise(value)
  } catch {
    // A getter threw.
    return null
  }
}

function recognise(value: unknown): Misplaced | null {
  const dialect = dialectOfDb(value)
  if (dialect !== null) return { what: A_DRIZZLE_DB, write: `${FACTORIES[dialect]}({ db })` }
  if (isPostgresJs(value)) return drizzled('sql of postgres-js', 'postgres', 'postgres-js')
  if (typeof value === 'function') return null
  if (typeof value !== 'object' || value === null) return null
  if (isPool(value)) return { what: 'a Pool of pg', write: 'postgresKeyStore({ pool })' }
  if (isPglite(value)) return drizzled('a PGlite', 'postgres', 'pglite')
  const client = asyncSqlite(value)
  if (client?.kind === 'libsql') return drizzled('a client of @libsql/client', 'sqlite', 'libsql')
  if (client !== null) return drizzled('a D1 database', 'sqlite', 'd1')
  const sync = syncSqlite(value)
  if (sync === value) return drizzled('a Database of better-sqlite3', 'sqlite', 'better-sqlite3')
  if (sync !== null && 'isTransaction' in value)
    // drizzle-orm 0.45 has no database for it.
    return {
      what: 'a DatabaseSync of node:sqlite',
      write: `${FACTORIES.sqlite}({ db: { $client: database } })`,
    }
  if (sync !== null) return drizzled('a Database of bun:sqlite', 'sqlite', 'bun-sqlite')
  if (isPgClient(value))
    return { what: 'a single connection of pg', write: 'postgresKeyStore({ pool }), with a Pool of pg' }
  if (typeof Reflect.get(value, 'then') === 'function') return { what: 'a promise', write: 'await before it' }
  return null
}

function drizzled(what: string, dialect: 'sqlite' | 'postgres', driver: string): Misplaced {
  return {
    what,
    write: `${FACTORIES[dialect]}({ db: drizzle({ client }) }), with drizzle from 'drizzle-orm/${driver}'`,
  }
}

function isPgClient(value: object): boolean {
  return ['connect', 'query', 'escapeLiteral'].every((name) => name in value)
}
