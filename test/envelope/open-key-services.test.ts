/** EnvelopeCrypto.open with master keys in key services: a wrong one refuses, one that cannot be asked now harms its own users only. */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import {
  EnvelopeCrypto,
  type EnvelopeCryptoOptions,
  generateMasterKey,
  type KeystoreEvent,
  localMasterKey,
  type MasterKey,
  MasterKeyError,
  type MasterKeyReason,
  masterKeyring,
} from '../../src/index.js'
import { errorOf } from '../support/errors.js'
import { backends, freshStore, type TestStore } from '../support/fresh-store.js'
import { type KeyService, keyService, serviceError } from '../support/key-service.js'
import { rowsOf } from '../support/rows.js'
import { recordingCalls, remoteMasterKey } from '../support/store-doubles.js'

const local = localMasterKey(generateMasterKey())
const DETAILS = { providerCode: 'ProviderSays', requestId: 'request-1' }

describe.each(backends)('open with key services on %s', (backend) => {
  let fresh: TestStore
  let service: KeyService
  beforeEach(async () => {
    fresh = await freshStore(backend)
    service = keyService({ id: 'service', timeLimitMs: 100 })
  })
  afterEach(() => fresh.remove())

  async function openWithEvents(masterKeys: EnvelopeCryptoOptions['masterKeys'], options = {}) {
    const events: KeystoreEvent[] = []
    const onEvent = (event: KeystoreEvent) => void events.push(event)
    return { envelope: await fresh.open({ masterKeys, onEvent, ...options }), events }
  }
  /** A user whose key is under the service, and one whose key is under the local master key. */
  async function twoUsers() {
    const under = async (masterKeys: MasterKey, userId: string) =>
      (await fresh.open({ masterKeys, allowUnknownMasterKeys: true })).encrypt(userId, `of ${userId}`)
    return {
      masterKeys: masterKeyring({ primary: local, previous: [service.masterKey] }),
      alice: await under(service.masterKey, 'alice'),
      bob: await under(local, 'bob'),
    }
  }

  it.each<MasterKeyReason>(['unavailable', 'throttled', 'denied'])(
    'goes on if one is %s: only its own users fail, with the reason, until it is back',
    async (reason) => {
      const { masterKeys, alice, bob } = await twoUsers()
      service.fail(() => serviceError(reason))
      const { envelope, events } = await openWithEvents(masterKeys)
      const event = { type: 'masterKeyUnavailable', kekId: 'service', reason, ...DETAILS }
      expect(events).toEqual([event])
      expect(await envelope.decrypt('bob', bob)).toBe('of bob')
      await envelope.encrypt('carol', 'x')
      const retryable = reason !== 'denied'
      const error = await errorOf(envelope.decrypt('alice', alice))
      expect(error).toMatchObject({ code: 'ERR_MASTER_KEY', reason, retryable, ...DETAILS })
      expect(events.at(-1)).toEqual(event)
      const results = await envelope.decryptMany([
        { userId: 'alice', token: alice },
        { userId: 'bob', token: bob },
      ])
      expect(results).toMatchObject([
        { ok: false, error: { reason } },
        { ok: true, value: 'of bob' },
      ])
      service.fail(null)
      await expect
        .poll(() => envelope.decrypt('alice', alice).catch(String), { timeout: 5000 })
        .toBe('of alice')
    },
  )

  it.each<MasterKeyReason>(['wrongKey', 'notFound'])('refuses if one is %s', async (reason) => {
    const { masterKeys } = await twoUsers()
    service.fail(() => serviceError(reason))
    expect(await errorOf(fresh.open({ masterKeys }))).toMatchObject({
      code: 'ERR_MASTER_KEY',
      reason,
      ...DETAILS,
    })
  })

  it('opens with allowUnknownMasterKeys if one is there no longer', async () => {
    const { masterKeys, bob } = await twoUsers()
    service.fail(() => serviceError('notFound'))
    const { envelope, events } = await openWithEvents(masterKeys, { allowUnknownMasterKeys: true })
    expect(events).toMatchObject([{ type: 'masterKeyUnavailable', reason: 'notFound' }])
    expect(await envelope.decrypt('bob', bob)).toBe('of bob')
  })

  it('refuses one that fails with an error of its own: that is no outage', async () => {
    const { masterKeys } = await twoUsers()
    service.fail(() => new TypeError('x is not a function'))
    const error = await errorOf(fresh.open({ masterKeys }))
    expect(error).toMatchObject({ code: 'ERR_MASTER_KEY', reason: undefined, retryable: false })
  })

  it('asks all of them at the same time: those that hang cost one time limit', async () => {
    const services = Array.from({ length: 8 }, (_, index) =>
      keyService({ id: `kms:${index}`, timeLimitMs: 400 }),
    )
    for (const { masterKey } of services) {
      const envelope = await fresh.open({ masterKeys: masterKey, allowUnknownMasterKeys: true })
      await envelope.encrypt(masterKey.id, 'x')
    }
    for (const each of services) each.silence(true)
    const start = performance.now()
    const keys = services.map(({ masterKey }) => masterKey)
    const { events } = await openWithEvents(masterKeyring({ primary: local, previous: keys }))
    expect(performance.now() - start).toBeLessThan(8 * 400)
    expect(events.map((event) => 'kekId' in event && event.kekId).sort()).toEqual(
      keys.map(({ id }) => id).sort(),
    )
  })

  it('has a primary that has wrapped nothing yet wrap a key and open it, and writes nothing', async () => {
    const { store, calls } = recordingCalls(fresh.store)
    await fresh.open({ store, masterKeys: service.masterKey })
    expect(service.calls).toMatchObject({ wrap: 1, unwrap: 1 })
    expect(calls).toEqual(['sampleByKek', 'list'])
    expect(await rowsOf(fresh.store)).toEqual([])
    // The key was wiped.
    expect(service.given.at(-1)?.every((byte) => byte === 0)).toBe(true)
  })

  it('tells a service whose key it wraps and opens', async () => {
    const told: unknown[] = []
    const { wrap, unwrap } = service.masterKey
    const masterKeys: MasterKey = {
      ...service.masterKey,
      wrap: (key, aad, owner) => {
        told.push(['wrap', owner])
        return wrap(key, aad, owner)
      },
      unwrap: (wrapped, aad, owner) => {
        told.push(['unwrap', owner])
        return unwrap(wrapped, aad, owner)
      },
    }
    const envelope = await fresh.open({ masterKeys })
    const nobody = { userId: '', version: 1, tenantId: null }
    expect(told.splice(0)).toEqual([
      ['wrap', nobody],
      ['unwrap', nobody],
    ])
    await envelope.encrypt('alice', 'x')
    await envelope.rotateUserKey('alice')
    const owners = [1, 2].map((version) => ({ userId: 'alice', version, tenantId: null }))
    expect(told.splice(0)).toEqual(owners.map((owner) => ['wrap', owner]))
    await (await fresh.open({ masterKeys })).user('alice')
    expect(told.slice(1)).toEqual(owners.map((owner) => ['unwrap', owner]))
  })

  it('asks one that has wrapped rows to open one, and wraps nothing', async () => {
    await (await fresh.open({ masterKeys: service.masterKey })).encrypt('alice', 'x')
    service.reset()
    await fresh.open({ masterKeys: service.masterKey })
    expect(service.calls).toMatchObject({ wrap: 0, unwrap: 1 })
  })

  const bytes = randomBytes(3)
  it.each<[string, Partial<MasterKey>, string]>([
    ['gives three bytes', { unwrap: () => Uint8Array.from(bytes) }, 'unwrap() returned 3 bytes, not 32'],
    ['gives another key', { unwrap: () => randomBytes(32) }, 'does not open what it has just wrapped'],
    [
      'does not open what it wrapped',
      { unwrap: () => Promise.reject(new MasterKeyError('ERR_UNWRAP_FAILED', 'no')) },
      'does not open what it has just wrapped',
    ],
    [
      'may encrypt only',
      { unwrap: () => Promise.reject(serviceError('denied')) },
      'must be able both to wrap and to unwrap before the first key is made',
    ],
    [
      'returns a string',
      { wrap: () => 'wrapped' as unknown as Uint8Array },
      'wrap() returned string, not bytes',
    ],
    ['is not there', { wrap: () => Promise.reject(serviceError('notFound')) }, 'cannot wrap a key'],
  ])('refuses a new primary that %s, with and without rows under another one', async (_, change, message) => {
    const primary = remoteMasterKey(change)
    for (const masterKeys of [primary, masterKeyring({ primary, previous: [local] })]) {
      const error = await errorOf(fresh.open({ masterKeys }))
      expect(error).toMatchObject({ code: 'ERR_MASTER_KEY', retryable: false })
      expect(error.message).toContain(message)
      await (await fresh.open({ masterKeys: local })).encrypt('alice', 'x')
    }
  })

  it('opens with a new primary that is in an outage', async () => {
    for (const reason of ['unavailable', 'throttled'] as const) {
      service = keyService({ id: 'service', timeLimitMs: 50 })
      service.fail(() => serviceError(reason))
      const { events } = await openWithEvents(service.masterKey)
      expect(events).toEqual([{ type: 'masterKeyUnavailable', kekId: 'service', reason, ...DETAILS }])
      service.fail(() => serviceError(reason), 'unwrap')
    }
    service = keyService({ timeLimitMs: 50 })
    service.fail(() => serviceError('unavailable'), 'unwrap')
    expect((await openWithEvents(service.masterKey)).events).toMatchObject([{ reason: 'unavailable' }])
  })

  it('refuses a primary that may not wrap, unless it has something to read or nothing to mint', async () => {
    service.fail(() => serviceError('denied'), 'wrap')
    const error = await errorOf(fresh.open({ masterKeys: service.masterKey }))
    expect(error).toMatchObject({ code: 'ERR_MASTER_KEY', reason: 'denied', retryable: false, ...DETAILS })
    expect(error.message.match(/request-1/g)).toHaveLength(1)
    const denied = [{ type: 'masterKeyUnavailable', kekId: 'service', reason: 'denied', ...DETAILS }]
    expect((await openWithEvents(service.masterKey, { mint: 'never' })).events).toEqual(denied)
    await (await fresh.open({ masterKeys: local })).encrypt('bob', 'x')
    const keyring = masterKeyring({ primary: service.masterKey, previous: [local] })
    expect((await openWithEvents(keyring)).events).toEqual(denied)
  })
})

describe('what open says of what is no master key', () => {
  const open = async (masterKeys: unknown) => {
    const { store, calls } = recordingCalls(memoryKeyStore())
    const error = await errorOf(EnvelopeCrypto.open({ store, masterKeys: masterKeys as MasterKey }))
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    expect(calls).toEqual(['close'])
    return error.message
  }
  const must =
    'masterKeys must be what masterKeysFromEnv(), masterKeyring() or localMasterKey() gives, or another MasterKey'
  const text = generateMasterKey()
  it.each<[string, unknown, string]>([
    ['undefined', undefined, `${must}, got undefined`],
    ['null', null, `${must}, got null`],
    [
      'a string',
      text,
      `${must}, got string: if it is a key, put it into API_KEY_MASTER_KEY and call masterKeysFromEnv(), or pass localMasterKey(key)`,
    ],
    ['bytes', randomBytes(32), `${must}, got bytes: pass localMasterKey(bytes)`],
    ['a function', () => local, `${must}, got function: call it, and pass what it returns`],
    ['a promise', Promise.resolve(local), `${must}, got an object, a promise: await it first`],
    [
      'an empty keyring',
      { primary: undefined },
      'primary must be one master key: masterKeysFromEnv().primary, what localMasterKey() gives, or another MasterKey, got undefined',
    ],
    [
      'an empty id',
      { ...remoteMasterKey(), id: '' },
      'id of a master key must be a string, and not empty, got an empty one',
    ],
    [
      'no id',
      { ...remoteMasterKey(), id: undefined },
      'id of a master key must be a string, and not empty, got undefined',
    ],
    ['an id with NUL', { ...remoteMasterKey(), id: 'a\0b' }, 'without NUL'],
    ['an id with half a character', { ...remoteMasterKey(), id: '\ud800' }, 'well-formed Unicode'],
    [
      'no functions',
      { id: 'a', wrap: 1, unwrap: null },
      'wrap and unwrap of a master key must be functions, got number and null',
    ],
  ])('%s', async (_, masterKeys, message) => {
    const shown = await open(masterKeys)
    expect(shown).toContain(message)
    expect(shown).not.toContain(text.slice(0, 10))
  })

  it('and new EnvelopeCrypto() says how a service is made', () => {
    const Constructor = EnvelopeCrypto as unknown as new (options?: unknown) => EnvelopeCrypto
    for (const options of [undefined, null, { store: memoryKeyStore(), masterKeys: local }])
      expect(() => new Constructor(options)).toThrow(
        expect.objectContaining({
          code: 'ERR_INVALID_ARGUMENT',
          message: 'Use await EnvelopeCrypto.open({ store, masterKeys }), not new EnvelopeCrypto()',
        }),
      )
  })
})
