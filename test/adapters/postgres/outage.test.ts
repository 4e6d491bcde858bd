/** Postgres goes away and comes back: which errors callers get, and that the process goes on. */
import { randomBytes } from 'node:crypto'
import { createServer, type Socket } from 'node:net'
import pg from 'pg'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import { EnvelopeCrypto, generateMasterKey, localMasterKey } from '../../../src/index.js'
import { startChild } from '../../support/child-process.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen, queryPostgres } from '../../support/databases.js'
import { type PostgresServer, startPostgres } from '../../support/postgres-server.js'
import { migrationsOf } from '../../support/schema-dumps.js'

const STORES = 8
const PATIENT = { deadlineMs: 20_000 }
const masterKeys = localMasterKey(generateMasterKey())

describe.runIf(isChosen('postgres'))('postgres', () => {
  let server: PostgresServer
  let url: string
  const cleanups = cleanUpAfterEach()
  const openStore = (options: { readonly deadlineMs: number }) =>
    cleanups.closing(postgresKeyStore({ url }, options))

  // A server of this file's own: no other test uses it while it is down.
  beforeAll(async () => {
    server = await startPostgres()
  })
  afterAll(() => server.remove())
  beforeEach(async () => {
    const name = `outage_${randomBytes(6).toString('hex')}`
    await queryPostgres(server.url, `create database ${name}`)
    url = server.url.replace(/\/postgres$/, `/${name}`)
  })

  it('stopped: calls fail with a retryable ERR_STORE within the deadline, and work again after the restart', async () => {
    const child = startChild('mint-on-command.mjs', [url, '2000'], {
      API_KEY_MASTER_KEY: randomBytes(32).toString('base64url'),
    })
    const mint = async (user: string): Promise<unknown> => {
      child.send(`mint ${user}`)
      return JSON.parse(await child.line())
    }
    try {
      expect(await child.line()).toBe('ready')
      expect(await mint('before')).toMatchObject({ ok: true })
      await server.stop()
      for (const user of ['before', 'during', 'during']) {
        const answer = await mint(user)
        expect(answer).toMatchObject({ ok: false, code: 'ERR_STORE', retryable: true })
        expect(answer).toMatchObject({ message: expect.stringMatching(/^The key store could not/) })
        expect(JSON.stringify(answer)).not.toContain(server.password)
        expect((answer as { ms: number }).ms).toBeLessThan(5_000)
      }
      await server.start()
      expect(await mint('before')).toMatchObject({ ok: true })
      expect(await mint('during')).toMatchObject({ ok: true })
      // No unhandled rejection, no 'error' event of an idle connection that was lost, no warning.
      expect(await child.ended()).toEqual({ code: 0, stderr: '' })
    } finally {
      child.kill()
      if (!(await answers(server.url))) await server.start()
    }
  })

  it('restarted under load: every call of eight stores succeeds', async () => {
    const services = await Promise.all(
      Array.from({ length: STORES }, () => EnvelopeCrypto.open({ store: openStore(PATIENT), masterKeys })),
    )
    let restarted = false
    let failed = false
    let calls = 0
    let callsBeforeStop = Number.POSITIVE_INFINITY
    const load = services.map(async (service, index) => {
      for (let n = 0; !restarted || n < 10; n += 1) {
        const user = `user-${n}`
        const token = await service.encrypt(user, `${index} ${n}`)
        expect(await service.decrypt(user, token)).toBe(`${index} ${n}`)
        calls += 1
      }
    })
    const restart = async () => {
      while (calls < STORES * 5 && !failed) await new Promise(setImmediate)
      callsBeforeStop = calls
      await server.stop()
      await server.start()
      restarted = true
    }
    for (const calling of load) {
      calling.catch(() => {
        failed = true
      })
    }
    // Awaited even if a call fails: the other tests need the server.
    await restart()
    await Promise.all(load)
    expect(calls).toBeGreaterThan(callsBeforeStop)
    // No store goes on with a key of its own: each decrypts what another has encrypted.
    const [first, ...others] = services
    const token = (await first?.encrypt('user-0', 'shared')) ?? ''
    for (const service of others) expect(await service.decrypt('user-0', token)).toBe('shared')
  })

  it('idle connections killed: the next calls work', async () => {
    const several = Array.from({ length: STORES }, () => openStore(PATIENT))
    await Promise.all(several.map((store) => store.ready()))
    await queryPostgres(server.url, terminate(url))
    for (const store of several) expect(await store.getAll(['alice'])).toEqual(new Map())
  })

  it('a connection killed during the migration: it is begun again', async () => {
    await whileLocked('select pg_advisory_xact_lock(23301334, 1)', async (killWaiting) => {
      const reports = Promise.all([openStore(PATIENT), openStore(PATIENT)].map((store) => store.ready()))
      reports.catch(() => undefined)
      await killWaiting(2)
      return async () => {
        const applied = (await reports).map((report) => report.applied.length)
        expect(applied.sort()).toEqual([0, migrationsOf('postgres').length])
      }
    })
  })

  it('a connection killed during an insert: it is run again, and there is one row', async () => {
    const store = openStore(PATIENT)
    const service = await EnvelopeCrypto.open({ store, masterKeys })
    await whileLocked('lock table encryption_keys in share mode', async (killWaiting) => {
      const minting = service.encrypt('alice', 'x')
      minting.catch(() => undefined)
      await killWaiting(1)
      return async () => {
        expect(await service.decrypt('alice', await minting)).toBe('x')
        expect(await store.census()).toMatchObject([{ count: 1 }])
      }
    })
  })

  it.each([
    ['a wrong password', (good: string) => good.replace(/:[^:@/]+@/, ':wrong-password@'), '28P01'],
    ['an unknown database', (good: string) => good.replace(/\/[^/]+$/, '/no_such_database'), '3D000'],
    ['an unknown role', (good: string) => good.replace('//postgres:', '//nobody:'), '28'],
  ])('%s is an ERR_STORE that is not retryable, at once', async (_name, spoil, sqlstate) => {
    const store = postgresKeyStore({ url: spoil(url) })
    const started = performance.now()
    const error: unknown = await store.ready().catch((reason: unknown) => reason)
    expect(performance.now() - started).toBeLessThan(5_000)
    expect(error).toMatchObject({
      code: 'ERR_STORE',
      retryable: false,
      message: expect.stringContaining(sqlstate),
    })
    expect(String(error)).not.toContain('wrong-password')
    expect(String(error)).not.toContain(server.password)
    await store.close()
  })

  it('a server that accepts and never answers is tried again after each connection time-out, until the deadline', async () => {
    const sockets: Socket[] = []
    const blackHole = createServer((socket) => sockets.push(socket))
    await new Promise<void>((resolve) => blackHole.listen(0, '127.0.0.1', resolve))
    const address = blackHole.address()
    const port = typeof address === 'object' && address !== null ? address.port : 0
    const store = postgresKeyStore(
      { url: `postgres://u:hidden@127.0.0.1:${port}/x`, connectionTimeoutMs: 300 },
      { deadlineMs: 1000 },
    )
    try {
      const error: unknown = await store.getAll(['alice']).catch((reason: unknown) => reason)
      expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true })
      expect(String(error)).toContain('timeout')
      expect(String(error)).not.toContain('hidden')
      expect(sockets.length).toBeGreaterThan(1)
    } finally {
      await store.close()
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => blackHole.close(resolve))
    }
  })

  /**
   * Takes a lock, and runs `work`, which starts calls that wait for the lock and has their connections killed. Then releases the
   * lock, and runs the function that `work` has returned, to look at the outcome.
   */
  async function whileLocked(
    lock: string,
    work: (killWaiting: (sessions: number) => Promise<void>) => Promise<() => Promise<void>>,
  ): Promise<void> {
    const holder = new pg.Client(url)
    await holder.connect()
    try {
      await holder.query('begin')
      await holder.query(lock)
      const outcome = await work(async (sessions) => {
        // From another session: inside a transaction pg_stat_activity shows the same snapshot for ever.
        for (let killed = 0; killed < sessions; ) {
          killed += (await queryPostgres(url, `${terminate(url)} and wait_event_type = 'Lock'`)).length
        }
      })
      await holder.query('commit')
      await outcome()
    } finally {
      await holder.end()
    }
  }
})

/** Kills the clients of a database. */
function terminate(url: string): string {
  const name = new URL(url).pathname.slice(1)
  return `select pg_terminate_backend(pid) from pg_stat_activity
    where datname = '${name}' and pid <> pg_backend_pid() and backend_type = 'client backend'`
}

function answers(url: string): Promise<boolean> {
  return queryPostgres(url, 'select 1').then(
    () => true,
    () => false,
  )
}
