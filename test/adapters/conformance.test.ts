/** Every store of the library keeps the contract of KeyStore over every kind of source, and the suite fails stores that break it. */
import { createClient, type Client as LibsqlClient } from '@libsql/client'
import Database from 'better-sqlite3'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzleLibsql } from 'drizzle-orm/libsql'
import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import {
  type PostgresKeyStoreOptions,
  type PostgresSource,
  postgresKeyStore,
} from '../../src/adapters/postgres/store.js'
import { sqliteKeyStore } from '../../src/adapters/sqlite/store.js'
import { StoreError } from '../../src/errors.js'
import type { KeyStore } from '../../src/store.js'
import { type RawRow, testKeyStore } from '../../src/testing/index.js'
import { breaks } from '../support/broken-stores.js'
import { memorySubject, runSuite } from '../support/conformance.js'
import { asAdmin, type FreshDatabase, freshDatabase, isChosen } from '../support/databases.js'
import { partitionByHash } from '../support/partitions.js'
import { type DriverDatabase, freshDriverDatabase, postgresDrivers } from '../support/postgres-drivers.js'

const runner = { describe, it, beforeEach, afterEach }
const RAW_ROWS = 'select user_id as "userId", version, encrypted_key as "encryptedKey" from'

describe.runIf(isChosen('memory'))('in memory', () => {
  testKeyStore(runner, {
    name: 'memory',
    async open() {
      const store = memoryKeyStore()
      return { store, close: () => store.close() }
    },
  })
})

describe.runIf(isChosen('sqlite'))('on SQLite', () => {
  testKeyStore(runner, {
    name: 'SQLite, a path of its own',
    async open() {
      const database = await freshDatabase('sqlite')
      const open = () => sqliteKeyStore({ path: database.url, pollMs: 50 })
      const past = new Database(database.url)
      const store = open()
      return {
        store,
        reopen: async () => open(),
        rawRows: async () => past.prepare(`${RAW_ROWS} encryption_keys`).all() as RawRow[],
        breakDown: async () => void past.exec('drop table encryption_keys'),
        async close() {
          await store.close()
          past.close()
          await database.remove()
        },
      }
    },
  })

  testKeyStore(runner, {
    name: 'SQLite, the host’s drizzle db',
    async open() {
      const database = await freshDatabase('sqlite')
      const connections: Database.Database[] = []
      const open = () => {
        const connection = new Database(database.url)
        connections.push(connection)
        return sqliteKeyStore({ db: drizzleSqlite({ client: connection }), pollMs: 50 })
      }
      const store = open()
      return {
        store,
        reopen: async () => open(),
        rawRows: async () => connections[0]?.prepare(`${RAW_ROWS} encryption_keys`).all() as RawRow[],
        breakDown: async () => void connections[0]?.exec('drop table encryption_keys'),
        async close() {
          await store.close()
          for (const connection of connections) connection.close()
          await database.remove()
        },
      }
    },
  })
})

describe.runIf(isChosen('sqlite'))('on libsql', () => {
  testKeyStore(runner, {
    name: 'libsql, a file',
    async open() {
      const database = await freshDatabase('sqlite')
      const clients: LibsqlClient[] = []
      const open = () => {
        const client = createClient({ url: `file:${database.url}` })
        clients.push(client)
        return sqliteKeyStore({ db: drizzleLibsql({ client }) })
      }
      const store = open()
      await store.ready()
      const past = createClient({ url: `file:${database.url}` })
      clients.push(past)
      return {
        store,
        reopen: async () => open(),
        rawRows: async () => {
          const { rows } = await past.execute(`${RAW_ROWS} encryption_keys`)
          return rows.map((row) => ({
            userId: String(row.userId),
            version: Number(row.version),
            encryptedKey: new Uint8Array(row.encryptedKey as ArrayBuffer),
          }))
        },
        breakDown: async () => void (await past.execute('drop table encryption_keys')),
        async close() {
          await store.close()
          for (const client of clients) client.close()
          await database.remove()
        },
      }
    },
  })
})

describe.runIf(isChosen('postgres'))('on Postgres', () => {
  let database: FreshDatabase
  let hostPool: pg.Pool
  beforeAll(async () => {
    database = await freshDatabase('postgres')
    hostPool = new pg.Pool({ connectionString: database.url })
  })
  afterAll(async () => {
    await hostPool?.end()
    await database?.remove()
  })

  // Making a database takes long, so all suites share one and leave it empty.
  const testPostgres = (
    name: string,
    source: () => PostgresSource,
    options: PostgresKeyStoreOptions = {},
    makeTable?: () => Promise<unknown>,
  ) => {
    const table = `"${options.schema ?? 'public'}".encryption_keys`
    testKeyStore(runner, {
      name: `Postgres, ${name}`,
      async open() {
        const open = async () => {
          const store = postgresKeyStore(source(), options)
          await store.ready()
          return store
        }
        await makeTable?.()
        const store = await open()
        return {
          store,
          reopen: open,
          rawRows: async () => (await hostPool.query<RawRow>(`${RAW_ROWS} ${table}`)).rows,
          breakDown: () =>
            asAdmin(
              database.url,
              `drop table ${table}`,
              `drop table if exists "${options.schema ?? 'public'}".__drizzle_keystore_migrations`,
            ),
          async close() {
            await store.close()
            await hostPool.query(`do $$ begin
              if to_regclass('${table}') is not null then delete from ${table}; end if; end $$`)
          },
        }
      },
    })
  }
  testPostgres('a URL', () => ({ url: database.url, maxConnections: 4 }))
  testPostgres('a URL, with named statements', () => ({ url: database.url, maxConnections: 4 }), {
    namedStatements: true,
  })
  testPostgres('the host’s pool', () => ({ pool: hostPool }))
  testPostgres('the host’s drizzle db', () => ({ db: drizzlePostgres({ client: hostPool }) }))
  testPostgres('a schema of its own', () => ({ pool: hostPool }), {
    schema: 'Mine, "quoted"'.replaceAll('"', ''),
  })
  const partitioned = { schema: 'partitioned', migrate: 'off' } as const
  testPostgres(
    'partitions by hash',
    () => ({ url: database.url }),
    partitioned,
    () => partitionByHash(database.url, partitioned.schema),
  )
})

describe.each(postgresDrivers)('on %s', (driver) => {
  let host: DriverDatabase
  beforeAll(async () => {
    host = await freshDriverDatabase(driver)
  })
  afterAll(() => host.remove())

  testKeyStore(runner, {
    name: driver,
    async open() {
      const open = async () => {
        const store = postgresKeyStore({ db: host.another() }, { deadlineMs: 60_000 })
        await store.ready()
        return store
      }
      const store = await open()
      return {
        store,
        reopen: open,
        rawRows: () => host.query(`${RAW_ROWS} encryption_keys`) as Promise<never[]>,
        breakDown: async () =>
          void (await host.query('drop table encryption_keys, __drizzle_keystore_migrations')),
        async close() {
          await store.close()
          await host.query(`do $$ begin
            if to_regclass('encryption_keys') is not null then delete from encryption_keys; end if; end $$`)
        },
      }
    },
  })
})

describe('the suite itself', () => {
  const outageIs = (answer: () => Promise<never>): Partial<KeyStore> => ({
    getActive: answer,
    getAll: answer,
    insertIfAbsent: answer,
    replaceWrapped: answer,
    list: answer,
    shred: answer,
    remove: answer,
    sampleByKek: answer,
    census: answer,
    maintenance: {
      restore: answer,
      inspect: answer,
      finishErasure: answer,
      datedCensus: answer,
      countUnder: answer,
    },
  })
  const fails = outageIs(() => Promise.reject(new StoreError('The key store could not be reached')))
  const resultOf = (...subject: Parameters<typeof memorySubject>) =>
    runSuite((fake) => testKeyStore(fake, memorySubject(...subject)))

  it('passes a store that keeps the contract', async () => {
    const { passed, failed } = await resultOf('intact', () => ({}), fails)
    expect(failed).toEqual([])
    expect(passed.length).toBeGreaterThan(30)
  })

  it.each(Object.entries(breaks))('fails a store in which %s', async (name, change) => {
    const subject = memorySubject(name, change, fails)
    const { failed } = await runSuite((fake) => testKeyStore(fake, subject), { bail: true })
    expect(failed).toHaveLength(1)
  })

  it('fails a store to which an outage looks like "no such key"', async () => {
    const empty: Partial<KeyStore> = {
      ...fails,
      getAll: async () => new Map(),
      getActive: async () => new Map(),
    }
    const { failed } = await resultOf('outage as empty', () => ({}), empty)
    expect(failed).toEqual(['an outage is an error, and never "no such key"'])
  })
})
