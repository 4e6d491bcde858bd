/** Clients of the application's that are none, closed, not connected, or on a database that nobody else sees: the error says what to write. */
import { join } from 'node:path'
import { PGlite } from '@electric-sql/pglite'
import { createClient } from '@libsql/client'
import Database from 'better-sqlite3'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzleD1 } from 'drizzle-orm/d1'
import { drizzle as drizzleLibsql } from 'drizzle-orm/libsql'
import { drizzle as drizzlePg } from 'drizzle-orm/node-postgres'
import { drizzle as drizzlePglite } from 'drizzle-orm/pglite'
import { drizzle as drizzlePostgresJs } from 'drizzle-orm/postgres-js'
import pg from 'pg'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { postgresKeyStore } from '../../src/adapters/postgres/store.js'
import { sqliteKeyStore } from '../../src/adapters/sqlite/store.js'
import type { KeyStore } from '../../src/index.js'
import { type FreshDatabase, freshDatabase, temporaryFolder } from '../support/databases.js'
import { errorOf } from '../support/errors.js'

/** A store on the application's client, and what closes that client. */
interface OnClient {
  makeStore(): KeyStore
  /** So that the client has been used before it is closed. */
  begin(): Promise<unknown>
  close(): unknown
}

let server: FreshDatabase
let folder: ReturnType<typeof temporaryFolder>
beforeAll(async () => {
  server = await freshDatabase('postgres')
  folder = temporaryFolder()
})
afterAll(async () => {
  folder.remove()
  await server.remove()
})

const CLIENTS: Readonly<Record<string, () => OnClient | Promise<OnClient>>> = {
  'better-sqlite3'() {
    const client = new Database(':memory:')
    return {
      makeStore: () => sqliteKeyStore({ db: drizzleSqlite({ client }) }),
      begin: async () => undefined,
      close: () => client.close(),
    }
  },
  libsql() {
    const client = createClient({ url: `file:${join(folder.path, 'libsql.db')}` })
    return {
      makeStore: () => sqliteKeyStore({ db: drizzleLibsql({ client }) }),
      begin: () => client.execute('select 1'),
      close: () => client.close(),
    }
  },
  'a Pool of pg'() {
    const pool = new pg.Pool({ connectionString: server.url })
    return {
      makeStore: () => postgresKeyStore({ pool }),
      begin: () => pool.query('select 1'),
      close: () => pool.end(),
    }
  },
  'node-postgres, a Pool'() {
    const client = new pg.Pool({ connectionString: server.url })
    return {
      makeStore: () => postgresKeyStore({ db: drizzlePg({ client }) }),
      begin: () => client.query('select 1'),
      close: () => client.end(),
    }
  },
  async 'node-postgres, a Client'() {
    const client = new pg.Client({ connectionString: server.url })
    await client.connect()
    return {
      makeStore: () => postgresKeyStore({ db: drizzlePg({ client }) }),
      begin: () => client.query('select 1'),
      close: () => client.end(),
    }
  },
  'postgres-js'() {
    const client = postgres(server.url)
    return {
      makeStore: () => postgresKeyStore({ db: drizzlePostgresJs({ client }) }),
      begin: () => client`select 1`,
      close: () => client.end(),
    }
  },
  PGlite() {
    const client = new PGlite()
    return {
      makeStore: () => postgresKeyStore({ db: drizzlePglite({ client }) }),
      begin: () => client.waitReady,
      close: () => client.close(),
    }
  },
}

describe.each(Object.keys(CLIENTS))('%s', (name) => {
  const begun = async () => {
    const client = await (CLIENTS[name] as () => OnClient)()
    await client.begin()
    return client
  }

  it('that is closed: the factory says so, or else the first call', async () => {
    const { makeStore, close } = await begun()
    await close()
    const error = await errorOf(async () => makeStore().getAll(['alice']))
    // postgres-js does not tell before it is asked.
    expect(error).toMatchObject({ code: name === 'postgres-js' ? 'ERR_STORE' : 'ERR_INVALID_ARGUMENT' })
    expect(error.message).toMatch(/client (that )?is closed: close the service first/)
  })

  it('that is closed before the store: the next call says so, and may not be repeated', async () => {
    const { makeStore, close } = await begun()
    const store = makeStore()
    expect(await store.getAll(['alice'])).toEqual(new Map())
    await close()
    const error = await errorOf(store.getAll(['alice']))
    expect(error).toMatchObject({ code: 'ERR_STORE', retryable: false })
    expect(error.message).toContain('client is closed: close the service first (envelope.close())')
    await store.close()
  })
})

it('says that drizzle was given nothing', async () => {
  const nothing = undefined as never
  for (const make of [
    () => sqliteKeyStore({ db: drizzleD1(nothing) }),
    () => sqliteKeyStore({ db: drizzleLibsql(nothing) }),
    () => postgresKeyStore({ db: drizzlePg(nothing) }),
  ]) {
    const error = await errorOf(async () => make())
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    expect(error.message).toMatch(/^db has no client: drizzle was given undefined\. In a Worker the binding/)
  }
})

it.each(['', undefined])('refuses a temporary database, which drizzle makes of %o', async (path) => {
  const db = drizzleSqlite(path as string)
  const error = await errorOf(async () => sqliteKeyStore({ db }))
  expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
  expect(error.message).toContain("Write drizzle('app.db')")
  await sqliteKeyStore({ db: drizzleSqlite(':memory:') }).close()
})

it.each(['', ' '])('refuses the path %o, which SQLite takes for a temporary database', async (path) => {
  expect(await errorOf(async () => sqliteKeyStore({ path }))).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
})

it.each(['sqlite:data/keystore.db', 'file:app.db', 'libsql:x', 'postgres:x'])(
  'refuses the path %s, of which it would make a file',
  async (path) => {
    const { message } = await errorOf(async () => sqliteKeyStore({ path }))
    expect(message).toBe('path must be the path of a file, got a URL: openKeyStore(url) takes those')
  },
)

describe('a Client of pg', () => {
  it('without connect() is said to be that, at once; a store may be made before', async () => {
    const client = new pg.Client({ connectionString: server.url })
    const store = postgresKeyStore({ db: drizzlePg({ client }) })
    const error = await errorOf(store.getAll(['alice']))
    expect(error).toMatchObject({ code: 'ERR_STORE' })
    expect(error.message).toContain('`await client.connect()` first')
    await client.connect()
    expect(await store.getAll(['alice'])).toEqual(new Map())
    await store.close()
    await client.end()
  })
})

describe('a PGlite', () => {
  it('that has not started by the deadline is said to be waited for', async () => {
    const never = () => new Promise<never>(() => undefined)
    const methods = Object.fromEntries(
      ['query', 'exec', 'listen', 'unlisten', 'transaction'].map((name) => [name, never]),
    )
    const client = { ...methods, ready: false, waitReady: never() } as unknown as PGlite
    const store = postgresKeyStore({ db: drizzlePglite({ client }) }, { deadlineMs: 100 })
    const error = await errorOf(store.getAll(['alice']))
    expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true })
    expect(error.message).toContain('waited 100 ms for PGlite to start: `await db.$client.waitReady` before')
    await store.close()
  })
})
