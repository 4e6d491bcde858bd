/** Eight processes mint the same 300 users at once: whoever wins, everybody goes on with the winner's key. */
import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { type PostgresKeyStore, postgresKeyStore } from '../../src/adapters/postgres/store.js'
import type { KeyRecord } from '../../src/table.js'
import { type Dialect, dialects, type FreshDatabase, freshDatabase, isChosen } from '../support/databases.js'
import { countDeadlocks } from '../support/deadlocks.js'
import { startChild } from '../support/line-child.js'

const PROCESSES = 8
const USERS = 300
/** One insert of 300 rows seldom meets another in the wrong order; several nearly always would. */
const BULK_ROUNDS = 8
/** Class and number of the advisory lock that src/adapters/postgres/migrate.ts takes. */
const MIGRATION_LOCK = [23_301_334, 1] as const

type Keys = Readonly<Record<string, string>>

/** Lets all processes begin at once. @returns what each of them got */
async function mintInEveryProcess(url: string, ...mode: string[]): Promise<Keys[]> {
  const env = { API_KEY_MASTER_KEY: randomBytes(32).toString('base64url') }
  const children = Array.from({ length: PROCESSES }, () =>
    startChild('mint-users.mjs', [url, String(USERS), ...mode], env),
  )
  try {
    await Promise.all(children.map((child) => child.line()))
    for (const child of children) child.send('go')
    const keys = await Promise.all(children.map(async (child) => JSON.parse(await child.line()) as Keys))
    const ends = await Promise.all(children.map((child) => child.ended()))
    expect(ends).toEqual(children.map(() => ({ code: 0, stderr: '' })))
    return keys
  } finally {
    for (const child of children) child.kill()
  }
}

async function countRows(url: string): Promise<number> {
  const store = await openKeyStore(url)
  try {
    return (await store.census()).reduce((sum, { count }) => sum + count, 0)
  } finally {
    await store.close()
  }
}

describe.runIf(isChosen('postgres'))('postgres: several that wait for one lock', () => {
  let database: FreshDatabase
  let admin: pg.Client
  let stores: PostgresKeyStore[]
  beforeEach(async () => {
    database = await freshDatabase('postgres')
    admin = new pg.Client(database.url)
    await admin.connect()
    stores = Array.from({ length: 3 }, () => postgresKeyStore({ url: database.url }))
  })
  afterEach(async () => {
    await admin.end()
    await Promise.all(stores.map((store) => store.close()))
    await database.remove()
  })

  it('see what the first has migrated, though each had looked before it waited', async () => {
    await admin.query('begin')
    await admin.query('select pg_advisory_xact_lock($1, $2)', [...MIGRATION_LOCK])
    const reports = Promise.all(stores.map((store) => store.ready()))
    await untilWaiting(database.url, stores.length)
    await admin.query('commit')
    expect((await reports).map(({ applied }) => applied.length).sort()).toEqual([0, 0, 3])
  })

  it('do not wait for each other in a circle when their rows come in opposite orders', async () => {
    const [first, second] = stores
    await first?.ready()
    await second?.ready()
    // Whoever goes by its own order takes its first row and waits here for the row in the middle.
    await admin.query('begin')
    await admin.query(
      "insert into encryption_keys (user_id, encrypted_key, created_at) values ('m', 'other', now())",
    )
    const forwards = first?.insertIfAbsent(['a', 'm', 'z'].map(newRecord))
    const backwards = second?.insertIfAbsent(['z', 'm', 'a'].map(newRecord))
    await untilWaiting(database.url, 2)
    await admin.query('rollback')
    expect((await forwards)?.map(({ userId }) => userId)).toEqual(['a', 'm', 'z'])
    expect(await backwards).toEqual((await forwards)?.toReversed())
    await Promise.all(stores.map((store) => store.close()))
    expect(await countDeadlocks(database.url, 1)).toBe(0)
  })
})

/** Waits until so many sessions of the database wait for a lock. */
async function untilWaiting(url: string, sessions: number): Promise<void> {
  // A connection of its own: inside a transaction pg_stat_activity would show the same snapshot for ever.
  const client = new pg.Client(url)
  await client.connect()
  try {
    for (let waiting = 0; waiting < sessions; ) {
      const { rows } = await client.query(
        `select count(*)::int as waiting from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock'`,
      )
      waiting = rows[0].waiting
    }
  } finally {
    await client.end()
  }
}

function newRecord(userId: string): KeyRecord {
  const encryptedKey = new Uint8Array(randomBytes(60))
  return {
    userId,
    version: 1,
    encryptedKey,
    kekId: null,
    createdAt: new Date(),
    wrappedAt: null,
    shreddedAt: null,
  }
}

describe.each(dialects)('%s: eight processes at once', (dialect: Dialect) => {
  let database: FreshDatabase
  beforeEach(async () => {
    database = await freshDatabase(dialect)
  })
  afterEach(() => database.remove())

  it('mint one key for each user, and all of them get it', async () => {
    const [first = {}, ...others] = await mintInEveryProcess(database.url, 'one-by-one')
    expect(others).toHaveLength(PROCESSES - 1)
    expect(new Set(Object.values(first)).size).toBe(USERS)
    for (const keys of others) expect(keys).toEqual(first)
    expect(await countRows(database.url)).toBe(USERS)
  })

  it('insert the same rows in bulk, each in another order, without a deadlock', async () => {
    const [first = {}, ...others] = await mintInEveryProcess(database.url, 'in-bulk', String(BULK_ROUNDS))
    expect(others).toHaveLength(PROCESSES - 1)
    expect(new Set(Object.values(first)).size).toBe(USERS * BULK_ROUNDS)
    for (const keys of others) expect(keys).toEqual(first)
    expect(await countRows(database.url)).toBe(USERS * BULK_ROUNDS)
    if (dialect === 'postgres') expect(await countDeadlocks(database.url)).toBe(0)
  })
})
