/** Notifications on Postgres: what is sent when, and what becomes of them when the connection does not hold. */
import { connect as connectTo, createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { inspect } from 'node:util'
import { drizzle } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../../src/adapters/open.js'
import {
  type PostgresKeyStore,
  type PostgresKeyStoreOptions,
  postgresKeyStore,
} from '../../../src/adapters/postgres/store.js'
import type { StoreChange } from '../../../src/index.js'
import { itIf } from '../../support/conditional.js'
import { asAdmin, type FreshDatabase, freshDatabase, isChosen } from '../../support/databases.js'
import { isAnything, isExactly, isSilent, listenTo } from '../../support/heard.js'
import { hasPgbouncer, type Pgbouncer, startPgbouncer } from '../../support/pgbouncer.js'
import { freePort, startPostgres } from '../../support/postgres-server.js'
import { randomRecord } from '../../support/remains.js'
import { slow } from '../../support/slow.js'

const CHANNEL = /^drizzle_keystore_[0-9a-f]{8}$/

describe.runIf(isChosen('postgres'))('notifications', () => {
  let database: FreshDatabase
  let pool: pg.Pool
  let stores: PostgresKeyStore[]
  const open = (options: PostgresKeyStoreOptions = {}, url = database.url) => {
    const store = postgresKeyStore({ url }, options)
    stores.push(store)
    return store
  }
  const killListening = () =>
    asAdmin(
      database.url,
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

  beforeEach(async () => {
    database = await freshDatabase('postgres')
    pool = new pg.Pool({ connectionString: database.url })
    pool.on('error', () => undefined)
    stores = []
  })
  afterEach(async () => {
    await Promise.all(stores.map((store) => store.close()))
    await pool.end()
    await database.remove()
  })

  it('are sent at the host’s commit, and not at its rollback', async () => {
    const store = open()
    await store.insertIfAbsent(['alice', 'bob'].map((userId) => randomRecord(userId)))
    const heard = listenTo(store)
    await heard.next(isAnything)
    const db = drizzle({ client: pool })
    const rolledBack = db.transaction(async (tx) => {
      await postgresKeyStore({ db: tx }).shred('alice', { forget: false })
      throw new Error('rolled back')
    })
    await expect(rolledBack).rejects.toThrow('rolled back')
    let atCommit = 0
    await db.transaction(async (tx) => {
      await postgresKeyStore({ db: tx }).shred('bob', { forget: false })
      // A round trip of the listening connection: a notification would have come before its answer.
      await sleep(100)
      atCommit = heard.changes.length
    })
    expect(await heard.next(({ userIds }) => userIds !== undefined)).toEqual({ userIds: ['bob'] })
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

  it('of anybody else make caches look again, and do no more', async () => {
    const heard = listenTo(open())
    await heard.next(isAnything)
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
      expect(await heard.next(() => true)).toEqual({})
    }
    // Of a process that begins to listen: nobody need know.
    await pool.query('select pg_notify($1, $2)', [name, '{"probe":"of another process"}'])
    await pool.query('select pg_notify($1, $2)', ['another_channel', '["alice"]'])
    await pool.query('select pg_notify($1, $2)', [name, '["bob","carol"]'])
    expect(await heard.next(() => true)).toEqual({ userIds: ['bob', 'carol'] })
  })

  it('come again after the connection was lost: told are the loss, and then that anything may have changed', async () => {
    const store = open()
    const heard = listenTo(store)
    await heard.next(isAnything)
    for (const userId of ['alice', 'bob']) {
      await killListening()
      expect(await heard.next(() => true)).toEqual({ silent: expect.stringMatching(/lost .*57P01/) })
      expect(await heard.next(() => true)).toEqual({})
      await store.shred(userId, { forget: false })
      await heard.next(isExactly(userId))
    }
  })

  it('come again after the server was away', async () => {
    const server = await startPostgres()
    const store = open({ deadlineMs: 20_000 }, server.url)
    const heard = listenTo(store)
    try {
      await heard.next(isAnything)
      await server.stop()
      await heard.next(isSilent)
      // Long enough for several attempts, of which nobody is told.
      await sleep(1500)
      const late = listenTo(store)
      await late.next(isSilent)
      await server.start()
      await Promise.all([heard.next(() => true), late.next(() => true)])
      await store.shred('alice', { forget: false })
      await Promise.all([heard.next(isExactly('alice')), late.next(isExactly('alice'))])
      expect(heard.changes).toEqual([{}, { silent: expect.any(String) }, {}, { userIds: ['alice'] }])
      expect(late.changes).toEqual(heard.changes.slice(1))
    } finally {
      await store.close()
      await server.remove()
    }
  })

  it('that cannot be listened to at first are a loss too, without a password in its reason', async () => {
    const [wrong, nowhere] = [new URL(database.url), new URL(database.url)]
    wrong.password = 'hunter2-wrong'
    nowhere.port = String(await freePort())
    nowhere.password = 'hunter2-nowhere'
    for (const [listenUrl, code] of [
      [wrong.href, '28P01'],
      [nowhere.href, 'ECONNREFUSED'],
      ['postgres://u:hunter2@host:port/db', 'ERR_INVALID_URL'],
    ]) {
      const store = open({ listenUrl: listenUrl ?? '' })
      const heard = listenTo(store)
      const change = await heard.next(() => true)
      expect(change.silent).toContain(code)
      expect(inspect(change, { showHidden: true, depth: null })).not.toContain('hunter2')
      await store.shred('alice', { forget: false })
      expect(heard.changes).toHaveLength(1)
      await store.close()
    }
  })

  it.each<[string, (listenUrl?: string) => PostgresKeyStore]>([
    ['pool', (listenUrl) => postgresKeyStore({ pool }, listenUrl ? { listenUrl } : {})],
    [
      'db',
      (listenUrl) => postgresKeyStore({ db: drizzle({ client: pool }) }, listenUrl ? { listenUrl } : {}),
    ],
  ])('over the host’s %s are listened to with listenUrl only', async (_, storeOn) => {
    const without = storeOn()
    stores.push(without)
    let sync = true
    const told: StoreChange[] = []
    without.changes((change) => {
      expect(sync).toBe(false)
      told.push(change)
    })
    sync = false
    const heard = listenTo(without)
    expect(await heard.next(() => true)).toEqual({ silent: expect.stringContaining('listenUrl') })
    const store = storeOn(database.url)
    stores.push(store)
    const other = listenTo(store)
    await other.next(isAnything)
    await without.shred('alice', { forget: false })
    await other.next(isExactly('alice'))
    expect([told, heard.changes]).toEqual([[{ silent: expect.any(String) }], told])
  })

  it('are switched off by listenUrl: false, and in a store that is bound to a transaction', async () => {
    const off = await openKeyStore(database.url, { listenUrl: false })
    expect(await listenTo(off).next(() => true)).toEqual({
      silent: expect.stringContaining('listenUrl: false'),
    })
    await off.close()
    await drizzle({ client: pool }).transaction(async (tx) => {
      const inside = postgresKeyStore({ db: tx }, { listenUrl: database.url })
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

  it('take one connection while somebody listens, and none before and after', async () => {
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

  const bouncing = itIf(hasPgbouncer, 'pgbouncer is not installed')
  bouncing(
    'behind pgbouncer in transaction mode are told to be silent; in session mode they arrive',
    async () => {
      let bouncer: Pgbouncer | null = null
      try {
        bouncer = await startPgbouncer(database.url, 'transaction')
        const store = open({}, bouncer.url)
        await store.ready()
        const heard = listenTo(store)
        expect(await heard.next(() => true)).toEqual({ silent: expect.stringMatching(/pooler.*listenUrl/) })
        await store.shred('alice', { forget: false })
        expect(heard.changes).toHaveLength(1)
        const direct = open({ listenUrl: database.url }, bouncer.url)
        const directly = listenTo(direct)
        await directly.next(isAnything)
        await store.shred('bob', { forget: false })
        await directly.next(isExactly('bob'))
        await Promise.all([store.close(), direct.close()])
        await bouncer.stop()
        bouncer = await startPgbouncer(database.url, 'session')
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

  itIf(slow, 'only with SLOW=1')('are known to be lost when the server freezes', async () => {
    const { port, freeze, close } = await freezableProxy(database.url)
    const listenUrl = new URL(database.url)
    listenUrl.port = String(port)
    try {
      const heard = listenTo(open({ listenUrl: listenUrl.href }))
      await heard.next(isAnything)
      freeze(true)
      await sleep(15_000)
      expect(await heard.next(() => true)).toEqual({ silent: expect.stringContaining('no answer') })
      freeze(false)
      expect(await heard.next(() => true)).toEqual({})
    } finally {
      await close()
    }
  })
})

/** Hands bytes to and fro, until it is frozen. */
async function freezableProxy(url: string) {
  const target = new URL(url)
  const sockets = new Set<Socket>()
  let frozen = false
  const server = createServer((near) => {
    const far = connectTo(Number(target.port), target.hostname)
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(from)
      from.on('error', () => to.destroy())
      from.on('close', () => to.destroy())
      from.on('data', (chunk) => {
        if (!frozen) to.write(chunk)
      })
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  return {
    port,
    freeze(value: boolean) {
      frozen = value
    },
    async close() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
