/** One connection for the application and its store: no transaction of the application's is ended, and none of its statements gets into ours. */
import { randomBytes } from 'node:crypto'
import type { PGlite } from '@electric-sql/pglite'
import { drizzle } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import { beforeEach, describe, expect, it, vi } from 'vitest'
import { type PostgresKeyStore, postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import { EnvelopeCrypto, generateMasterKey, localMasterKey } from '../../../src/index.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { itIf } from '../../support/conditional.js'
import { isChosen } from '../../support/databases.js'
import { ERASED, pending } from '../../support/erased-bytes.js'
import { hideTransactionStatus } from '../../support/old-pg.js'
import { freshDriverDatabase, freshPostgresJs } from '../../support/postgres-drivers.js'
import { randomRecord } from '../../support/rows.js'

const REFUSED = 'needs a transaction of its own'

/** Other test files have transactions on the same server, which an erasure waits for first. */
const eventually = (check: () => Promise<unknown>) => vi.waitFor(check, { timeout: 50_000, interval: 100 })

interface Shared {
  /** Runs a statement of the application's. @returns its rows */
  query(text: string): Promise<readonly Record<string, unknown>[]>
  store(options?: { schema?: string }): PostgresKeyStore
}

describe.runIf(isChosen('postgres'))('a connection that the application uses too', () => {
  const cleanups = cleanUpAfterEach()
  const client = async (url: string): Promise<pg.Client> => {
    const made = new pg.Client(url)
    await made.connect()
    cleanups.add(() => made.end())
    return made
  }

  const poolOfOne = async (prepare: (pool: pg.Pool) => void): Promise<Shared> => {
    const pool = new pg.Pool({ connectionString: await cleanups.database('postgres'), max: 1 })
    prepare(pool)
    cleanups.add(() => pool.end())
    return {
      query: async (text) => (await pool.query(text)).rows,
      store: (options) => postgresKeyStore({ pool }, options),
    }
  }

  const drivers: [string, () => Promise<Shared>][] = [
    [
      'a Client of pg',
      async () => {
        const host = await client(await cleanups.database('postgres'))
        return {
          query: async (text) => (await host.query(text)).rows,
          store: (options) => postgresKeyStore({ db: drizzle({ client: host }) }, options),
        }
      },
    ],
    ['a pool of one', () => poolOfOne(() => undefined)],
    ['a pool of one, of an earlier pg', () => poolOfOne(hideTransactionStatus)],
    [
      'postgres-js with one connection',
      async () => {
        const database = await freshPostgresJs({ max: 1 })
        cleanups.add(() => database.remove())
        return {
          query: (text) => database.query(text),
          store: (options) => postgresKeyStore({ db: database.db }, { listenUrl: false, ...options }),
        }
      },
    ],
    [
      'PGlite',
      async () => {
        const database = await freshDriverDatabase('pglite')
        cleanups.add(() => database.remove())
        const host = database.db.$client as PGlite
        return {
          query: async (text) => (await host.query<Record<string, unknown>>(text)).rows,
          store: (options) => postgresKeyStore({ db: database.db }, options),
        }
      },
    ],
  ]

  describe.each(drivers)('%s', (name, open) => {
    let host: Shared
    let store: PostgresKeyStore

    beforeEach(async () => {
      host = await open()
      await host.query('create table host_rows (id int)')
      store = cleanups.closing(host.store())
    })

    const begin = async () => {
      await host.query('begin')
      await host.query('insert into host_rows values (1)')
    }
    /** The application's transaction is open as it was, and can be rolled back. */
    const expectRollback = async () => {
      await host.query('insert into host_rows values (2)')
      expect(await host.query('select * from host_rows')).toHaveLength(2)
      await host.query('rollback')
      expect(await host.query('select * from host_rows')).toEqual([])
    }

    it('finishErasure is pending while the application has a transaction open, which goes on', async () => {
      await store.insertIfAbsent([randomRecord('alice')])
      await begin()
      expect(await store.maintenance.finishErasure()).toMatchObject(pending(REFUSED))
      await expectRollback()
      await eventually(async () => expect(await store.maintenance.finishErasure()).toEqual(ERASED))
    })

    itIf(!name.startsWith('a pool of one'), "pg's Pool closes a connection on which a statement has failed")(
      'and fails while that transaction has failed',
      async () => {
        await store.ready()
        await begin()
        await expect(host.query('select 1 / 0')).rejects.toThrow()
        await expect(store.maintenance.finishErasure()).rejects.toMatchObject({ code: 'ERR_STORE' })
        await host.query('rollback')
        expect(await host.query('select * from host_rows')).toEqual([])
      },
    )

    it('migrations are refused there, and made afterwards', async () => {
      await begin()
      await expect(store.list({ limit: 1 })).rejects.toMatchObject({
        code: 'ERR_STORE',
        retryable: true,
        message: expect.stringMatching(
          /needs a transaction of its own.*store\.ready\(\).*outside of transactions.*pool/,
        ),
      })
      await expectRollback()
      expect((await store.ready()).applied).toHaveLength(5)
    })

    it('opening a service leaves the transaction open', async () => {
      const options = { store, masterKeys: localMasterKey(generateMasterKey()), closeStore: false }
      const first = await EnvelopeCrypto.open(options)
      const token = await first.encrypt('alice', 'of alice')
      await first.close()
      await begin()
      const envelope = await EnvelopeCrypto.open(options)
      await expectRollback()
      expect(await envelope.decrypt('alice', token)).toBe('of alice')
      await envelope.close()
    })

    it('transactions of the application that come in between are rolled back, and ours is whole', async () => {
      for (const work of [() => store.ready(), () => store.maintenance.finishErasure()]) {
        const working = work().catch(() => null)
        for (let n = 0; n < 40; n += 1) {
          await begin()
          await host.query('rollback')
        }
        await working
      }
      expect(await host.query('select * from host_rows')).toEqual([])
      await eventually(async () => expect(await store.maintenance.finishErasure()).toEqual(ERASED))
      await store.insertIfAbsent([randomRecord('alice')])
      expect(await store.getActive(['alice'])).toHaveProperty('size', 1)
    })

    it('a schema of any name is migrated', async () => {
      const schema = `It's "$keystore0$" $keystore1 \\`
      const other = cleanups.closing(host.store({ schema }))
      cleanups.add(() => host.query(`drop schema "${schema.replaceAll('"', '""')}" cascade`))
      expect((await other.ready()).applied).toHaveLength(5)
      await other.insertIfAbsent([randomRecord('alice')])
      await eventually(async () => expect(await other.maintenance.finishErasure()).toEqual(ERASED))
      const rows = await host.query(`select nspname from pg_namespace where nspname like 'It%'`)
      expect(rows).toEqual([{ nspname: schema }])
    })
  })

  it('several that migrate at the same time: one of them does, whatever level of isolation is set', async () => {
    const url = await cleanups.database('postgres')
    const admin = await client(url)
    const { rows } = await admin.query('select current_database() as name')
    await admin.query(`alter database "${rows[0].name}" set default_transaction_isolation = serializable`)
    const clients = await Promise.all([1, 2, 3, 4].map(() => client(url)))
    const stores = clients.map((one) => cleanups.closing(postgresKeyStore({ db: drizzle({ client: one }) })))
    const reports = await Promise.all(stores.map((store) => store.ready()))
    expect(reports.flatMap(({ applied }) => applied)).toHaveLength(5)
  })

  it('a lock that another session has makes finishErasure pending there too', async () => {
    const url = await cleanups.database('postgres')
    const db = drizzle({ client: await client(url) })
    const store = cleanups.closing(postgresKeyStore({ db }, { deadlineMs: 500 }))
    await store.insertIfAbsent([randomRecord(randomBytes(9).toString('base64url'))])
    const other = await client(url)
    await other.query('begin; lock table encryption_keys in access share mode')
    await eventually(async () =>
      expect(await store.maintenance.finishErasure()).toMatchObject(pending('55P03')),
    )
    await other.query('rollback')
    await eventually(async () => expect(await store.maintenance.finishErasure()).toEqual(ERASED))
  })

  it('is named as what an erasure waits for, and not others, whose snapshots its transaction keeps old', async () => {
    const url = await cleanups.database('postgres')
    const host = await client(url)
    const other = await client(url)
    const store = cleanups.closing(postgresKeyStore({ db: drizzle({ client: host }) }))
    await store.insertIfAbsent([randomRecord('alice')])
    await host.query('begin')
    await host.query('create table host_rows (id int)')
    // Later transactions end before it.
    await other.query('create table other_rows (id int)')
    await other.query('begin isolation level repeatable read')
    await other.query('select 1')
    expect(await store.maintenance.finishErasure()).toMatchObject(pending(REFUSED))
    await host.query('rollback')
  })
})
