/** Errors of drivers: what of them is shown, which are worth another attempt, and that no value leaves them. */
import { randomBytes } from 'node:crypto'
import Database from 'better-sqlite3'
import { sql } from 'drizzle-orm'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { DeadlineError } from '../../src/drivers/deadline.js'
import {
  describeDriverError,
  isBusyCode,
  isConnectFailure,
  storeError,
} from '../../src/drivers/driver-error.js'
import { KeystoreError } from '../../src/errors.js'
import { type FreshDatabase, freshDatabase, isChosen } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { everythingOf, expectWithout, textForms } from '../support/leaks.js'

/** A value that is bound to statements. */
const secret = `sk-planted-${randomBytes(12).toString('hex')}`

const withCode = (code: string, message = 'a message', more: object = {}) =>
  Object.assign(new Error(message), { code, ...more })
/** As the class DatabaseError of pg. */
const postgresError = (code: string, message: string, more: object = {}) =>
  withCode(code, message, { severity: 'ERROR', detail: `Failing row contains (${secret})`, ...more })

describe('describeDriverError', () => {
  it.each([
    ['40001', true],
    ['40P01', true],
    ['53300', true],
    ['55P03', true],
    ['57P01', true],
    ['57P03', true],
    ['57P05', true],
    ['57014', true],
    ['25P03', true],
    ['25P04', true],
    ['08006', true],
    ['08P01', true],
    ['23505', false],
    ['28P01', false],
    ['3D000', false],
    ['42P01', false],
    ['25006', false],
    ['53100', false],
  ])('keeps SQLSTATE %s; transient: %s', (code, transient) => {
    const failure = describeDriverError(postgresError(code, 'a message'))
    expect(failure).toMatchObject({ code, transient })
    expect(failure.description).toContain(`SQLSTATE ${code}`)
  })

  it.each([
    ['25006', 'cannot execute INSERT in a read-only transaction'],
    ['53100', 'could not extend file'],
    ['53200', 'out of memory'],
  ])('takes SQLSTATE %s for retryable, though another attempt at once is of no use', (code, message) => {
    expect(describeDriverError(postgresError(code, message))).toMatchObject({
      transient: false,
      retryable: true,
    })
    expect(storeError('write rows', postgresError(code, message)).retryable).toBe(true)
  })

  it.each(['42P01', '28P01', '57P01', '08006'])(
    'shows the message of SQLSTATE %s, which names objects only',
    (code) => {
      expect(describeDriverError(postgresError(code, 'relation "x" does not exist')).description).toBe(
        `SQLSTATE ${code}: relation "x" does not exist`,
      )
    },
  )

  it.each(['22P02', '23505', '23514', 'P0001', 'XX000'])(
    'shows neither message nor detail of SQLSTATE %s, which may quote values',
    (code) => {
      const failure = describeDriverError(postgresError(code, `quotes ${secret}`))
      expect(failure.description).toBe(`SQLSTATE ${code}`)
      const constrained = postgresError(code, `quotes ${secret}`, { constraint: 'version_check' })
      expect(describeDriverError(constrained).description).toBe(`SQLSTATE ${code} (constraint version_check)`)
    },
  )

  it.each<[string, object, string, boolean]>([
    ['node:sqlite', { code: 'ERR_SQLITE_ERROR', errcode: 5 }, 'SQLITE_BUSY', true],
    ['node:sqlite', { code: 'ERR_SQLITE_ERROR', errcode: 275 }, 'SQLITE_CONSTRAINT_CHECK', false],
    ['node:sqlite', { code: 'ERR_SQLITE_ERROR', errcode: 778 }, 'SQLITE_IOERR_WRITE', false],
    ['libsql', { code: 'SQLITE_BUSY', extendedCode: 'SQLITE_BUSY_SNAPSHOT' }, 'SQLITE_BUSY_SNAPSHOT', true],
    ['libsql', { code: 'HRANA_CLOSED_ERROR' }, 'HRANA_CLOSED_ERROR', true],
    ['D1', { message: `D1_ERROR: UNIQUE constraint failed: SQLITE_CONSTRAINT` }, 'SQLITE_CONSTRAINT', false],
  ])('names the code of %s %o', (_, properties, code, transient) => {
    const failure = describeDriverError(Object.assign(new Error('as SQLite says'), properties))
    expect(failure).toMatchObject({ code, transient })
  })

  it.each(['Network connection lost', 'D1 DB is overloaded. Too many requests queued.'])(
    'takes D1’s "%s" for transient',
    (message) => {
      expect(describeDriverError(new Error(`D1_ERROR: ${message}`)).transient).toBe(true)
    },
  )

  it('shows no message of a trigger, on libsql and D1 neither', () => {
    const errors = [
      { code: 'SQLITE_CONSTRAINT', extendedCode: 'SQLITE_CONSTRAINT_TRIGGER' },
      { code: 'SQLITE_CONSTRAINT' },
      { message: `D1_ERROR: ${secret}: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_TRIGGER)` },
    ]
    for (const properties of errors) {
      const { description } = describeDriverError(Object.assign(new Error(secret), properties))
      expect(description).toContain('SQLITE_CONSTRAINT')
      expect(description).not.toContain(secret)
    }
  })

  it.each([
    ['SQLITE_BUSY', true],
    ['SQLITE_BUSY_SNAPSHOT', true],
    ['SQLITE_LOCKED_SHAREDCACHE', true],
    ['SQLITE_IOERR', false],
    ['SQLITE_READONLY', false],
    ['SQLITE_CONSTRAINT_CHECK', false],
  ])('keeps %s with its message; transient: %s', (code, transient) => {
    expect(describeDriverError(withCode(code, 'as SQLite says'))).toEqual({
      code,
      description: `${code}: as SQLite says`,
      transient,
      retryable: transient,
    })
    expect(isBusyCode(code)).toBe(transient)
  })

  it('shows no message of a trigger, which is the host’s own', () => {
    const failure = describeDriverError(withCode('SQLITE_CONSTRAINT_TRIGGER', `refused ${secret}`))
    expect(failure).toEqual({
      code: 'SQLITE_CONSTRAINT_TRIGGER',
      description: 'SQLITE_CONSTRAINT_TRIGGER',
      transient: false,
      retryable: false,
    })
  })

  it.each([
    ['ECONNREFUSED', true],
    ['ECONNRESET', true],
    ['ETIMEDOUT', true],
    ['EAI_AGAIN', true],
    ['ENOTFOUND', false],
    ['EACCES', false],
  ])('shows the message of the system error %s; transient: %s', (code, transient) => {
    const error = withCode(code, `connect ${code} 127.0.0.1:5432`, { syscall: 'connect' })
    expect(describeDriverError(error)).toEqual({
      code,
      description: error.message,
      transient,
      retryable: transient,
    })
    expect(describeDriverError(withCode(code, '', { syscall: 'connect' })).description).toBe(code)
  })

  it.each([
    'Connection terminated unexpectedly',
    'timeout exceeded when trying to connect',
    'Client has encountered a connection error and is not queryable',
    'Query read timeout',
  ])('takes pg’s "%s", which has no code, for transient', (message) => {
    expect(describeDriverError(new Error(message))).toEqual({
      code: null,
      description: message,
      transient: true,
      retryable: true,
    })
  })

  it('shows what a call waited for at its deadline', () => {
    const wrapped = new Error(`Failed query, params: ${secret}`, {
      cause: new DeadlineError('waited 10 ms for an answer'),
    })
    expect(describeDriverError(wrapped)).toEqual({
      code: null,
      description: 'waited 10 ms for an answer',
      transient: true,
      retryable: true,
    })
  })

  it('finds the driver’s error under the errors that wrap it', () => {
    const wrapped = new Error(`Failed query, params: ${secret}`, {
      cause: new Error('again', { cause: postgresError('40001', 'could not serialize access') }),
    })
    expect(describeDriverError(wrapped)).toEqual({
      code: '40001',
      description: 'SQLSTATE 40001: could not serialize access',
      transient: true,
      retryable: true,
    })
  })

  it('says what to do where a bundle broke a driver', () => {
    const missing = new Error('Could not locate the bindings file. Tried: /app/build/better_sqlite3.node')
    expect(describeDriverError(missing)).toMatchObject({
      description: expect.stringMatching(/in a bundle, mark it as external; .*npm rebuild better-sqlite3$/),
      retryable: false,
    })
    const required = new Error('Dynamic require of "node:events" is not supported')
    const { description } = describeDriverError(required)
    expect(description).toBe(`${required.message}: bundle as CommonJS, or mark the driver as external`)
    const other = new Error(`Dynamic require of "${secret} x" is not supported`)
    expectWithout(textForms(secret), describeDriverError(other))
  })

  it('shows of any other code the code, and of anything else its name or type', () => {
    const unknown = { code: null, transient: false, retryable: false }
    expect(describeDriverError(withCode('ERR_SOMETHING', secret))).toEqual({
      code: 'ERR_SOMETHING',
      description: 'ERR_SOMETHING',
      transient: false,
      retryable: false,
    })
    expect(describeDriverError(new TypeError(secret))).toEqual({ ...unknown, description: 'TypeError' })
    expect(describeDriverError(secret)).toEqual({ ...unknown, description: 'string' })
    expect(describeDriverError(null)).toEqual({ ...unknown, description: 'object' })
    // A number is no code.
    expect(describeDriverError(Object.assign(new RangeError(secret), { code: 7 }))).toEqual({
      ...unknown,
      description: 'RangeError',
    })
  })
})

describe('storeError', () => {
  it.each([
    ['SQLITE_FULL', true],
    ['SQLITE_NOMEM', true],
    ['SQLITE_PROTOCOL', true],
    ['SQLITE_IOERR_WRITE', true],
    ['SQLITE_IOERR_FSYNC', true],
    ['SQLITE_IOERR_LOCK', true],
    ['SQLITE_IOERR_SHMSIZE', true],
    ['SQLITE_IOERR_READ', false],
    ['SQLITE_IOERR_SHORT_READ', false],
    ['SQLITE_CORRUPT', false],
    ['SQLITE_NOTADB', false],
  ])('%s: the same call may succeed later: %s', (code, retryable) => {
    expect(describeDriverError(withCode(code, 'as SQLite says'))).toMatchObject({
      transient: false,
      retryable,
    })
  })

  it('is an ERR_STORE that says what failed, and whether to try again', () => {
    const busy = storeError('write rows', withCode('SQLITE_BUSY', 'database is locked'))
    expect(busy).toMatchObject({ name: 'StoreError', code: 'ERR_STORE', retryable: true })
    expect(busy.message).toBe('The key store could not write rows (SQLITE_BUSY: database is locked)')
    // Space may be made: but not at once.
    expect(describeDriverError(withCode('SQLITE_FULL', 'disk is full')).transient).toBe(false)
    const full = storeError('read pages', withCode('SQLITE_FULL', 'disk is full'), 'The source')
    expect(full).toMatchObject({ code: 'ERR_STORE', retryable: true })
    expect(storeError('read pages', withCode('SQLITE_CORRUPT', 'malformed')).retryable).toBe(false)
    expect(full.message).toMatch(/^The source could not read pages/)
  })

  it('keeps the code in its cause, and nothing else of the driver’s error', () => {
    const error = storeError('write rows', postgresError('23514', `violates ${secret}`, { where: secret }))
    expect(error.cause).toMatchObject({ name: 'DriverError', code: '23514', message: 'SQLSTATE 23514' })
    expectWithout(textForms(secret), error)
  })

  it('passes an error of the library on as it is', () => {
    const own = new KeystoreError('ERR_CLOSED', 'closed')
    expect(storeError('write rows', own)).toBe(own)
  })
})

describe('an error of pg without a code', () => {
  it.each([
    'The server does not support SSL connections',
    'There was an error establishing an SSL connection',
    'SASL: SCRAM-SERVER-FIRST-MESSAGE: client password must be a non-empty string',
    'SASL: Only mechanism(s) SCRAM-SHA-256 are supported',
    'received invalid response: 48',
  ])('is shown where it quotes nothing: %s', (message) => {
    expect(storeError('connect', new Error(message))).toMatchObject({
      message: `The key store could not connect (${message})`,
      retryable: false,
    })
  })

  it.each([
    `The server does not support SSL connections ${secret}`,
    `SASL: SCRAM-SERVER-FINAL-MESSAGE: server returned error: "${secret}"`,
    `received invalid response: ${secret}`,
  ])('is not shown where it does: %#', (message) => {
    expectWithout(textForms(secret), storeError('connect', new Error(message)))
  })
})

const NO_WEBSOCKET =
  'All attempts to open a WebSocket to connect to the database failed. Please refer to the documentation'

describe('an error of a server that is reached by fetch or by a WebSocket', () => {
  const libsql = (message: string, code: string) =>
    Object.assign(withCode(code, `${code}: ${message}`), { name: 'LibsqlError' })

  it.each<[unknown, string, boolean]>([
    [
      {
        type: 'error',
        error: withCode('ECONNREFUSED', 'connect ECONNREFUSED ::1:80', { syscall: 'connect' }),
      },
      'connect ECONNREFUSED ::1:80',
      true,
    ],
    [{ type: 'error', error: new TypeError(secret) }, 'the WebSocket could not be opened, or was lost', true],
    [{ type: 'error', message: secret }, 'the WebSocket could not be opened, or was lost', true],
    [
      { type: 'error', error: new Error('Unexpected server response: 404') },
      'Unexpected server response: 404',
      false,
    ],
    [new Error(NO_WEBSOCKET), 'no WebSocket: ', false],
    [
      libsql('connect ECONNREFUSED 127.0.0.1:80', 'HRANA_WEBSOCKET_ERROR'),
      'connect ECONNREFUSED 127.0.0.1:80',
      true,
    ],
    [libsql('Server returned HTTP status 401', 'SERVER_ERROR'), 'HTTP status 401: is the authToken', false],
    [libsql(`Server returned HTTP status 503 ${secret}`, 'SERVER_ERROR'), 'HTTP status 503', true],
    [new TypeError('fetch failed', { cause: new Error('bad port') }), 'fetch failed: bad port', false],
    [new TypeError(`error sending request for url (http://${secret})`), 'fetch failed', false],
  ])('says why: %#', (thrown, reason, transient) => {
    const error = new Error('Failed query', { cause: thrown })
    expect(describeDriverError(error)).toMatchObject({
      description: expect.stringContaining(reason),
      transient,
    })
    expect(isConnectFailure(error)).toBe(true)
    expectWithout(textForms(secret), storeError('connect', error))
  })
})

describe('isConnectFailure', () => {
  it.each([
    ['a refused connection', withCode('ECONNREFUSED', 'connect ECONNREFUSED', { syscall: 'connect' }), true],
    ['an unknown host', withCode('ENOTFOUND', 'getaddrinfo ENOTFOUND', { syscall: 'getaddrinfo' }), true],
    [
      'every address of a host',
      new AggregateError([withCode('ECONNREFUSED', '', { syscall: 'connect' })]),
      true,
    ],
    ['a timeout', new Error('timeout exceeded when trying to connect'), true],
    ['an error with such a cause', new Error('Failed query', { cause: postgresError('28P01', 'x') }), true],
    ['an unknown database', postgresError('3D000', 'x'), true],
    ['too many clients', postgresError('53300', 'x'), true],
    ['no TLS', new Error('The server does not support SSL connections'), true],
    ['a certificate that nobody vouches for', withCode('SELF_SIGNED_CERT_IN_CHAIN', 'x'), true],
    ['a certificate of another host', withCode('ERR_TLS_CERT_ALTNAME_INVALID', 'x'), true],
    ['another protocol', new Error('received invalid response: 48'), true],
    ['a driver’s own time-out', withCode('CONNECT_TIMEOUT', 'write CONNECT_TIMEOUT'), true],
    ['fetch', new TypeError('fetch failed', { cause: new Error('bad port') }), true],
    ['a WebSocket', new Error('Failed query', { cause: { type: 'error' } }), true],
    ['no WebSocket', new Error(NO_WEBSOCKET), true],
    [
      'a fetch that was answered',
      new TypeError('fetch failed', { cause: withCode('UND_ERR_SOCKET', 'x') }),
      false,
    ],
    ['a missing right', postgresError('42501', 'x'), false],
    ['a lock', postgresError('55P03', 'x'), false],
    ['a lost connection', withCode('ECONNRESET', 'read ECONNRESET', { syscall: 'read' }), false],
    ['something else', 'ECONNREFUSED', false],
  ])('of %s', (_, error, expected) => {
    expect(isConnectFailure(error)).toBe(expected)
  })
})

describe.runIf(isChosen('sqlite'))('an error of better-sqlite3 behind Drizzle', () => {
  it('shows no bound value', async () => {
    const client = new Database(':memory:')
    client.exec(`create table t (a text check (length(a) < 5), b text unique)`)
    const db = drizzleSqlite({ client })
    const error = await errorOf(() => db.run(sql`insert into t (a) values (${secret})`))
    const shown = storeError('write rows', error)
    expect(shown.cause).toMatchObject({ code: 'SQLITE_CONSTRAINT_CHECK' })
    expectWithout(textForms(secret), shown)
    client.close()
  })
})

describe.runIf(isChosen('postgres'))('an error of pg behind Drizzle', () => {
  let database: FreshDatabase
  let pool: pg.Pool
  beforeAll(async () => {
    database = await freshDatabase('postgres')
    pool = new pg.Pool({ connectionString: database.url })
    await pool.query('create table t (a text constraint short check (length(a) < 5), b integer)')
  })
  afterAll(async () => {
    await pool.end()
    await database.remove()
  })

  it.each([
    ['a CHECK violation', sql`insert into t (a) values (${secret})`, '23514'],
    ['a value of the wrong type', sql`insert into t (b) values (${secret})`, '22P02'],
  ])('shows no bound value and no detail: %s', async (_, statement, code) => {
    const error = await errorOf(() => drizzlePostgres({ client: pool }).execute(statement))
    // Drizzle's own error holds it.
    expect(everythingOf(error)).toContain(secret)
    const shown = storeError('write rows', error)
    expect(shown.cause).toMatchObject({ code })
    expectWithout(textForms(secret), shown)
  })

  it('names the constraint', async () => {
    const error = await errorOf(pool.query('insert into t (a) values ($1)', [secret]))
    expect(storeError('write rows', error).message).toContain('SQLSTATE 23514 (constraint short)')
  })
})
