/** A store on the host's own drizzle db: what the host has hung on the db (a logger, a cache, replicas) is given no key. */
import Database from 'better-sqlite3'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { Cache } from 'drizzle-orm/cache/core'
import type { Logger } from 'drizzle-orm/logger'
import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
import { withReplicas } from 'drizzle-orm/pg-core'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { postgresKeyStore } from '../../src/adapters/postgres/store.js'
import { sqliteKeyStore } from '../../src/adapters/sqlite/store.js'
import {
  copyKeys,
  EnvelopeCrypto,
  generateMasterKey,
  type KeyStore,
  localMasterKey,
  masterKeyring,
  rewrapAll,
} from '../../src/index.js'
import { itIf } from '../support/conditional.js'
import { dialects, freshDatabase, isChosen } from '../support/databases.js'
import { everythingOf, secretForms } from '../support/leaks.js'
import { rowsOf } from '../support/rows.js'

const [first, second] = [generateMasterKey(), generateMasterKey()].map(localMasterKey)
const masterKey = first as NonNullable<typeof first>
const nextKey = second as NonNullable<typeof second>

class Recorder implements Logger {
  readonly logged: unknown[] = []
  logQuery(query: string, params: unknown[]): void {
    this.logged.push(query, params)
  }
}

/** Keeps all that it is given, as a cache for all queries does. */
class RecordingCache extends Cache {
  readonly kept = new Map<string, unknown[]>()
  override strategy() {
    return 'all' as const
  }
  override async get(key: string) {
    return this.kept.get(key)
  }
  override async put(key: string, response: unknown) {
    this.kept.set(key, response as unknown[])
  }
  override async onMutate(): Promise<void> {}
}

/** Everything that writes or reads wrapped keys. @returns every wrapped key that there was */
async function useAll(store: KeyStore): Promise<Uint8Array[]> {
  const wrapped: Uint8Array[] = []
  const collect = async () => {
    for (const { encryptedKey } of await rowsOf(store)) wrapped.push(encryptedKey)
  }
  const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKey, closeStore: false })
  await envelope.encryptMany(['alice', 'bob', 'carol'].map((userId) => ({ userId, plaintext: 'x' })))
  await envelope.rotateUserKey('alice')
  await collect()
  await rewrapAll({ store, masterKeys: masterKeyring({ primary: nextKey, previous: [masterKey] }) })
  await collect()
  const other = memoryKeyStore()
  const elsewhere = await EnvelopeCrypto.open({ store: other, masterKeys: nextKey, closeStore: false })
  await elsewhere.encrypt('dave', 'x')
  await copyKeys({ from: other, to: store })
  await collect()
  await envelope.shredUser('bob')
  await envelope.close()
  return wrapped.filter(({ length }) => length > 0)
}

function expectNone(shown: unknown, wrapped: readonly Uint8Array[]): void {
  const text = everythingOf(shown)
  expect(wrapped.length).toBeGreaterThan(8)
  expect(wrapped.flatMap(secretForms).filter((form) => text.includes(form))).toEqual([])
}

describe.each(dialects)('on %s', (dialect) => {
  let url: string
  let remove: () => Promise<void>
  let end: () => unknown
  let store: KeyStore
  let logger: Recorder
  let ask: () => unknown
  beforeEach(async () => {
    ;({ url, remove } = await freshDatabase(dialect))
    logger = new Recorder()
    if (dialect === 'sqlite') {
      const client = new Database(url)
      const db = drizzleSqlite({ client, logger })
      store = sqliteKeyStore({ db })
      ask = () => db.get('select 1')
      end = () => client.close()
    } else {
      const pool = new pg.Pool({ connectionString: url, max: 3 })
      const db = drizzlePostgres({ client: pool, logger })
      store = postgresKeyStore({ db })
      ask = () => db.execute('select 1')
      end = () => pool.end()
    }
  })
  afterEach(async () => {
    await store.close()
    await end()
    await remove()
  })

  it('the logger sees no wrapped key, and goes on to see the host’s own statements', async () => {
    expectNone(logger.logged, await useAll(store))
    await ask()
    expect(logger.logged).toContain('select 1')
  })
})

describe('on Postgres', () => {
  const itOnPostgres = itIf(isChosen('postgres'), 'Postgres is not chosen')

  async function withPool(work: (pool: pg.Pool) => Promise<void>): Promise<void> {
    const database = await freshDatabase('postgres')
    const pool = new pg.Pool({ connectionString: database.url, max: 3 })
    try {
      await work(pool)
    } finally {
      await pool.end()
      await database.remove()
    }
  }

  itOnPostgres('a transaction’s logger sees none either, and what it did commits', () =>
    withPool(async (pool) => {
      const logger = new Recorder()
      const db = drizzlePostgres({ client: pool, logger })
      const outer = postgresKeyStore({ db })
      await outer.ready()
      await db.transaction(async (tx) => {
        const store = postgresKeyStore({ db: tx, transactional: true })
        const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKey })
        await envelope.encrypt('alice', 'x')
        await envelope.close()
      })
      const rows = await rowsOf(outer)
      expect(rows).toHaveLength(1)
      const text = everythingOf(logger.logged)
      expect(
        rows.flatMap(({ encryptedKey }) => secretForms(encryptedKey)).filter((f) => text.includes(f)),
      ).toEqual([])
    }),
  )

  itOnPostgres('a cache for all queries keeps no row, and gives none out after a shred', () =>
    withPool(async (pool) => {
      const cache = new RecordingCache()
      const store = postgresKeyStore({ db: drizzlePostgres({ client: pool, cache }) })
      expectNone(cache.kept, await useAll(store))
      expect(cache.kept.size).toBe(0)
    }),
  )

  itOnPostgres('of a db with replicas it asks the primary', () =>
    withPool(async (pool) => {
      const nowhere = new pg.Pool({
        connectionString: 'postgres://127.0.0.1:1/none',
        connectionTimeoutMillis: 500,
      })
      const primary = drizzlePostgres({ client: pool })
      const db = withReplicas(primary, [drizzlePostgres({ client: nowhere })])
      const store = postgresKeyStore({ db }, { deadlineMs: 500 })
      expect((await useAll(store)).length).toBeGreaterThan(8)
      await nowhere.end()
    }),
  )
})
