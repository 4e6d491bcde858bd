/** Postgres: a key minted inside the host's transaction is committed or rolled back with it. */
import { drizzle, type NodePgDatabase } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type PostgresKeyStore, postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import { EnvelopeCrypto, generateMasterKey, localMasterKey } from '../../../src/index.js'
import { type FreshDatabase, freshDatabase, isChosen } from '../../support/databases.js'

class RolledBackByHost extends Error {}

describe.runIf(isChosen('postgres'))("postgres: inside the host's transaction", () => {
  const masterKeys = localMasterKey(generateMasterKey())
  let database: FreshDatabase
  let pool: pg.Pool
  let db: NodePgDatabase
  let store: PostgresKeyStore
  let envelope: EnvelopeCrypto

  beforeEach(async () => {
    database = await freshDatabase('postgres')
    pool = new pg.Pool({ connectionString: database.url })
    // A duty of the host: without these listeners, a killed connection would end the process.
    pool.on('error', () => undefined)
    pool.on('connect', (client) => client.on('error', () => undefined))
    db = drizzle({ client: pool })
    store = postgresKeyStore({ pool })
    await store.ready()
    envelope = await EnvelopeCrypto.open({ store, masterKeys, cache: false })
  })
  afterEach(async () => {
    await envelope.close()
    await pool.end()
    await database.remove()
  })

  it('a mint leaves no key when the host rolls back, and the next one mints another', async () => {
    let lost = ''
    const transaction = db.transaction(async (tx) => {
      const inside = await EnvelopeCrypto.open({
        store: postgresKeyStore({ db: tx, transactional: true }),
        masterKeys,
      })
      lost = await inside.encrypt('alice', 'lost')
      expect(await inside.decrypt('alice', lost)).toBe('lost')
      throw new RolledBackByHost()
    })
    await expect(transaction).rejects.toThrow(RolledBackByHost)

    expect(await store.census()).toEqual([])
    await expect(envelope.decrypt('alice', lost)).rejects.toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    const later = await EnvelopeCrypto.open({ store: postgresKeyStore({ db }), masterKeys })
    const kept = await later.encrypt('alice', 'kept')
    expect(await later.decrypt('alice', kept)).toBe('kept')
    expect(await envelope.decrypt('alice', kept)).toBe('kept')
    await expect(later.decrypt('alice', lost)).rejects.toMatchObject({ code: 'ERR_DECRYPTION_FAILED' })
  })

  it('a rollback makes the next transaction mint anew, and the one after it finds that key', async () => {
    const keys: string[] = []
    for (const commit of [false, true, true]) {
      const transaction = db.transaction(async (tx) => {
        const inside = await EnvelopeCrypto.open({ store: postgresKeyStore({ db: tx }), masterKeys })
        keys.push(Buffer.from(await inside.getOrCreateUserKey('alice')).toString('hex'))
        if (!commit) throw new RolledBackByHost()
      })
      if (commit) await transaction
      else await expect(transaction).rejects.toThrow(RolledBackByHost)
    }
    const [rolledBack, committed, found] = keys
    expect(committed).not.toBe(rolledBack)
    expect(found).toBe(committed)
  })

  it('a mint is invisible to others before the commit, and visible after it', async () => {
    const token = await db.transaction(async (tx) => {
      const inside = await EnvelopeCrypto.open({
        store: postgresKeyStore({ db: tx, transactional: true }),
        masterKeys,
      })
      const minted = await inside.encrypt('alice', 'together')
      expect(await store.census()).toEqual([])
      return minted
    })
    expect(await envelope.decrypt('alice', token)).toBe('together')
    expect(await store.census()).toMatchObject([{ version: 1, count: 1 }])
  })

  it('closing the service or the store leaves the transaction open', async () => {
    await db.transaction(async (tx) => {
      const inside = await EnvelopeCrypto.open({ store: postgresKeyStore({ db: tx }), masterKeys })
      await inside.encrypt('alice', 'x')
      await inside.close()
      await tx.execute('select 1')
    })
    expect(await store.census()).toMatchObject([{ version: 1, count: 1 }])
  })

  it.each(['repeatable read', 'serializable'] as const)(
    'with %s, a key that another has minted since is a retryable ERR_STORE, and the second attempt finds it',
    async (isolationLevel) => {
      let attempts = 0
      const attempt = () =>
        db.transaction(
          async (tx) => {
            attempts += 1
            const inside = await EnvelopeCrypto.open({ store: postgresKeyStore({ db: tx }), masterKeys })
            await tx.execute('select count(*) from encryption_keys')
            if (attempts === 1) await envelope.encrypt('alice', 'rival')
            return inside.encrypt('alice', 'mine')
          },
          { isolationLevel },
        )
      await expect(attempt()).rejects.toMatchObject({
        name: 'StoreError',
        code: 'ERR_STORE',
        retryable: true,
        message: expect.stringContaining('40001'),
      })
      expect(await envelope.decrypt('alice', await attempt())).toBe('mine')
      expect(await store.census()).toMatchObject([{ version: 1, count: 1 }])
    },
  )

  it('a lost connection is a retryable ERR_STORE at once, without further attempts on it', async () => {
    const transaction = db.transaction(async (tx) => {
      const inside = postgresKeyStore({ db: tx }, { deadlineMs: 60_000 })
      await pool.query('select pg_terminate_backend($1)', [await backendOf(tx)])
      const started = performance.now()
      await expect(inside.getActive(['alice'])).rejects.toMatchObject({ code: 'ERR_STORE', retryable: true })
      expect(performance.now() - started).toBeLessThan(20_000)
    })
    await expect(transaction).rejects.toThrow()
    expect(await envelope.encrypt('alice', 'x')).toMatch(/^v3:/)
  })

  it('a transaction is recognised without an option, and a db is not one', async () => {
    expect(postgresKeyStore({ db }).transactional).toBe(false)
    expect(postgresKeyStore({ pool }).transactional).toBe(false)
    expect(postgresKeyStore({ db, transactional: true }).transactional).toBe(true)
    await db.transaction(async (tx) => {
      expect(postgresKeyStore({ db: tx }).transactional).toBe(true)
      // This option is ignored: with it, keys would stay in memory that a rollback takes away.
      expect(postgresKeyStore({ db: tx, transactional: false }).transactional).toBe(true)
      await tx.transaction(async (savepoint) => {
        expect(postgresKeyStore({ db: savepoint }).transactional).toBe(true)
      })
    })
  })

  it("migrate: 'auto' is refused, 'check' works, and 'off' is the default", async () => {
    const empty = await freshDatabase('postgres')
    const emptyPool = new pg.Pool({ connectionString: empty.url })
    try {
      await drizzle({ client: emptyPool }).transaction(async (tx) => {
        expect(() => postgresKeyStore({ db: tx }, { migrate: 'auto' })).toThrow(
          expect.objectContaining({
            code: 'ERR_INVALID_ARGUMENT',
            message: expect.stringContaining('migrate'),
          }),
        )
        expect(await postgresKeyStore({ db: tx }).ready()).toEqual({ applied: [], adopted: null })
        await expect(postgresKeyStore({ db: tx }, { migrate: 'check' }).ready()).rejects.toMatchObject({
          code: 'ERR_SCHEMA',
        })
      })
      const { rows } = await emptyPool.query("select 1 from pg_class where relname like '%keystore%'")
      expect(rows).toEqual([])
      await db.transaction(async (tx) => {
        await postgresKeyStore({ db: tx }, { migrate: 'check' }).ready()
      })
    } finally {
      await emptyPool.end()
      await empty.remove()
    }
  })
})

async function backendOf(tx: Pick<NodePgDatabase, 'execute'>): Promise<unknown> {
  const { rows } = await tx.execute('select pg_backend_pid() as pid')
  return rows[0]?.pid
}
