/** Every call ends at its deadline, whatever it waits for; the next one works once the cause is gone; `close` ends within 5 s. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { drizzle } from 'drizzle-orm/node-postgres'
import { drizzle as drizzlePostgresJs } from 'drizzle-orm/postgres-js'
import pg from 'pg'
import postgres from 'postgres'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type PostgresKeyStore, postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import { EnvelopeCrypto, generateMasterKey, localMasterKey } from '../../../src/index.js'
import { startChild } from '../../support/child-process.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { itIf } from '../../support/conditional.js'
import { isChosen, queryPostgres } from '../../support/databases.js'
import { keystoreErrorOf } from '../../support/errors.js'
import { storeMaintenance } from '../../support/maintenance.js'
import { hasPgbouncer, startPgbouncer } from '../../support/pgbouncer.js'
import { type PostgresProxy, postgresProxy } from '../../support/postgres-proxy.js'
import { type PostgresServer, startPostgres } from '../../support/postgres-server.js'
import { randomRecord } from '../../support/rows.js'

/** Long enough for every call when nothing is wrong, on a busy machine too. */
const DEADLINE_MS = 1000
/** Longer than any test. */
const NEVER_MS = 600_000
const masterKeys = localMasterKey(generateMasterKey())

describe.runIf(isChosen('postgres'))('deadlines on Postgres', () => {
  const cleanups = cleanUpAfterEach()
  // A server of this file's own: it is suspended.
  let server: PostgresServer
  let databaseUrl: string
  let proxy: PostgresProxy
  beforeAll(async () => {
    server = await startPostgres()
  })
  afterAll(() => server?.remove())
  beforeEach(async () => {
    const name = `deadlines_${randomBytes(6).toString('hex')}`
    await queryPostgres(server.url, `create database ${name}`)
    databaseUrl = server.url.replace(/\/postgres$/, `/${name}`)
    proxy = await postgresProxy(databaseUrl)
    cleanups.add(() => proxy.close())
  })

  async function lockTable(): Promise<() => Promise<unknown>> {
    const holder = new pg.Client(databaseUrl)
    await holder.connect()
    await holder.query('begin; lock table encryption_keys in access exclusive mode')
    return () => holder.end()
  }

  /** What may go wrong: begins it. @returns what ends it */
  const causes: [string, () => Promise<() => unknown>][] = [
    [
      'open connections go silent, and new ones work',
      async () => {
        proxy.silence()
        return () => undefined
      },
    ],
    [
      'nothing answers',
      async () => {
        proxy.freeze(true)
        return () => proxy.freeze(false)
      },
    ],
    [
      'the server is suspended',
      async () => {
        await server.freeze()
        return () => server.thaw()
      },
    ],
    ['another session has locked the table', lockTable],
  ]

  /** Opens all connections of the store's pool. */
  const warmUp = async (store: PostgresKeyStore) => {
    await store.insertIfAbsent([randomRecord('here')])
    await Promise.all(Array.from({ length: 10 }, () => store.getAll(['here'])))
  }

  /** Calls of every kind. */
  const callsOf = (store: PostgresKeyStore): Record<string, () => Promise<unknown>> => {
    const row = randomRecord('there')
    const change = { ...row, from: row.encryptedKey, wrappedAt: new Date() }
    return {
      getActive: () => store.getActive(['here']),
      getAll: () => store.getAll(['here', 'there']),
      insertIfAbsent: () => store.insertIfAbsent([row]),
      replaceWrapped: () => store.replaceWrapped([change]),
      list: () => store.list({ limit: 10 }),
      'list of some': () => store.list({ limit: 10, notKekId: 'k' }),
      shred: () => store.shred('gone', { forget: false }),
      remove: () => store.remove([row]),
      sampleByKek: () => store.sampleByKek(1),
      census: () => store.census(),
      restore: () => storeMaintenance(store).restore([row]),
      datedCensus: () => storeMaintenance(store).datedCensus(),
    }
  }

  const expectDeadline = async (name: string, work: () => Promise<unknown>) => {
    const error = await keystoreErrorOf(work())
    expect([name, error.code, error.retryable], error.message).toEqual([name, 'ERR_STORE', true])
    expect(error.message).toMatch(/^The key store could not \w.*\(.*waited 1000 ms for|SQLSTATE 55P03/)
    expect(error.message).not.toContain(server.password)
  }

  describe.each(causes)('%s', (_, begin) => {
    it('each call ends with a retryable ERR_STORE, and works once that is over', async () => {
      const store = cleanups.closing(postgresKeyStore({ url: proxy.url }, { deadlineMs: DEADLINE_MS }))
      const envelope = await EnvelopeCrypto.open({ store, masterKeys, closeStore: false })
      await warmUp(store)
      const calls = callsOf(store)
      const end = await begin()
      try {
        // The first ten are given the pool's ten connections, the others wait for one.
        await Promise.all([
          ...Object.entries(calls).map(([name, call]) => expectDeadline(name, call)),
          expectDeadline('encrypt', () => envelope.encrypt('alice', 'x')),
        ])
      } finally {
        await end()
      }
      // One for each connection of the pool: none of them may be one that is still silent.
      const tokens = await Promise.all(
        Array.from({ length: 12 }, (_, i) => envelope.encrypt(i < 2 ? 'alice' : `user ${i}`, 'x')),
      )
      expect(await envelope.decrypt('alice', tokens[0] ?? '')).toBe('x')
      for (const call of Object.values(calls)) await call()
    })

    it('close ends within 5 s, and with it the calls that are under way', async () => {
      const store = postgresKeyStore({ url: proxy.url }, { deadlineMs: NEVER_MS })
      await store.ready()
      await warmUp(store)
      const end = await begin()
      try {
        const pending = Object.values(callsOf(store)).map((call) => keystoreErrorOf(call()))
        const begun = performance.now()
        await store.close()
        expect(performance.now() - begun).toBeLessThan(5000)
        for (const { code } of await Promise.all(pending)) expect(code).toBe('ERR_CLOSED')
      } finally {
        await end()
      }
    })
  })

  it.each(causes.slice(0, 2))('a process ends by itself once its store is closed: %s', async (_, begin) => {
    // It migrates within its deadline, while other tests keep the machine busy.
    const child = startChild('mint-on-command.mjs', [proxy.url, String(5 * DEADLINE_MS)], {
      API_KEY_MASTER_KEY: randomBytes(32).toString('base64url'),
    })
    cleanups.add(() => child.kill())
    expect(await child.line()).toBe('ready')
    const end = await begin()
    try {
      child.send('mint alice')
      expect(JSON.parse(await child.line())).toMatchObject({
        ok: false,
        code: 'ERR_STORE',
        retryable: true,
      })
      expect(await child.ended()).toEqual({ code: 0, stderr: '' })
    } finally {
      await end()
    }
  })

  const migrationLocked = async () => {
    const holder = new pg.Client(databaseUrl)
    await holder.connect()
    await holder.query('begin; select pg_advisory_xact_lock(23301334, 1)')
    return () => holder.end()
  }
  it.each<(typeof causes)[number]>([
    ...causes.slice(1, 3),
    ['another session is migrating', migrationLocked],
  ])('ready ends, and with it whoever waits for it: %s', async (_, begin) => {
    const store = cleanups.closing(postgresKeyStore({ url: proxy.url }, { deadlineMs: DEADLINE_MS }))
    const end = await begin()
    try {
      await Promise.all([
        expectDeadline('ready', () => store.ready()),
        expectDeadline('getAll', () => store.getAll(['alice'])),
      ])
    } finally {
      await end()
    }
    expect((await store.ready()).applied).toHaveLength(5)
  })

  it('changes reports that it cannot listen, when nothing answers', async () => {
    proxy.freeze(true)
    const options = { deadlineMs: DEADLINE_MS, listenUrl: proxy.url }
    const store = cleanups.closing(postgresKeyStore({ url: databaseUrl }, options))
    await store.ready()
    const reported = new Promise((resolve) => store.changes(({ silent }) => resolve(silent)))
    expect(await reported).toMatch(/lost \(/)
  })

  it('finishErasure ends, and says that it has not', async () => {
    const store = cleanups.closing(postgresKeyStore({ url: databaseUrl }, { deadlineMs: DEADLINE_MS }))
    await store.ready()
    const end = await lockTable()
    try {
      expect(await storeMaintenance(store).finishErasure()).toMatchObject({ erased: 'pending' })
    } finally {
      await end()
    }
    expect(await storeMaintenance(store).finishErasure()).toMatchObject({ erased: 'file' })
  })

  it('a statement that was waited for too long is cancelled on the server', async () => {
    const store = cleanups.closing(postgresKeyStore({ url: databaseUrl }, { deadlineMs: DEADLINE_MS }))
    await store.ready()
    const end = await lockTable()
    try {
      await expectDeadline('insertIfAbsent', () => store.insertIfAbsent([randomRecord('alice')]))
      await expect.poll(() => queryPostgres(databaseUrl, WAITING), { timeout: 20_000 }).toEqual([])
    } finally {
      await end()
    }
    expect(await store.census()).toEqual([])
  })

  itIf(hasPgbouncer, 'pgbouncer is not installed')(
    'behind pgbouncer in transaction mode the same holds, and the statement is cancelled',
    async () => {
      const bouncer = await startPgbouncer(databaseUrl, 'transaction')
      cleanups.add(() => bouncer.stop())
      const store = cleanups.closing(postgresKeyStore({ url: bouncer.url }, { deadlineMs: DEADLINE_MS }))
      await store.insertIfAbsent([randomRecord('alice')])
      const end = await lockTable()
      try {
        await Promise.all([
          expectDeadline('getAll', () => store.getAll(['alice'])),
          expectDeadline('insertIfAbsent', () => store.insertIfAbsent([randomRecord('bob')])),
          expectDeadline('census', () => store.census()),
        ])
        await expect.poll(() => queryPostgres(databaseUrl, WAITING), { timeout: 20_000 }).toEqual([])
      } finally {
        await end()
      }
      expect(await store.census()).toMatchObject([{ count: 1 }])
    },
  )

  it("on the host's db or transaction a call ends too, and leaves the connection to the host", async () => {
    const client = new pg.Client(databaseUrl)
    await client.connect()
    cleanups.add(() => client.end())
    const db = drizzle({ client })
    const store = postgresKeyStore({ db }, { deadlineMs: DEADLINE_MS })
    await store.ready()
    const end = await lockTable()
    const inside = db.transaction(async (tx) => {
      const bound = postgresKeyStore({ db: tx, transactional: true }, { deadlineMs: DEADLINE_MS })
      await expectDeadline('getAll', () => bound.getAll(['alice']))
      await end()
      await sleep(200)
    })
    await inside
    const endAgain = await lockTable()
    await expectDeadline('getActive', () => store.getActive(['alice']))
    await endAgain()
    // What the connection had been waiting for ends first.
    await sleep(200)
    expect(await store.census()).toEqual([])
    expect((await client.query('select 1 as one')).rows).toEqual([{ one: 1 }])
  })

  it('query_timeout in the URL is retried, and named in a retryable error', async () => {
    const impatient = new URL(databaseUrl)
    impatient.searchParams.set('query_timeout', '250')
    const store = cleanups.closing(postgresKeyStore({ url: databaseUrl }))
    await store.ready()
    const hasty = cleanups.closing(
      postgresKeyStore({ url: impatient.href }, { deadlineMs: DEADLINE_MS, migrate: 'off' }),
    )
    const end = await lockTable()
    try {
      const error = await keystoreErrorOf(hasty.getAll(['alice']))
      expect([error.code, error.retryable]).toEqual(['ERR_STORE', true])
      expect(error.message).toContain('Query read timeout')
    } finally {
      await end()
    }
    expect(await hasty.getAll(['alice'])).toEqual(new Map())
  })

  it('calls that read the whole table may take longer while the server works on them', async () => {
    const store = cleanups.closing(postgresKeyStore({ url: databaseUrl }, { deadlineMs: DEADLINE_MS }))
    await store.insertIfAbsent([randomRecord('alice')])
    await slowDown()
    expect(await store.census()).toMatchObject([{ count: 1 }])
    await expectDeadline('getAll', () => store.getAll(['alice']))
  })

  /** A view that takes twice the deadline: the server computes, and waits for nothing. */
  const slowDown = () =>
    queryPostgres(
      databaseUrl,
      `alter table encryption_keys rename to slow_keys;
        create function busy(ms int) returns boolean language plpgsql as $$
          declare until timestamptz := clock_timestamp() + ms * interval '1 ms';
          begin while clock_timestamp() < until loop null; end loop; return true; end $$;
        create view encryption_keys as select * from slow_keys where busy(${2 * DEADLINE_MS})`,
    )

  describe.each<[string, (deadlineMs: number) => Promise<PostgresKeyStore>]>([
    [
      'a pool of one connection',
      async (deadlineMs) =>
        cleanups.closing(postgresKeyStore({ url: databaseUrl, maxConnections: 1 }, { deadlineMs })),
    ],
    [
      'a Client',
      async (deadlineMs) => {
        const client = new pg.Client(databaseUrl)
        await client.connect()
        cleanups.add(() => client.end())
        return cleanups.closing(postgresKeyStore({ db: drizzle({ client }) }, { deadlineMs }))
      },
    ],
    [
      'postgres-js',
      async (deadlineMs) => {
        const client = postgres(databaseUrl, { max: 3 })
        cleanups.add(() => client.end())
        const db = drizzlePostgresJs({ client })
        return cleanups.closing(postgresKeyStore({ db }, { deadlineMs, listenUrl: false }))
      },
    ],
  ])('on %s, where the server cannot be asked', (_, open) => {
    it('calls that read the whole table have several times as long', async () => {
      const store = await open(DEADLINE_MS)
      await store.insertIfAbsent([randomRecord('alice')])
      await slowDown()
      expect(await store.census()).toMatchObject([{ count: 1 }])
      await expectDeadline('getAll', () => store.getAll(['alice']))
    })

    it('after which the error names the cause and the way out', async () => {
      await cleanups.closing(postgresKeyStore({ url: databaseUrl })).ready()
      const store = await open(DEADLINE_MS / 10)
      await expect
        .poll(() =>
          store.ready().then(
            () => true,
            () => false,
          ),
        )
        .toBe(true)
      const end = await lockTable()
      const error = await keystoreErrorOf(store.census())
      await end()
      expect([error.code, error.retryable]).toEqual(['ERR_STORE', true])
      expect(error.message).toMatch(/waited 2000 ms for .*still at work.*give the pool a second connection/)
    })
  })
})

const WAITING = `select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
