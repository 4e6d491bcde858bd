/** Stores that wait for each other's locks on Postgres: for the migration, and for rows. */
import pg from 'pg'
import { beforeEach, describe, expect, it } from 'vitest'
import { postgresMigrations } from '../../../src/adapters/generated/migrations.js'
import { type PostgresKeyStore, postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { countDeadlocks } from '../../support/deadlocks.js'
import { randomRecord } from '../../support/rows.js'

/** Class and number of the advisory lock that src/adapters/postgres/migrate.ts takes. */
const MIGRATION_LOCK = [23_301_334, 1] as const

describe.runIf(isChosen('postgres'))('several stores that wait for one lock', () => {
  const cleanups = cleanUpAfterEach()
  let url: string
  let admin: pg.Client
  let stores: PostgresKeyStore[]
  beforeEach(async () => {
    url = await cleanups.database('postgres')
    stores = Array.from({ length: 3 }, () => cleanups.closing(postgresKeyStore({ url })))
    admin = new pg.Client(url)
    await admin.connect()
    cleanups.add(() => admin.end())
  })

  it('see what the first has migrated, though each had read the ledger before it waited', async () => {
    await admin.query('begin')
    await admin.query('select pg_advisory_xact_lock($1, $2)', [...MIGRATION_LOCK])
    const reports = Promise.all(stores.map((store) => store.ready()))
    await untilWaiting(url, stores.length)
    await admin.query('commit')
    expect((await reports).map(({ applied }) => applied.length).sort()).toEqual([
      0,
      0,
      postgresMigrations.length,
    ])
  })

  it('do not wait for each other in a circle when their rows come in opposite orders', async () => {
    const [first, second] = stores
    await first?.ready()
    await second?.ready()
    // A store that locks in the order given takes its first row, and waits here for the row in the middle.
    await admin.query('begin')
    await admin.query(
      "insert into encryption_keys (user_id, encrypted_key, created_at) values ('m', 'other', now())",
    )
    const forwards = first?.insertIfAbsent(['a', 'm', 'z'].map((userId) => randomRecord(userId)))
    const backwards = second?.insertIfAbsent(['z', 'm', 'a'].map((userId) => randomRecord(userId)))
    await untilWaiting(url, 2)
    await admin.query('rollback')
    expect((await forwards)?.map(({ userId }) => userId)).toEqual(['a', 'm', 'z'])
    expect(await backwards).toEqual((await forwards)?.toReversed())
    await Promise.all(stores.map((store) => store.close()))
    expect(await countDeadlocks(url, 1)).toBe(0)
  })
})

/** Resolves when so many sessions of the database wait for a lock. */
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
