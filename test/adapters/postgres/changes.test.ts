/** Notifications on Postgres: when they are sent, to whom, and what a store reports when the connection is lost. */
import { setTimeout as sleep } from 'node:timers/promises'
import { inspect } from 'node:util'
import { drizzle } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import { beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../../src/adapters/open.js'
import {
  type PostgresKeyStore,
  type PostgresKeyStoreOptions,
  postgresKeyStore,
} from '../../../src/adapters/postgres/store.js'
import type { StoreChange } from '../../../src/index.js'
import { isAnything, isExactly, isSilent, listenTo } from '../../support/change-listener.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { itIf } from '../../support/conditional.js'
import { asAdmin, isChosen } from '../../support/databases.js'
import { hasPgbouncer, type Pgbouncer, startPgbouncer } from '../../support/pgbouncer.js'
import { postgresProxy } from '../../support/postgres-proxy.js'
import { freePort, startPostgres } from '../../support/postgres-server.js'
import { randomRecord } from '../../support/rows.js'
import { slow } from '../../support/slow.js'

const CHANNEL = /^drizzle_keystore_[0-9a-f]{8}$/

describe.runIf(isChosen('postgres'))('notifications', () => {
  const cleanups = cleanUpAfterEach()
  let databaseUrl: string
  let pool: pg.Pool
  beforeEach(async () => {
    databaseUrl = await cleanups.database('postgres')
    pool = new pg.Pool({ connectionString: databaseUrl })
    pool.on('error', () => undefined)
    cleanups.add(() => pool.end())
  })

  const open = (options: PostgresKeyStoreOptions = {}, url = databaseUrl) =>
    cleanups.closing(postgresKeyStore({ url }, options))
  const killListening = () =>
    asAdmin(
      databaseUrl,
      `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()
        and pid <> pg_backend_pid() and query ilike 'listen %'`,
    )
  /** The channel that the stores of the schema `public` use. */
  async function channel(): Promise<string> {
    const { rows } = await pool.query(
      `select substring(query from 'listen (\\w+)') as channel from pg_stat_activity where datname = current_database() and query like 'listen %' limit 1`,
    )
    return rows[0].channel
  }

  it('are sent when the host’s transaction commits, and not when it rolls back', async () => {
    const store = open()
    await store.insertIfAbsent(['alice', 'bob'].map((userId) => randomRecord(userId)))
    const listener = listenTo(store)
    await listener.next(isAnything)
    const db = drizzle({ client: pool })
    const rolledBack = db.transaction(async (tx) => {
      await postgresKeyStore({ db: tx }).shred('alice', { forget: false })
      throw new Error('rolled back')
    })
    await expect(rolledBack).rejects.toThrow('rolled back')
    let atCommit = 0
    await db.transaction(async (tx) => {
      await postgresKeyStore({ db: tx }).shred('bob', { forget: false })
      // Long enough for a notification to arrive.
      await sleep(100)
      atCommit = listener.changes.length
    })
    expect(await listener.next(({ userIds }) => userIds !== undefined)).toEqual({ userIds: ['bob'] })
    expect(atCommit).toBe(1)
  })

  it('go to the stores of the same schema alone, over a channel of its own', async () => {
    const [here, there] = [open(), open({ schema: 'There' })]
    const [atHere, atThere] = [listenTo(here), listenTo(there)]
    await Promise.all([atHere.next(isAnything), atThere.next(isAnything)])
    expect(await channel()).toMatch(CHANNEL)
    await there.shred('alice', { forget: false })
    await atThere.next(isExactly('alice'))
    await here.shred('bob', { forget: false })
    await atHere.next(isExactly('bob'))
    expect(atHere.changes).toEqual([{}, { userIds: ['bob'] }])
    expect(atThere.changes).toEqual([{}, { userIds: ['alice'] }])
  })

  it('that others send on the channel are reported as an unknown change, if they are not ours', async () => {
    const listener = listenTo(open())
    await listener.next(isAnything)
    const name = await channel()
    const foreign = [
      '',
      'garbage',
      '"alice"',
      '[]',
      '[1]',
      '{"userIds":["alice"]}',
      'null',
      '7',
      `"${'x'.repeat(7000)}"`,
    ]
    for (const payload of foreign) {
      await pool.query('select pg_notify($1, $2)', [name, payload])
      expect(await listener.next(() => true)).toEqual({})
    }
    // A process that begins to listen probes the channel: that is no change.
    await pool.query('select pg_notify($1, $2)', [name, '{"probe":"of another process"}'])
    await pool.query('select pg_notify($1, $2)', ['another_channel', '["alice"]'])
    await pool.query('select pg_notify($1, $2)', [name, '["bob","carol"]'])
    expect(await listener.next(() => true)).toEqual({ userIds: ['bob', 'carol'] })
  })

  it('arrive again after the connection was lost; the store reports the loss, then that any row may have changed', async () => {
    const store = open()
    const listener = listenTo(store)
    await listener.next(isAnything)
    for (const userId of ['alice', 'bob']) {
      await killListening()
      expect(await listener.next(() => true)).toEqual({ silent: expect.stringMatching(/lost .*57P01/) })
      expect(await listener.next(() => true)).toEqual({})
      await store.shred(userId, { forget: false })
      await listener.next(isExactly(userId))
    }
  })

  it('arrive again after the server was away', async () => {
    const server = await startPostgres()
    const store = open({ deadlineMs: 20_000 }, server.url)
    const listener = listenTo(store)
    try {
      await listener.next(isAnything)
      await server.stop()
      await listener.next(isSilent)
      // Long enough for several attempts to connect, which are not reported.
      await sleep(1500)
      const late = listenTo(store)
      await late.next(isSilent)
      await server.start()
      await Promise.all([listener.next(() => true), late.next(() => true)])
      await store.shred('alice', { forget: false })
      await Promise.all([listener.next(isExactly('alice')), late.next(isExactly('alice'))])
      expect(listener.changes).toEqual([{}, { silent: expect.any(String) }, {}, { userIds: ['alice'] }])
      expect(late.changes).toEqual(listener.changes.slice(1))
    } finally {
      await store.close()
      await server.remove()
    }
  })

  it('are reported as lost when listening fails from the start, for a reason that shows no password', async () => {
    const [wrong, nowhere] = [new URL(databaseUrl), new URL(databaseUrl)]
    wrong.password = 'hunter2-wrong'
    nowhere.port = String(await freePort())
    nowhere.password = 'hunter2-nowhere'
    for (const [listenUrl, code] of [
      [wrong.href, '28P01'],
      [nowhere.href, 'ECONNREFUSED'],
    ]) {
      const store = open({ listenUrl: listenUrl ?? '' })
      const listener = listenTo(store)
      const change = await listener.next(() => true)
      expect(change.silent).toContain(code)
      expect(inspect(change, { showHidden: true, depth: null })).not.toContain('hunter2')
      await store.shred('alice', { forget: false })
      expect(listener.changes).toHaveLength(1)
      await store.close()
    }
  })

  it.each<[string, (listenUrl?: string) => PostgresKeyStore]>([
    ['pool', (listenUrl) => postgresKeyStore({ pool }, listenUrl ? { listenUrl } : {})],
    [
      'db',
      (listenUrl) => postgresKeyStore({ db: drizzle({ client: pool }) }, listenUrl ? { listenUrl } : {}),
    ],
  ])('are received over the host’s %s only if listenUrl is given', async (_, storeOn) => {
    const without = cleanups.closing(storeOn())
    let sync = true
    const told: StoreChange[] = []
    without.changes((change) => {
      expect(sync).toBe(false)
      told.push(change)
    })
    sync = false
    const listener = listenTo(without)
    expect(await listener.next(() => true)).toEqual({ silent: expect.stringContaining('listenUrl') })
    const store = cleanups.closing(storeOn(databaseUrl))
    const other = listenTo(store)
    await other.next(isAnything)
    await without.shred('alice', { forget: false })
    await other.next(isExactly('alice'))
    expect([told, listener.changes]).toEqual([[{ silent: expect.any(String) }], told])
  })

  it('are not received with listenUrl: false, nor by a store that is bound to a transaction', async () => {
    const off = await openKeyStore(databaseUrl, { listenUrl: false })
    expect(await listenTo(off).next(() => true)).toEqual({
      silent: expect.stringContaining('listenUrl: false'),
    })
    await off.close()
    await drizzle({ client: pool }).transaction(async (tx) => {
      const inside = postgresKeyStore({ db: tx }, { listenUrl: databaseUrl })
      expect(await listenTo(inside).next(() => true)).toEqual({
        silent: expect.stringContaining('transaction'),
      })
    })
    const { rows } = await pool.query(
      "select 1 from pg_stat_activity where datname = current_database() and query like 'listen %'",
    )
    expect(rows).toEqual([])
    expect(() => postgresKeyStore({ pool }, { listenUrl: 'hunter2' })).toThrow(
      expect.objectContaining({
        code: 'ERR_INVALID_ARGUMENT',
        message: expect.not.stringContaining('hunter2'),
      }),
    )
  })

  it('take one connection while there are listeners, and none before and after', async () => {
    const store = open()
    await store.ready()
    const listening = async () =>
      (
        await pool.query(
          "select 1 from pg_stat_activity where datname = current_database() and query like 'listen %'",
        )
      ).rows.length
    expect(await listening()).toBe(0)
    const [first, second] = [listenTo(store), listenTo(store)]
    await Promise.all([first.next(isAnything), second.next(isAnything)])
    expect(await listening()).toBe(1)
    first.end()
    expect(await listening()).toBe(1)
    second.end()
    while ((await listening()) > 0) await sleep(10)
    const third = listenTo(store)
    await third.next(isAnything)
    await store.close()
    while ((await listening()) > 0) await sleep(10)
  })

  const itBehindPgbouncer = itIf(hasPgbouncer, 'pgbouncer is not installed')
  itBehindPgbouncer(
    'behind pgbouncer are reported as unavailable in transaction mode, and arrive in session mode',
    async () => {
      let bouncer: Pgbouncer | null = null
      try {
        bouncer = await startPgbouncer(databaseUrl, 'transaction')
        const store = open({}, bouncer.url)
        await store.ready()
        const listener = listenTo(store)
        expect(await listener.next(() => true)).toEqual({
          silent: expect.stringMatching(/pooler.*listenUrl/),
        })
        await store.shred('alice', { forget: false })
        expect(listener.changes).toHaveLength(1)
        const direct = open({ listenUrl: databaseUrl }, bouncer.url)
        const directly = listenTo(direct)
        await directly.next(isAnything)
        await store.shred('bob', { forget: false })
        await directly.next(isExactly('bob'))
        await Promise.all([store.close(), direct.close()])
        await bouncer.stop()
        bouncer = await startPgbouncer(databaseUrl, 'session')
        const session = open({}, bouncer.url)
        const inSession = listenTo(session)
        await inSession.next(isAnything)
        await session.shred('carol', { forget: false })
        await inSession.next(isExactly('carol'))
        await session.close()
      } finally {
        await bouncer?.stop()
      }
    },
  )

  itIf(slow, 'only with SLOW=1')('are reported as lost when the server freezes', async () => {
    const { url: listenUrl, freeze, close } = await postgresProxy(databaseUrl)
    try {
      const listener = listenTo(open({ listenUrl }))
      await listener.next(isAnything)
      freeze(true)
      await sleep(15_000)
      expect(await listener.next(() => true)).toEqual({ silent: expect.stringContaining('no answer') })
      freeze(false)
      expect(await listener.next(() => true)).toEqual({})
    } finally {
      await close()
    }
  })
})
