/** A secret passed as a wrong argument to any public function is in no error: neither its text nor its bytes, and no password. */
import { randomBytes } from 'node:crypto'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { openKeyStore } from '../../src/adapters/open.js'
import { postgresKeyStore } from '../../src/adapters/postgres/store.js'
import { sqliteKeyStore } from '../../src/adapters/sqlite/store.js'
import * as api from '../../src/index.js'
import { temporaryFolder } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { expectWithout, secretForms, textForms } from '../support/leaks.js'
import { warningsOf } from '../support/warnings.js'

const folder = temporaryFolder()
afterAll(() => folder.remove())

const secretBytes = randomBytes(32)
const secretText = secretBytes.toString('base64url')
const password = `Pw-${randomBytes(12).toString('base64url')}`
const forms = [...secretForms(secretBytes), ...textForms(secretText), ...textForms(password)]

/** The secret in every type that a caller may pass. The type `never` fits every parameter. */
const shapes: readonly (readonly [name: string, value: never])[] = [
  ['text', secretText],
  ['padded text', `${secretText}=`],
  ['a token', api.encryptWithKey(secretText, secretBytes)],
  ['text with a lone surrogate', `${secretText}\ud800`],
  ['text in a long text', secretText.repeat(20)],
  ['a Buffer', secretBytes],
  ['a Uint8Array', new Uint8Array(secretBytes)],
  ['33 bytes', Buffer.concat([secretBytes, Buffer.of(1)])],
  ['an ArrayBuffer', new Uint8Array(secretBytes).buffer],
  ['an array of numbers', [...secretBytes]],
  ['an array of texts', [secretText]],
  ['an object', { key: secretText, primary: secretText, id: secretText, url: secretText }],
  ['a symbol', Symbol(secretText)],
  ['a function', Object.assign(() => secretText, { secretText })],
  ['a big integer', BigInt(`0x${secretBytes.toString('hex')}`)],
].map(([name, value]) => [name as string, value as never])

const goodKey = randomBytes(32)
const masterKey = api.localMasterKey(randomBytes(32))

type Call = readonly [name: string, call: (secret: never, envelope: api.EnvelopeCrypto) => unknown]

/** Calls of public functions that check the argument which is the secret. */
const checked: readonly Call[] = [
  ['encryptWithKey, plaintext', (secret) => api.encryptWithKey(secret, goodKey)],
  ['encryptWithKey, key', (secret) => api.encryptWithKey('x', secret)],
  ['decryptWithKey, token', (secret) => api.decryptWithKey(secret, goodKey)],
  ['decryptWithKey, key', (secret) => api.decryptWithKey('v2:', secret)],
  ['derivePoolKey', (secret) => api.derivePoolKey(secret)],
  ['apiKeyHash', (secret) => api.apiKeyHash(secret)],
  ['localMasterKey', (secret) => api.localMasterKey(secret)],
  ['masterKeyring, primary', (secret) => api.masterKeyring({ primary: secret })],
  ['masterKeyring, previous', (secret) => api.masterKeyring({ primary: masterKey, previous: secret })],
  ['masterKeyring, a previous', (secret) => api.masterKeyring({ primary: masterKey, previous: [secret] })],
  [
    'EnvelopeCrypto.open, masterKeys',
    (secret) => api.EnvelopeCrypto.open({ store: memoryKeyStore(), masterKeys: secret }),
  ],
  [
    'EnvelopeCrypto.open, format',
    (secret) => api.EnvelopeCrypto.open({ store: memoryKeyStore(), masterKeys: masterKey, format: secret }),
  ],
  ['encrypt, plaintext', (secret, envelope) => envelope.encrypt('alice', secret)],
  ['encrypt, context', (secret, envelope) => envelope.encrypt('alice', 'x', secret)],
  ['encrypt, a value of the context', (secret, envelope) => envelope.encrypt('alice', 'x', { a: secret })],
  ['encryptBytes', (secret, envelope) => envelope.encryptBytes('alice', secret)],
  ['decrypt, token', (secret, envelope) => envelope.decrypt('alice', secret)],
  ['decrypt, context', (secret, envelope) => envelope.decrypt('alice', 'v2:', secret)],
  ['decryptBytes, token', (secret, envelope) => envelope.decryptBytes('alice', secret)],
  ['pool.encrypt', (secret, envelope) => envelope.pool.encrypt(secret)],
  ['pool.decrypt', (secret, envelope) => envelope.pool.decrypt(secret)],
  ['pool.decrypt, context', (secret, envelope) => envelope.pool.decrypt('v2:', secret)],
]

/** Calls that may succeed, or fail for another reason. They too must not show the secret. */
const unchecked: readonly Call[] = [
  ['isEncrypted', (secret) => api.isEncrypted(secret)],
  ['masterKeyring', (secret) => api.masterKeyring(secret)],
  ['masterKeysFromEnv', (secret) => api.masterKeysFromEnv(secret)],
  [
    'masterKeysFromEnv, a key that is cut',
    (secret) => api.masterKeysFromEnv({ API_KEY_MASTER_KEY: String(secret).slice(1) }),
  ],
  [
    'masterKeysFromEnv, previous',
    (secret) =>
      api.masterKeysFromEnv({
        API_KEY_MASTER_KEY: secretText,
        API_KEY_MASTER_KEY_PREVIOUS: `${String(secret)}x`,
      }),
  ],
  ['resolveMasterKey', (secret) => api.resolveMasterKey(secret)],
  [
    'resolveMasterKey, a key that is cut',
    (secret) => api.resolveMasterKey({ API_KEY_MASTER_KEY: `${String(secret)}!` }),
  ],
  ['EnvelopeCrypto.open', (secret) => api.EnvelopeCrypto.open(secret)],
  [
    'EnvelopeCrypto.open, store',
    (secret) => api.EnvelopeCrypto.open({ store: secret, masterKeys: masterKey }),
  ],
  ['encrypt, options', (secret, envelope) => envelope.encrypt('alice', 'x', {}, secret)],
]

describe('a secret in the wrong place', () => {
  let envelope: api.EnvelopeCrypto
  beforeEach(async () => {
    envelope = await api.EnvelopeCrypto.open({ store: memoryKeyStore(), masterKeys: masterKey })
  })
  afterEach(() => envelope.close())

  it.each([...checked, ...unchecked])('is in no error and no warning: %s', async (_, call) => {
    const errors: unknown[] = []
    const warnings = await warningsOf(async () => {
      for (const [, secret] of shapes) {
        try {
          await call(secret, envelope)
        } catch (error) {
          errors.push(error)
        }
      }
    })
    for (const shown of [...errors, ...warnings]) expectWithout(forms, shown)
  })

  it('is in no error of masterKeysFromFile, neither as the path nor as the content', async () => {
    const contents = [`${secretText}x`, `KEY=${secretText}`, secretBytes, `${secretText}\n${secretText}`]
    const files = contents.map((content, i) => {
      const path = join(folder.path, `key-${i}`)
      writeFileSync(path, content)
      return path
    })
    const paths: unknown[] = [
      secretText,
      `${secretText}=\n`,
      secretBytes,
      new Uint8Array(secretBytes),
      [...secretBytes],
      ...files,
    ]
    for (const path of paths) {
      expectWithout(forms, await errorOf(() => api.masterKeysFromFile(path as string)))
      if (typeof path === 'string') {
        expectWithout(forms, await errorOf(() => api.masterKeysFromEnv({ API_KEY_MASTER_KEY_FILE: path })))
      }
    }
  })

  it('is shown by none of the values that hold one', () => {
    const keyring = api.masterKeyring({ primary: masterKey, previous: [api.localMasterKey(secretBytes)] })
    for (const value of [keyring, keyring.previous[0], keyring.all]) expectWithout(forms, value)
  })

  it.each(checked)('is refused with ERR_INVALID_ARGUMENT if its type is wrong: %s', async (_, call) => {
    const error = await errorOf(() => call(Symbol(secretText) as never, envelope))
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
  })
})

describe('the password of a connection URL', () => {
  it.each([
    'mysql://user:PASSWORD@127.0.0.1/db',
    ' postgres://user:PASSWORD@127.0.0.1/db',
    '"postgres://user:PASSWORD@127.0.0.1/db"',
    `'postgres://user:PASSWORD@127.0.0.1/db'`,
    'KEYSTORE_URL=postgres://user:PASSWORD@127.0.0.1/db',
    'jdbc:postgresql://user:PASSWORD@127.0.0.1/db',
    'sqlite:postgres://user:PASSWORD@127.0.0.1/db',
    'sqlite://user:PASSWORD@127.0.0.1/db',
    'file://user:PASSWORD@127.0.0.1/db',
    'user:PASSWORD@127.0.0.1/db',
    'postgres:user:PASSWORD@127.0.0.1/db',
    'postgres:/user:PASSWORD@127.0.0.1/db',
    'POSTGRES://user:PASSWORD@127.0.0.1/db',
    'postgres://user:PASSWORD@127.0.0.1:port/db',
    'postgres://user:PASSWORD@127.0.0.1:99999/db',
    'postgres://user:PASSWORD@[::1/db',
    'postgres://user:%ZZPASSWORD@127.0.0.1:1/db',
    'postgres://user:PASSWORD%E0%A4@127.0.0.1:1/db',
    'postgres://user:a/PASSWORD@127.0.0.1:1/db',
    'postgres://user:PASSWORD@127.0.0.1:1/%E0%A4',
    'postgres://user:PASSWORD@127.0.0.1:1/db?sslrootcert=/nonexistent/ca.pem',
    'postgres://user@127.0.0.1:1/db?password=PASSWORD',
    'postgres://user:PASSWORD@/db?host=/nonexistent',
  ])('is in no error of openKeyStore: %s', async (template) => {
    const url = template.replace('PASSWORD', password)
    const here = process.cwd()
    const error = await errorOf(openKeyStore(url, { deadlineMs: 50 }))
    expect(error).toMatchObject({ code: expect.stringMatching(/^ERR_(INVALID_ARGUMENT|STORE)$/) })
    expectWithout(forms, error)
    // A URL must never be taken for a path: no such file was made.
    for (const name of [
      ' postgres:',
      'KEYSTORE_URL=postgres:',
      '"postgres:',
      "'postgres:",
      'postgres:',
      'user',
    ]) {
      expect(existsSync(join(here, name))).toBe(false)
    }
  })

  const url = `postgres://user:${password}@127.0.0.1:1/db`

  it.each<[string, () => unknown]>([
    ['postgresKeyStore(url)', () => postgresKeyStore(url as never)],
    ['postgresKeyStore({ db: url })', () => postgresKeyStore({ db: url as never })],
    ['postgresKeyStore({ url: URL })', () => postgresKeyStore({ url: new URL(url) as never })],
    ['postgresKeyStore with ssl twice', () => postgresKeyStore({ url: `${url}?sslmode=require`, ssl: true })],
    ['postgresKeyStore with an empty schema', () => postgresKeyStore({ url }, { schema: '' })],
    ['sqliteKeyStore(url)', () => sqliteKeyStore(url as never)],
    ['sqliteKeyStore({ path: url })', () => sqliteKeyStore({ path: url })],
    ['sqliteKeyStore({ db: url })', () => sqliteKeyStore({ db: url as never })],
    ['openKeyStore(URL)', () => openKeyStore(new URL(url) as never)],
    ['openKeyStore with adopt', () => openKeyStore(url, { adopt: true })],
  ])('is in no error of %s, which is ERR_INVALID_ARGUMENT', async (_, work) => {
    const error = await errorOf(work)
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    expectWithout(forms, error)
  })

  it('is not shown by a store that holds it', async () => {
    const store = postgresKeyStore({ url }, { deadlineMs: 50 })
    expectWithout(forms, store)
    expectWithout(forms, await errorOf(store.ready()))
    expectWithout(forms, store)
    await store.close()
  })
})
