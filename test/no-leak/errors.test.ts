/** No error of the service or of a store holds a plaintext, a key, a wrapped key, a token or a password. */
import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type OpenKeyStoreOptions, openKeyStore } from '../../src/adapters/open.js'
import {
  EnvelopeCrypto,
  generateMasterKey,
  type KeyRecord,
  type KeyStore,
  type KeystoreEvent,
  localMasterKey,
} from '../../src/index.js'
import { plantBadRows, withChangedDatabase } from '../support/bad-databases.js'
import { dialects, type FreshDatabase, freshDatabase, temporaryFolder } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { withStore } from '../support/fresh-store.js'
import { everythingOf, secretForms, textForms } from '../support/leaks.js'
import { freshRole } from '../support/postgres-roles.js'
import { freePort } from '../support/postgres-server.js'
import { corrupted, v2Row } from '../support/rows.js'
import { FOREIGN_V3_TOKEN } from '../support/tokens.js'
import { warningsOf } from '../support/warnings.js'

const masterText = generateMasterKey()
const masterKey = localMasterKey(masterText)
const otherKey = localMasterKey(generateMasterKey())
const plaintext = `sk-planted-${randomBytes(18).toString('base64url')}`
/** The password of URLs that lead nowhere. URLs of the test server have the server's. */
const plantedPassword = `Pw-${randomBytes(12).toString('base64url')}`

/** How long stores try, so that failures come soon. */
const PATIENCE = { deadlineMs: 300 }

/** The forms of each secret that must not be seen, by name. Tests add the secrets that they make. */
const secrets = new Map<string, readonly string[]>([
  ['the master key', secretForms(Buffer.from(masterText, 'base64url'))],
  ['the plaintext', textForms(plaintext)],
  ['the planted password', textForms(plantedPassword)],
])

function plantToken(name: string, token: string): void {
  const body = token.slice(3).replace(/=+$/, '')
  secrets.set(name, [body.slice(0, 16), body.slice(-16), ...secretForms(Buffer.from(body, 'base64url'))])
}

function expectNoSecret(value: unknown): void {
  const shown = everythingOf(value)
  const found = [...secrets].filter(([, forms]) => forms.some((form) => shown.includes(form)))
  expect(found.map(([name]) => name)).toEqual([])
}

/** One way to an error: its name, the code of the error, and the call that fails. */
type ErrorPath = readonly [name: string, code: string, work: () => unknown]

describe.each(dialects)('errors on %s', (dialect) => {
  let database: FreshDatabase
  let envelope: EnvelopeCrypto
  let token: string
  let row: KeyRecord
  const folder = temporaryFolder()
  const events: KeystoreEvent[] = []

  const open = (url = database.url, options: OpenKeyStoreOptions = {}) =>
    openKeyStore(url, { ...PATIENCE, ...options })

  const onStore = <T>(work: (store: KeyStore) => Promise<T>) => withStore(database.url, work, PATIENCE)
  const insertOf = (record: KeyRecord) => () => onStore((store) => store.insertIfAbsent([record]))

  beforeAll(async () => {
    database = await freshDatabase(dialect)
    if (dialect === 'postgres') {
      secrets.set("the server's password", textForms(new URL(database.url).password))
    }
    envelope = await EnvelopeCrypto.open({
      store: await open(),
      masterKeys: masterKey,
      format: 'v2',
      onEvent: (event) => events.push(event),
    })
    token = await envelope.encrypt('alice', plaintext)
    plantToken(`the token on ${dialect}`, token)
    secrets.set(`the data key on ${dialect}`, secretForms(await envelope.getOrCreateUserKey('alice')))
    await envelope.encrypt('bob', plaintext)
    await onStore(async (store) => {
      const found = (await store.getAll(['alice'])).get('alice')?.[0]
      if (found === undefined) throw new Error('alice has no row')
      row = found
      secrets.set(`the wrapped key on ${dialect}`, secretForms(row.encryptedKey))
      const damaged = corrupted(row.encryptedKey)
      secrets.set(`the damaged wrapped key on ${dialect}`, secretForms(damaged))
      await store.insertIfAbsent([
        { ...row, userId: 'damaged', encryptedKey: damaged },
        v2Row(otherKey, { userId: 'foreign' }),
        { ...row, userId: 'bad-time' },
        { ...row, userId: 'gone' },
      ])
      await store.shred('gone', { forget: false })
    })
    await plantBadRows(dialect, database.url, plaintext)
  })

  afterAll(async () => {
    await envelope.close()
    await database.remove()
    folder.remove()
  })

  const changed = () => `${token.slice(0, 10)}${token[10] === 'A' ? 'B' : 'A'}${token.slice(11)}`

  const paths: ErrorPath[] = [
    ['a changed token', 'ERR_DECRYPTION_FAILED', () => envelope.decrypt('alice', changed())],
    ['a changed token, as bytes', 'ERR_DECRYPTION_FAILED', () => envelope.decryptBytes('alice', changed())],
    ["another user's token", 'ERR_DECRYPTION_FAILED', () => envelope.decrypt('bob', token)],
    ["a user's token in the pool", 'ERR_DECRYPTION_FAILED', () => envelope.pool.decrypt(token)],
    ['a cut token', 'ERR_MALFORMED_TOKEN', () => envelope.decrypt('alice', `${token.slice(0, 30)}.`)],
    ['a token with a foreign character', 'ERR_MALFORMED_TOKEN', () => envelope.pool.decrypt(`${token} `)],
    ['a token without its prefix', 'ERR_NOT_ENCRYPTED', () => envelope.decrypt('alice', token.slice(3))],
    ['a plaintext instead of a token', 'ERR_NOT_ENCRYPTED', () => envelope.decrypt('alice', plaintext)],
    ['a v3 token', 'ERR_FORMAT_NOT_ACCEPTED', () => envelope.decrypt('alice', FOREIGN_V3_TOKEN)],
    ['user and token exchanged', 'ERR_NOT_ENCRYPTED', () => envelope.decrypt(token, 'alice')],
    ['a token as plaintext', 'ERR_INVALID_ARGUMENT', () => envelope.encrypt('alice', token)],
    ['a token as plaintext of the pool', 'ERR_INVALID_ARGUMENT', () => envelope.pool.encrypt(token)],
    [
      'a lone surrogate after the plaintext',
      'ERR_INVALID_ARGUMENT',
      () => envelope.encrypt('alice', `${plaintext}\ud800`),
    ],
    ['an id that is too long', 'ERR_INVALID_ARGUMENT', () => envelope.encrypt(plaintext.repeat(30), 'x')],
    ['an id with a NUL', 'ERR_INVALID_ARGUMENT', () => envelope.encrypt(`${plaintext}\0`, 'x')],
    [
      'a secret in the context',
      'ERR_INVALID_ARGUMENT',
      () => envelope.encrypt('alice', 'x', { a: [plaintext] as never }),
    ],
    ['a user without a key', 'ERR_KEY_NOT_FOUND', () => envelope.decrypt('nobody', token)],
    ['a shredded user', 'ERR_KEY_SHREDDED', () => envelope.decrypt('gone', token)],
    ['a write for a shredded user', 'ERR_KEY_SHREDDED', () => envelope.encrypt('gone', plaintext)],
    ['a damaged wrapped key', 'ERR_UNWRAP_FAILED', () => envelope.decrypt('damaged', token)],
    [
      'a write under a damaged wrapped key',
      'ERR_UNWRAP_FAILED',
      () => envelope.encrypt('damaged', plaintext),
    ],
    ['a row under an unknown master key', 'ERR_UNKNOWN_MASTER_KEY', () => envelope.decrypt('foreign', token)],
    ['a time that cannot be read', 'ERR_STORE', () => envelope.encrypt('bad-time', plaintext)],
    ['a CHECK violation', 'ERR_STORE', () => insertOf({ ...row, userId: 'checked', version: 0 })()],
    ["a host's trigger that quotes the row", 'ERR_STORE', () => insertOf({ ...row, userId: 'triggered' })()],
    [
      'rows that the master keys given do not open',
      'ERR_UNKNOWN_MASTER_KEY',
      () =>
        onStore((store) =>
          EnvelopeCrypto.open({ store, masterKeys: masterKey, closeStore: false, format: 'v2' }),
        ),
    ],
    [
      'a closed service',
      'ERR_CLOSED',
      () =>
        onStore(async (store) => {
          const closed = await EnvelopeCrypto.open({
            store,
            masterKeys: masterKey,
            format: 'v2',
            allowUnknownMasterKeys: true,
          })
          await closed.close()
          await closed.encrypt('alice', plaintext)
        }),
    ],
    [
      'a closed store',
      'ERR_CLOSED',
      async () => {
        const store = await open()
        await store.close()
        await store.insertIfAbsent([row])
      },
    ],
    [
      'an altered ledger',
      'ERR_SCHEMA',
      () => withChangedDatabase(dialect, `update __drizzle_keystore_migrations set sha256 = 'x'`, open),
    ],
    [
      'a newer ledger',
      'ERR_SCHEMA',
      () =>
        withChangedDatabase(
          dialect,
          `update __drizzle_keystore_migrations set tag = '9999_x' where tag like '0003%'`,
          open,
        ),
    ],
    [
      'a table without a ledger',
      'ERR_SCHEMA',
      () => withChangedDatabase(dialect, 'drop table __drizzle_keystore_migrations', open),
    ],
    [
      'a table that is missing',
      'ERR_STORE',
      () =>
        withChangedDatabase(dialect, 'drop table encryption_keys', (url) =>
          withStore(url, (store) => store.insertIfAbsent([row]), { ...PATIENCE, migrate: 'off' }),
        ),
    ],
    ...(dialect === 'sqlite' ? sqlitePaths() : postgresPaths()),
  ]

  function sqlitePaths(): ErrorPath[] {
    const file = (name: string) => join(folder.path, name)
    const withReference = (name: string, key: unknown) => {
      const client = new Database(file(name))
      client.exec(
        'create table encryption_keys (user_id TEXT PRIMARY KEY, encrypted_key BLOB NOT NULL, created_at TEXT NOT NULL)',
      )
      client
        .prepare('insert into encryption_keys values (?, ?, ?)')
        .run('alice', key, '2026-11-22T20:24:02.735394+00:00')
      client.close()
      return file(name)
    }
    return [
      [
        'a file that is no database',
        'ERR_SCHEMA',
        () => {
          writeFileSync(file('text.db'), `${plaintext} ${masterText}`.repeat(100))
          return open(file('text.db'))
        },
      ],
      ['a file that does not exist', 'ERR_SCHEMA', () => open(file('none.db'), { migrate: 'check' })],
      ['a path that is a folder', 'ERR_INVALID_ARGUMENT', () => open(folder.path)],
      [
        "the reference's file without adopt",
        'ERR_SCHEMA',
        () => open(withReference('reference.db', Buffer.from(row.encryptedKey))),
      ],
      [
        "a reference's file with a key that is text",
        'ERR_SCHEMA',
        () => open(withReference('text-key.db', plaintext), { adopt: true }),
      ],
      [
        'a lock that is held too long',
        'ERR_STORE',
        async () => {
          const client = new Database(database.url)
          client.exec('begin immediate')
          try {
            await insertOf({ ...row, userId: 'locked' })()
          } finally {
            client.close()
          }
        },
      ],
    ]
  }

  function postgresPaths(): ErrorPath[] {
    const changedUrl = (change: (url: URL) => void) => {
      const url = new URL(database.url)
      change(url)
      return url.href
    }
    return [
      [
        'a server that is not there',
        'ERR_STORE',
        async () => open(`postgres://user:${plantedPassword}@127.0.0.1:${await freePort()}/db`),
      ],
      [
        'a host that does not exist',
        'ERR_STORE',
        () => open(`postgres://user:${plantedPassword}@host.invalid/db`),
      ],
      [
        'a wrong password',
        'ERR_STORE',
        () =>
          open(
            changedUrl((url) => {
              url.password = plantedPassword
            }),
          ),
      ],
      [
        'a role that does not exist',
        'ERR_STORE',
        () =>
          open(
            changedUrl((url) => {
              url.username = 'nobody'
              url.password = plantedPassword
            }),
          ),
      ],
      [
        'a database that does not exist',
        'ERR_STORE',
        () =>
          open(
            changedUrl((url) => {
              url.pathname = '/no_such_database'
            }),
          ),
      ],
      [
        'a server that speaks no TLS',
        'ERR_STORE',
        () => open(changedUrl((url) => url.searchParams.set('sslmode', 'verify-full'))),
      ],
      [
        'a certificate that is not there',
        'ERR_STORE',
        () => open(changedUrl((url) => url.searchParams.set('sslrootcert', '/nonexistent/ca.pem'))),
      ],
      [
        'a version beyond the integers',
        'ERR_STORE',
        () => insertOf({ ...row, userId: 'checked', version: 2 ** 31 })(),
      ],
      [
        'migrations that are missing',
        'ERR_SCHEMA',
        () => open(database.url, { schema: 'elsewhere', migrate: 'check' }),
      ],
      [
        'permission denied',
        'ERR_STORE',
        async () => {
          const role = await freshRole(database.url, [], plantedPassword)
          try {
            await withStore(role.url, (store) => store.insertIfAbsent([row]), { ...PATIENCE, migrate: 'off' })
          } finally {
            await role.remove()
          }
        },
      ],
    ]
  }

  it.each(paths)('%s: %s, and nothing secret is seen', async (_, code, work) => {
    const error = await errorOf(async () => {
      const result = await work()
      // A store that should have failed to open must not stay open.
      if (typeof result === 'object' && result !== null && 'close' in result)
        await (result as EnvelopeCrypto).close()
    })
    expect(error).toMatchObject({ code })
    expectNoSecret(error)
  })

  it('a CHECK violation names the constraint: the case above is one', async () => {
    const error = await errorOf(insertOf({ ...row, userId: 'checked', version: 0 }))
    expect(error.message).toContain('encryption_keys_version_check')
  })

  it('events name ids only', async () => {
    const seen: KeystoreEvent[] = []
    await onStore(async (store) => {
      const healthy = [...(await store.getAll(['alice', 'bob'])).values()].flat()
      await store.remove(healthy)
      try {
        await EnvelopeCrypto.open({
          store,
          masterKeys: masterKey,
          format: 'v2',
          allowUnknownMasterKeys: true,
          closeStore: false,
          onEvent: (event) => seen.push(event),
        })
      } finally {
        await store.insertIfAbsent(healthy)
      }
    })
    expect(seen.map(({ type }) => type).sort()).toEqual(['damagedKey', 'unknownMasterKey'])
    expectNoSecret([...seen, ...events])
  })

  it('a service and a store show no secret when they are printed', async () => {
    expectNoSecret(envelope)
    expectNoSecret(envelope.pool)
    await onStore(async (store) => expectNoSecret(store))
  })

  it('no process warning shows a secret while the same calls fail again', async () => {
    const warnings = await warningsOf(async () => {
      for (const [, , work] of paths.slice(0, 24)) await errorOf(work)
    })
    expectNoSecret(warnings)
  })
})
