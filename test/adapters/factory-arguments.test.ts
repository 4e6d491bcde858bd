/** What the factories say of arguments that can never work: what was given, and what to write instead. */
import { PGlite } from '@electric-sql/pglite'
import { createClient } from '@libsql/client'
import Database from 'better-sqlite3'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import postgres from 'postgres'
import { describe, expect, it } from 'vitest'
import { postgresKeyStore } from '../../src/adapters/postgres/store.js'
import { sqliteKeyStore } from '../../src/adapters/sqlite/store.js'
import { errorOf } from '../support/errors.js'

const URL = 'postgres://user:hunter2@127.0.0.1:1/none'
const file = new Database(':memory:')
const pool = new pg.Pool({ connectionString: URL })
const d1 = Object.fromEntries(['prepare', 'batch', 'exec', 'dump'].map((name) => [name, () => undefined]))
/** Methods that tell the connections of drivers which are not installed here. */
const nodeSqlite = { isTransaction: false, prepare: () => 0, exec: () => 0, close: () => 0 }

/** Each client, what it is called, and the call that takes it. */
const CLIENTS: readonly [string, unknown, RegExp][] = [
  ['a Database of better-sqlite3', file, /sqliteKeyStore\({ db: drizzle\({ client }\) }\).*better-sqlite3'/],
  [
    'a client of @libsql/client',
    createClient({ url: ':memory:' }),
    /sqliteKeyStore\({ db: drizzle.*\/libsql'/,
  ],
  ['a D1 database', d1, /sqliteKeyStore\({ db: drizzle.*\/d1'/],
  ['a DatabaseSync of node:sqlite', nodeSqlite, /sqliteKeyStore\({ db: { \$client: database } }\)$/],
  ['a Pool of pg', pool, /postgresKeyStore\({ pool }\)$/],
  [
    'a single connection of pg',
    new pg.Client({ connectionString: URL }),
    /postgresKeyStore\({ pool }\), with a Pool/,
  ],
  ['sql of postgres-js', postgres(URL), /postgresKeyStore\({ db: drizzle.*\/postgres-js'/],
  ['a PGlite', new PGlite(), /postgresKeyStore\({ db: drizzle.*\/pglite'/],
  ['a promise', Promise.resolve(file), /await/],
]

const FACTORIES = { sqliteKeyStore, postgresKeyStore }
const messageOf = async (factory: keyof typeof FACTORIES, ...args: unknown[]) => {
  const error = await errorOf(async () => FACTORIES[factory](...(args as [never, never])))
  expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
  expect(error.message).not.toContain('hunter2')
  return error.message
}

describe.each(['sqliteKeyStore', 'postgresKeyStore'] as const)('%s', (factory) => {
  it.each(CLIENTS)('recognises %s, as its argument and as db', async (what, client, write) => {
    expect(await messageOf(factory, client)).toContain(`source is ${what}: write `)
    const message = await messageOf(factory, { db: client })
    expect(message).toContain(`db is ${what}: write `)
    expect(message).toMatch(write)
  })

  it('says where a drizzle db goes that is given instead of { db }', async () => {
    const dbs = [drizzleSqlite({ client: file }), drizzlePostgres({ client: pool })]
    const messages = await Promise.all(dbs.map((db) => messageOf(factory, db)))
    expect(messages).toEqual([
      'source is a drizzle db: write sqliteKeyStore({ db })',
      'source is a drizzle db: write postgresKeyStore({ db })',
    ])
  })

  it('names an option that it does not know, and those that it knows', async () => {
    const source = factory === 'sqliteKeyStore' ? { path: 'x.db' } : { url: URL }
    for (const args of [[{ ...source, migrations: 'off' }], [source, { migrations: 'off' }]]) {
      const message = await messageOf(factory, ...args)
      expect(message).toContain(`"migrations" is no option of ${factory}`)
      expect(message).toContain('migrate, deadlineMs')
    }
    expect(await messageOf(factory, { database: 'x' })).toContain(`${factory} needs {`)
    expect(await messageOf(factory, {})).toContain('got none of them')
    expect(await messageOf(factory, { $client: file })).toContain(`write ${factory}({ db: { $client } })`)
  })

  it.each(['5', Number.NaN, {}])('refuses a deadlineMs of %o', async (deadlineMs) => {
    const source = factory === 'sqliteKeyStore' ? { path: 'x.db' } : { url: URL }
    expect(await messageOf(factory, source, { deadlineMs })).toContain('deadlineMs must be a number')
  })

  it('says what to write for a string', async () => {
    const name = factory === 'sqliteKeyStore' ? 'path' : 'url'
    expect(await messageOf(factory, URL)).toBe(`source is a string: write ${factory}({ ${name} })`)
    expect(await messageOf(factory, { db: URL })).toBe(`db is a string: write ${factory}({ ${name} })`)
  })
})

describe('sqliteKeyStore', () => {
  it('takes a path or a db, and says that both were given or none is set', async () => {
    const both = { path: 'x.db', db: drizzleSqlite({ client: file }) }
    expect(await messageOf('sqliteKeyStore', both)).toContain('path and db were both given')
    expect(await messageOf('sqliteKeyStore', { path: undefined })).toContain(
      'path is missing: the environment variable',
    )
    expect(await messageOf('sqliteKeyStore', { db: undefined })).toBe('db is undefined')
    await sqliteKeyStore({ ...both, path: undefined } as never).close()
  })

  it('refuses an option of Postgres, unless it turns something off', async () => {
    const source = { path: 'x.db' }
    expect(await messageOf('sqliteKeyStore', source, { schema: 'x' })).toBe(
      'schema is an option of postgresKeyStore',
    )
    await sqliteKeyStore(source, { schema: undefined, listenUrl: false } as object).close()
  })
})

describe('postgresKeyStore', () => {
  it('takes a url, a pool or a db, and what goes with it', async () => {
    const db = drizzlePostgres({ client: pool })
    expect(await messageOf('postgresKeyStore', { url: URL, db })).toContain('url and db were both given')
    expect(await messageOf('postgresKeyStore', { url: undefined })).toMatch(/^url is missing: .*DATABASE_URL/)
    expect(await messageOf('postgresKeyStore', { url: '' })).toMatch(/^url is empty: .*DATABASE_URL/)
    for (const url of [undefined, '']) await postgresKeyStore({ url, pool, ssl: false } as never).close()
    expect(await messageOf('postgresKeyStore', { pool, maxConnections: 2 })).toBe(
      'maxConnections goes with { url }, and was given beside { pool }',
    )
    expect(await messageOf('postgresKeyStore', { url: URL, transactional: true })).toContain(
      'goes with { db }',
    )
    expect(await messageOf('postgresKeyStore', { pool: db })).toContain('write postgresKeyStore({ db })')
    expect(await messageOf('postgresKeyStore', { url: URL, adopt: true })).toBe(
      'adopt is an option of sqliteKeyStore',
    )
    await postgresKeyStore({ url: URL, db: undefined, adopt: false } as never).close()
  })
})
