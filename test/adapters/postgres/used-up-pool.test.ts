/** A store on the host's pool, all of whose connections the host's own transactions use, which wait for the store. */
import { drizzle, type NodePgDatabase } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import { beforeEach, describe, expect, it } from 'vitest'
import { type PostgresKeyStore, postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import { EnvelopeCrypto, generateMasterKey, localMasterKey } from '../../../src/index.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { keystoreErrorOf } from '../../support/errors.js'

const DEADLINE_MS = 1000
const masterKeys = localMasterKey(generateMasterKey())

describe.runIf(isChosen('postgres'))("a pool that the host's transactions use up", () => {
  const cleanups = cleanUpAfterEach()
  let url: string
  beforeEach(async () => {
    url = await cleanups.database('postgres')
  })

  async function hostPool(options: pg.PoolConfig): Promise<{ pool: pg.Pool; db: NodePgDatabase }> {
    const pool = new pg.Pool({ connectionString: url, ...options })
    cleanups.add(() => pool.end())
    await postgresKeyStore({ pool }).ready()
    return { pool, db: drizzle({ client: pool }) }
  }

  const serviceOn = (store: PostgresKeyStore) =>
    EnvelopeCrypto.open({ store, masterKeys, closeStore: false, cache: false })

  /** Encrypts for a new user in each of as many transactions as the pool has connections, once all of them have begun. */
  async function encryptInTransactions(db: NodePgDatabase, envelope: EnvelopeCrypto, count: number) {
    let begun = 0
    let allBegun = () => {}
    const all = new Promise<void>((resolve) => {
      allBegun = resolve
    })
    return Promise.all(
      Array.from({ length: count }, (_, i) =>
        db.transaction(async (tx) => {
          await tx.execute('select 1')
          begun += 1
          if (begun === count) allBegun()
          await all
          return keystoreErrorOf(envelope.encrypt(`new user ${i}`, 'x'))
        }),
      ),
    )
  }

  it.each<[string, number, pg.PoolConfig, (host: { pool: pg.Pool; db: NodePgDatabase }) => PostgresKeyStore]>(
    [
      ['{ pool } of 10', 10, {}, ({ pool }) => postgresKeyStore({ pool }, { deadlineMs: DEADLINE_MS })],
      ['{ db } of 10', 10, {}, ({ db }) => postgresKeyStore({ db }, { deadlineMs: DEADLINE_MS })],
      ['{ pool } of 1', 1, {}, ({ pool }) => postgresKeyStore({ pool }, { deadlineMs: DEADLINE_MS })],
      [
        '{ pool } with a time-out of its own',
        2,
        { connectionTimeoutMillis: 300 },
        ({ pool }) => postgresKeyStore({ pool }, { deadlineMs: DEADLINE_MS }),
      ],
    ],
  )('ends the calls at the deadline, and says why and what to do: %s', async (_, max, options, storeOn) => {
    const host = await hostPool({ max, ...options })
    const envelope = await serviceOn(storeOn(host))
    for (const error of await encryptInTransactions(host.db, envelope, max)) {
      expect([error.code, error.retryable]).toEqual(['ERR_STORE', true])
      expect(error.message).toContain(`all ${max} are in use, perhaps by transactions`)
      expect(error.message).toContain('`await envelope.user(id)`')
      expect(error.message).toContain('postgresKeyStore({ db: tx, transactional: true })')
    }
    // Every connection is back, and the same calls work outside of the transactions.
    expect(host.pool.waitingCount).toBe(0)
    const tokens = await Promise.all(
      Array.from({ length: max }, (_, i) => envelope.encrypt(`new user ${i}`, 'x')),
    )
    expect(await envelope.decrypt('new user 0', tokens[0] ?? '')).toBe('x')
  })

  it('takes both ways out that the error names', async () => {
    const { pool, db } = await hostPool({ max: 1 })
    const envelope = await serviceOn(postgresKeyStore({ pool }, { deadlineMs: DEADLINE_MS }))
    const alice = await envelope.user('alice')
    const token = await db.transaction(async (tx) => {
      await tx.execute('select 1')
      return alice.encrypt('minted before')
    })
    expect(await envelope.decrypt('alice', token)).toBe('minted before')
    const inside = await db.transaction(async (tx) => {
      const bound = await serviceOn(postgresKeyStore({ db: tx, transactional: true }))
      return bound.encrypt('bob', 'minted inside')
    })
    expect(await envelope.decrypt('bob', inside)).toBe('minted inside')
  })

  it('does not concern a store with a pool of its own', async () => {
    const { db } = await hostPool({ max: 2 })
    const store = cleanups.closing(postgresKeyStore({ url, maxConnections: 1 }))
    const envelope = await serviceOn(store)
    const tokens = await Promise.all(
      [1, 2].map((user) =>
        db.transaction(async (tx) => {
          await tx.execute('select 1')
          return envelope.encrypt(`user ${user}`, 'x')
        }),
      ),
    )
    expect(await envelope.decrypt('user 2', tokens[1] ?? '')).toBe('x')
  })
})
