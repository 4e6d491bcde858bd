/** Which drizzle databases the stores take, and which they refuse by name; pg is loaded only where the library makes a connection. */
import { Pool as NeonPool, neon } from '@neondatabase/serverless'
import Database from 'better-sqlite3'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzleMysqlProxy } from 'drizzle-orm/mysql-proxy'
import { drizzle as drizzleNeonHttp } from 'drizzle-orm/neon-http'
import { drizzle as drizzleNeon } from 'drizzle-orm/neon-serverless'
import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
import { withReplicas } from 'drizzle-orm/pg-core'
import { drizzle as drizzlePgProxy } from 'drizzle-orm/pg-proxy'
import { drizzle as drizzleSqliteProxy } from 'drizzle-orm/sqlite-proxy'
import { describe, expect, it } from 'vitest'
import { postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import { sqliteKeyStore } from '../../../src/adapters/sqlite/store.js'
import { runInApplication } from '../../support/bare-application.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { errorOf } from '../../support/errors.js'

const noRows = async () => ({ rows: [] })
const pgProxy = drizzlePgProxy(noRows)
const sqlite = drizzleSqlite({ client: new Database(':memory:') })
const NEON_URL = 'postgres://user:hunter2@ep-none.neon.tech/db'

/** What Drizzle's class for a driver looks like that is not installed here. */
function dbOfKind(kind: string, dialect: string): object {
  const instanceOf = (name: string) => {
    const Named = class {}
    Object.assign(Named, { [Symbol.for('drizzle:entityKind')]: name })
    return new Named()
  }
  const db = Object.assign(instanceOf(kind), { dialect: instanceOf(dialect), $client: {} })
  const methods = ['select', 'insert', 'update', 'delete', 'execute', 'run', 'transaction']
  return Object.assign(db, Object.fromEntries(methods.map((method) => [method, () => undefined])))
}

describe('postgresKeyStore refuses by name', () => {
  it.each<[string, unknown, RegExp]>([
    ['pg-proxy', pgProxy, /pg-proxy, which has no transactions.*use the driver/],
    [
      'neon-http',
      drizzleNeonHttp({ client: neon(NEON_URL) }),
      /neon-http, which has no transactions.*neon-serverless/,
    ],
    ['xata-http', dbOfKind('XataHttpDatabase', 'PgDialect'), /xata-http, which has no transactions/],
    ['prisma', dbOfKind('PrismaPgDatabase', 'PgDialect'), /prisma, which has no transactions/],
    [
      'aws-data-api',
      dbOfKind('AwsDataApiPgDatabase', 'AwsPgDialect'),
      /aws-data-api, which is not supported/,
    ],
    ['MySQL', drizzleMysqlProxy(noRows), /on MySQL: it must be one on Postgres/],
    ['CockroachDB', dbOfKind('NodeCockroachDatabase', 'CockroachDialect'), /on CockroachDB/],
    ['SQLite', sqlite, /on SQLite: give it to sqliteKeyStore/],
    ['a replica set of pg-proxy', withReplicas(pgProxy, [pgProxy]), /pg-proxy/],
    ['no db', {}, /node-postgres, postgres-js, pglite, neon-serverless/],
    ['null', null, /must be a drizzle db/],
    ['a URL', NEON_URL, /db is a string: write postgresKeyStore\(\{ url \}\)/],
  ])('%s', async (_, db, message) => {
    const error = await errorOf(async () => postgresKeyStore({ db } as never))
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    expect(error.message).toMatch(message)
    expect(error.message).not.toContain('hunter2')
  })

  it('in types too, where they differ', () => {
    const attempts = [
      // @ts-expect-error no transactions
      () => postgresKeyStore({ db: drizzleNeonHttp({ client: neon(NEON_URL) }) }),
      // @ts-expect-error MySQL
      () => postgresKeyStore({ db: drizzleMysqlProxy(noRows) }),
      // @ts-expect-error SQLite
      () => postgresKeyStore({ db: sqlite }),
      // @ts-expect-error Postgres
      () => sqliteKeyStore({ db: pgProxy }),
      // @ts-expect-error MySQL
      () => sqliteKeyStore({ db: drizzleMysqlProxy(noRows) }),
      // @ts-expect-error no client
      () => sqliteKeyStore({ db: drizzleSqliteProxy(noRows) }),
    ]
    for (const attempt of attempts)
      expect(attempt).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }))
  })
})

describe('sqliteKeyStore refuses by name', () => {
  it.each<[string, unknown, RegExp]>([
    [
      'sqlite-proxy',
      drizzleSqliteProxy(noRows),
      /sqlite-proxy, which has no transactions.*use the driver that is behind/,
    ],
    [
      'durable-sqlite',
      dbOfKind('DrizzleSqliteDODatabase', 'SQLiteSyncDialect'),
      /durable-sqlite, which is not/,
    ],
    [
      'sql-js',
      dbOfKind('SQLJsDatabase', 'SQLiteSyncDialect'),
      /sql-js, which is not supported: use .*libsql/,
    ],
    [
      'a client that is none',
      dbOfKind('LibSQLDatabase', 'SQLiteAsyncDialect'),
      /on better-sqlite3, node:sqlite/,
    ],
    [
      'expo-sqlite',
      dbOfKind('ExpoSQLiteDatabase', 'SQLiteSyncDialect'),
      /expo-sqlite, which is not supported/,
    ],
    ['Postgres', drizzlePostgres(NEON_URL), /on Postgres: give it to postgresKeyStore/],
    ['MySQL', drizzleMysqlProxy(noRows), /on MySQL: it must be one on SQLite/],
    ['a connection', new Database(':memory:'), /db is a Database of better-sqlite3: write sqliteKeyStore/],
    ['null', null, /must be a drizzle db/],
  ])('%s', async (_, db, message) => {
    const error = await errorOf(async () => sqliteKeyStore({ db } as never))
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    expect(error.message).toMatch(message)
  })
})

describe('postgresKeyStore takes', () => {
  it('a db on Neon’s Pool, which it uses as a pool', async () => {
    const pool = new NeonPool({ connectionString: NEON_URL })
    let lent = 0
    pool.connect = () => {
      lent += 1
      return Promise.reject(
        Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED', syscall: 'connect' }),
      )
    }
    const store = postgresKeyStore({ db: drizzleNeon({ client: pool }) }, { deadlineMs: 50 })
    expect(await errorOf(store.getAll(['alice']))).toMatchObject({ code: 'ERR_STORE', retryable: true })
    expect(lent).toBeGreaterThan(0)
    await store.close()
  })
})

describe('pg is not installed', () => {
  const cleanups = cleanUpAfterEach()

  const runWith = (packages: readonly string[], code: string) =>
    runInApplication(cleanups.folder(), packages, code)
  const ROUND = `
    import { EnvelopeCrypto, generateMasterKey, localMasterKey } from 'drizzle-keystore'
    import { postgresKeyStore } from 'drizzle-keystore/postgres'
    await import('pg').then(() => console.log('pg is installed'), () => undefined)
    const store = postgresKeyStore({ db })
    const envelope = await EnvelopeCrypto.open({ store, masterKeys: localMasterKey(generateMasterKey()) })
    const token = await envelope.encrypt('alice', 'sk-1')
    console.log(await envelope.decrypt('alice', token))
    await envelope.close()`

  it('and a db on PGlite works', async () => {
    const code = `
      import { PGlite } from '@electric-sql/pglite'
      import { drizzle } from 'drizzle-orm/pglite'
      const db = drizzle({ client: await PGlite.create() })
      ${ROUND}`
    expect(await runWith(['@electric-sql/pglite'], code)).toBe('sk-1\n')
  })

  it.runIf(isChosen('postgres'))('and a db on postgres-js works', async () => {
    const url = await cleanups.database('postgres')
    const code = `
      import postgres from 'postgres'
      import { drizzle } from 'drizzle-orm/postgres-js'
      const sql = postgres(${JSON.stringify(url)}, { onnotice: () => undefined })
      const db = drizzle({ client: sql })
      ${ROUND}
      await sql.end()`
    expect(await runWith(['postgres'], code)).toBe('sk-1\n')
  })

  it('and a URL says what to install', async () => {
    const code = `
      import { openKeyStore } from 'drizzle-keystore/open'
      await openKeyStore('postgres://user:hunter2@127.0.0.1:1/db').catch((error) => console.log(error.code, error.message))`
    const said = await runWith([], code)
    expect(said).toMatch(/^ERR_STORE .*npm install pg\n$/)
    expect(said).not.toContain('hunter2')
  })
})
