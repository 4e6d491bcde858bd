/** URLs of databases: the file that one names, which are for Postgres, and what is refused without being shown. */
import { resolve } from 'node:path'
import { describe, expect, it } from 'vitest'
import {
  assertPostgresUrl,
  assertUrl,
  isPostgresUrl,
  loadDriver,
  serverOf,
  sqlitePath,
} from '../../src/drivers/url.js'
import { StoreError } from '../../src/errors.js'
import { errorOf, keystoreErrorOf } from '../support/errors.js'

const INVALID = { code: 'ERR_INVALID_ARGUMENT' }

describe('serverOf', () => {
  it.each([
    ['postgres://user:hunter2@db.example:6432/app?sslmode=require', 'db.example:6432/app'],
    ['postgresql://user:hunter2@localhost/app', 'localhost:5432/app'],
    ['postgres://[::1]/app', '[::1]:5432/app'],
    ['postgres:///app?host=/var/run/postgresql', null],
    ['postgres://user:hunter2@host:port/app', null],
    [undefined, null],
  ])('of %s is %s, without user and password', (url, server) => {
    expect(serverOf(url)).toBe(server)
  })
})

describe('sqlitePath', () => {
  it.each([
    ['data/keystore.db', 'data/keystore.db'],
    ['/data/keystore.db', '/data/keystore.db'],
    ['C:\\data\\keystore.db', 'C:\\data\\keystore.db'],
    ['./odd:name.db', './odd:name.db'],
    ['100%25.db', '100%25.db'],
    [':memory:', ':memory:'],
    ['sqlite:data/keystore.db', 'data/keystore.db'],
    ['sqlite:/data/keystore.db', '/data/keystore.db'],
    ['SQLite:data/keystore.db', 'data/keystore.db'],
    ['sqlite::memory:', ':memory:'],
    ['file:data/keystore.db', 'data/keystore.db'],
    ['file:a%20b.db', 'a%20b.db'],
  ])('of %s is %s', (url, path) => {
    expect(sqlitePath(url)).toBe(path)
  })

  it.each([
    ['sqlite:///data/keystore.db', '/data/keystore.db'],
    ['file:///data/keystore.db', '/data/keystore.db'],
    ['file:///data/a%20b.db', '/data/a b.db'],
    ['FILE:///data/ключ.db', '/data/ключ.db'],
  ])('of %s with two slashes is decoded: %s', (url, path) => {
    expect(resolve(sqlitePath(url))).toBe(resolve(path))
  })

  it.each([
    ['mysql://user:hunter2@host/db', 'scheme mysql'],
    ['http://user:hunter2@host/keystore.db', 'scheme http'],
    ['sqlite:hunter2.db?mode=ro', 'no parameters'],
    ['file:hunter2.db#x', 'no parameters'],
    ['sqlite:', 'no path'],
    ['file:', 'no path'],
    ['sqlite://hunter2/keystore.db', 'sqlite:///absolute/path'],
    ['file:///hunter2%2Fkeystore.db', 'file:///absolute/path'],
  ])('refuses %s, and shows its scheme alone', async (url, words) => {
    const error = await keystoreErrorOf(() => sqlitePath(url))
    expect(error).toMatchObject(INVALID)
    expect(error.message).toContain(words)
    expect(error.message).not.toContain('hunter2')
  })
})

describe('isPostgresUrl', () => {
  it.each([
    ['postgres://host/db', true],
    ['postgresql://host/db', true],
    ['POSTGRES://host/db', true],
    // Refused later as no URL of Postgres, and never taken for a path.
    ['postgres:host', true],
    ['postgres', false],
    ['data/postgres:db', false],
    ['sqlite:postgres://host/db', false],
  ])('of %s is %s', (url, expected) => {
    expect(isPostgresUrl(url)).toBe(expected)
  })
})

describe('assertPostgresUrl', () => {
  it.each([
    'postgres://user:hun/ter2@host:5432/db',
    'postgres://user:p@hun/ter2#x@host:5432/db',
    'postgres://user:hunter2#x@host/db',
    'postgres://user:hun?ter2@host/db',
    'postgres://user:1?hunter2@host/db',
    'postgres://user:hunter2@host:port/db',
    'postgres://hun[ter2/db',
  ])('refuses %s, of which it shows nothing', async (url) => {
    const error = await keystoreErrorOf(() => assertPostgresUrl(url, 'url'))
    expect(error).toMatchObject(INVALID)
    expect(error.message).toMatch(/^url cannot be read as a URL: .*must be percent-encoded/)
    expect(error.message).not.toMatch(/hun|ter2/)
  })

  it.each([
    'postgres://host/db',
    'POSTGRESQL://user:p%40%2F%23@host:5432/db?sslmode=require&application_name=a@b',
    // pg reads both, and connects to a socket.
    'postgresql:///db?host=/var/run/postgresql',
    'postgres://user:password@/db?host=/tmp',
    'postgres://user:p@ss@host/db',
    'postgres://user:pass word@[::1]:5432/db',
  ])('takes %s', (url) => {
    expect(() => assertPostgresUrl(url, 'url')).not.toThrow()
  })
})

describe('assertUrl', () => {
  it.each([undefined, null, 7, '', new URL('postgres://host/db')])('refuses %s', async (url) => {
    expect(await keystoreErrorOf(() => assertUrl(url))).toMatchObject(INVALID)
  })

  it.each(['keystore.db\n', ' keystore.db', '\tpostgres://u:hunter2@host/db'])(
    'refuses white space around %j, and shows nothing of it',
    async (url) => {
      const error = await keystoreErrorOf(() => assertUrl(url))
      expect(error).toMatchObject(INVALID)
      expect(error.message).toContain('white space')
      expect(error.message).not.toContain('hunter2')
    },
  )

  it('accepts white space inside a path', () => {
    expect(() => assertUrl('my data/keystore.db')).not.toThrow()
  })
})

describe('loadDriver', () => {
  const missing = (message: string, code = 'ERR_MODULE_NOT_FOUND') =>
    loadDriver('pg', () => Promise.reject(Object.assign(new Error(message), { code })))

  it('gives the module', async () => {
    expect(await loadDriver('pg', async () => 'the module')).toBe('the module')
  })

  it.each(['ERR_MODULE_NOT_FOUND', 'MODULE_NOT_FOUND'])('says what to install after %s', async (code) => {
    const error = await errorOf(missing("Cannot find package 'pg'", code))
    expect(error).toBeInstanceOf(StoreError)
    expect(error).toMatchObject({ code: 'ERR_STORE', retryable: false })
    expect(error.message).toContain('npm install pg')
  })

  it('names drizzle-orm if that is what is missing, and not the file that needs it', async () => {
    const lacking = await errorOf(missing("Cannot find package 'drizzle-orm' imported from /app/store.js"))
    expect(lacking.message).toContain('npm install drizzle-orm')
    const other = await errorOf(missing("Cannot find package 'pg' imported from /app/drizzle-orm/session.js"))
    expect(other.message).toContain('npm install pg')
  })

  it('throws any other error as it is', async () => {
    const error = new Error('a bug in the driver')
    await expect(loadDriver('pg', () => Promise.reject(error))).rejects.toBe(error)
  })
})
