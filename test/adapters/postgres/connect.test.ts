/** A server that does not take the connection: the error says that, and why, instead of what was to be done on it. */
import { createServer, type Server, type Socket } from 'node:net'
import { Pool as NeonPool } from '@neondatabase/serverless'
import { drizzle as drizzleNeon } from 'drizzle-orm/neon-serverless'
import { drizzle as drizzlePg } from 'drizzle-orm/node-postgres'
import { drizzle as drizzlePostgresJs } from 'drizzle-orm/postgres-js'
import pg from 'pg'
import postgres from 'postgres'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../../src/adapters/open.js'
import { postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import { sqlSource } from '../../../src/reencrypt/index.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { itIf } from '../../support/conditional.js'
import { type FreshDatabase, freshDatabase, isChosen } from '../../support/databases.js'
import { keystoreErrorOf } from '../../support/errors.js'
import { everythingOf } from '../../support/leaks.js'
import { freePort } from '../../support/postgres-server.js'

describe.runIf(isChosen('postgres'))('openKeyStore on Postgres', () => {
  let database: FreshDatabase
  let other: Server | undefined
  beforeEach(async () => {
    database = await freshDatabase('postgres')
  })
  afterEach(async () => {
    await database.remove()
    await new Promise((resolve) => (other === undefined ? resolve(null) : other.close(resolve)))
    other = undefined
  })

  const changed = (change: (url: URL) => void) => {
    const url = new URL(database.url)
    change(url)
    return String(url)
  }
  /** A server of another protocol, which answers what is not Postgres's. */
  async function otherServer(answer: string): Promise<string> {
    other = createServer((socket) =>
      socket.on('error', () => undefined).once('data', () => socket.end(answer)),
    )
    await new Promise<void>((resolve) => other?.listen(0, '127.0.0.1', resolve))
    const address = other.address()
    return String(typeof address === 'object' ? address?.port : '')
  }

  it.each<[string, () => Promise<string> | string, string]>([
    [
      'no TLS',
      () => changed((url) => url.searchParams.set('sslmode', 'require')),
      'The server does not support SSL connections',
    ],
    [
      'a file of certificates that is not there',
      () => changed((url) => url.searchParams.set('sslrootcert', '/none/ca.pem')),
      "ENOENT: no such file or directory, open '/none/ca.pem'",
    ],
    ['a wrong password', () => changed((url) => Object.assign(url, { password: 'wr0ng' })), 'SQLSTATE 28P01'],
    ['no password', () => changed((url) => Object.assign(url, { password: '' })), 'SQLSTATE 28P01'],
    [
      'an unknown database',
      () => changed((url) => Object.assign(url, { pathname: '/none' })),
      'SQLSTATE 3D000',
    ],
    ['a wrong port', () => changed((url) => Object.assign(url, { port: '1' })), 'ECONNREFUSED'],
    [
      'a server of another protocol, with TLS',
      async () => {
        const port = await otherServer('HTTP/1.1 400 Bad Request\r\n\r\n')
        return changed((url) => Object.assign(url, { port, search: '?sslmode=require' }))
      },
      'There was an error establishing an SSL connection',
    ],
  ])('%s', async (_, urlOf, reason) => {
    const url = await urlOf()
    const error = await keystoreErrorOf(openKeyStore(url, { deadlineMs: 3000 }))
    const { host, pathname } = new URL(url)
    expect(error.code).toBe('ERR_STORE')
    expect(error.message).toContain(`The key store could not connect to ${host}${pathname} (`)
    expect(error.message).toContain(reason)
    for (const password of [new URL(database.url).password, 'wr0ng'])
      expect(everythingOf(error)).not.toContain(password)
  })
})

describe.runIf(isChosen('postgres')).each(['pool', 'node-postgres', 'postgres-js'])(
  'a connection of the host’s that cannot be made: %s',
  (driver) => {
    const cleanups = cleanUpAfterEach()

    function sourceOn(url: string) {
      if (driver === 'postgres-js') {
        const client = postgres(url, { onnotice: () => undefined })
        cleanups.add(() => client.end({ timeout: 0 }))
        return { db: drizzlePostgresJs({ client }) }
      }
      const pool = new pg.Pool({ connectionString: url })
      cleanups.add(() => pool.end())
      return driver === 'pool' ? { pool } : { db: drizzlePg({ client: pool }) }
    }

    it.each<[string, (url: URL) => Promise<unknown> | unknown, RegExp, boolean | null, number]>([
      [
        'a closed port',
        async (url) => Object.assign(url, { hostname: '127.0.0.1', port: String(await freePort()) }),
        /\(connect ECONNREFUSED 127\.0\.0\.1:\d+\)$/,
        true,
        // It is tried again until then.
        1500,
      ],
      // The look-up may itself have no answer.
      [
        'an unknown host',
        (url) => Object.assign(url, { hostname: 'none.invalid' }),
        /ENOTFOUND|EAI_AGAIN/,
        null,
        3000,
      ],
      [
        'a wrong password',
        (url) => Object.assign(url, { password: 'wr0ng' }),
        /\(SQLSTATE 28P01: /,
        false,
        60_000,
      ],
    ])('%s', async (_, change, reason, retryable, deadlineMs) => {
      const url = new URL(await cleanups.database('postgres'))
      const { password } = url
      await change(url)
      const modes = deadlineMs === 60_000 ? (['auto', 'off'] as const) : (['auto'] as const)
      for (const migrate of modes) {
        const store = cleanups.closing(postgresKeyStore(sourceOn(url.href), { deadlineMs, migrate }))
        const error = await keystoreErrorOf(store.getAll(['alice']))
        expect(error).toMatchObject({ code: 'ERR_STORE' })
        expect(error.message).toMatch(/^The key store could not connect to the database \(/)
        expect(error.message).toMatch(reason)
        if (retryable !== null) expect(error.retryable).toBe(retryable)
        for (const secret of [password, 'wr0ng']) expect(everythingOf(error)).not.toContain(secret)
      }
    })
  },
)

describe.runIf(isChosen('postgres'))('a connection that cannot be made', () => {
  const cleanups = cleanUpAfterEach()

  it('is one that a server does not answer for as long as the call may take', async () => {
    const sockets: Socket[] = []
    const silent = createServer((socket) => void sockets.push(socket.on('error', () => undefined)))
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
    cleanups.add(async () => {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => silent.close(resolve))
    })
    const address = silent.address()
    const port = typeof address === 'object' ? address?.port : undefined
    const pool = new pg.Pool({ connectionString: `postgres://u:hunter2@127.0.0.1:${port}/app` })
    const store = cleanups.closing(postgresKeyStore({ pool }, { deadlineMs: 200 }))
    const error = await keystoreErrorOf(store.getAll(['alice']))
    expect(error).toMatchObject({ code: 'ERR_STORE' })
    expect(error.message).toMatch(
      /could not connect to the database \(waited 200 ms for a connection to the server\)$/,
    )
  })

  it('is what a sweep reports too', async () => {
    const url = new URL(await cleanups.database('postgres'))
    url.password = 'wr0ng'
    const options = { table: 't', key: 'id', owner: null, column: 'c' }
    const error = await keystoreErrorOf(sqlSource(url.href, options))
    expect(error.message).toMatch(/^The sweep could not connect to the database \(SQLSTATE 28P01: /)
    expect(everythingOf(error)).not.toContain('wr0ng')
  })

  // From version 22 Node.js has a WebSocket of its own.
  itIf(typeof WebSocket === 'undefined', 'this Node.js has a WebSocket of its own')(
    'on Neon’s Pool without a WebSocket names the setting',
    async () => {
      const pool = new NeonPool({ connectionString: 'postgres://u:hunter2@none.invalid/app' })
      const store = cleanups.closing(postgresKeyStore({ db: drizzleNeon({ client: pool }) }))
      const error = await keystoreErrorOf(store.getAll(['alice']))
      expect(error).toMatchObject({ code: 'ERR_STORE', retryable: false })
      expect(error.message).toMatch(
        /could not connect to the database \(.*neonConfig\.webSocketConstructor = ws/,
      )
      expect(everythingOf(error)).not.toContain('hunter2')
    },
  )
})
