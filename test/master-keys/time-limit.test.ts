/** Key services that give no answer: no call waits for them without end. */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import {
  EnvelopeCrypto,
  type EnvelopeCryptoOptions,
  type KeyStore,
  localMasterKey,
  type MasterKey,
  masterKeyring,
  rewrapAll,
} from '../../src/index.js'
import { errorOf } from '../support/errors.js'
import { type KeyService, keyService } from '../support/key-service.js'
import { remoteMasterKey } from '../support/store-doubles.js'

const NO_ANSWER = { name: 'MasterKeyError', code: 'ERR_MASTER_KEY', retryable: true }

describe('a key service that gives no answer', () => {
  let store: KeyStore
  let service: KeyService
  const open = (options: Partial<EnvelopeCryptoOptions> = {}) =>
    EnvelopeCrypto.open({ store, masterKeys: service.masterKey, closeStore: false, ...options })
  beforeEach(() => {
    store = memoryKeyStore()
    service = keyService({ timeLimitMs: 20 })
  })
  afterEach(() => store.close())

  it('fails the mint that waits for it, and whoever shares it; the next call works', async () => {
    const envelope = await open()
    service.silence(true)
    const errors = await Promise.all([1, 2].map(() => errorOf(envelope.encrypt('alice', 'x'))))
    for (const error of errors) {
      expect(error).toMatchObject(NO_ANSWER)
      expect(error.message).toContain('Master key remote gave no answer within 20 ms')
    }
    expect(await store.census()).toEqual([])
    service.silence(false)
    await service.answerLate()
    expect(await store.census()).toEqual([])
    expect(await envelope.decrypt('alice', await envelope.encrypt('alice', 'x'))).toBe('x')
    await envelope.close()
  })

  it('fails a look-up, and a key that it gives too late is wiped', async () => {
    const writer = await open()
    const token = await writer.encrypt('alice', 'x')
    await writer.close()
    const envelope = await open()
    service.silence(true)
    service.reset()
    expect(await errorOf(envelope.decrypt('alice', token))).toMatchObject(NO_ANSWER)
    await service.answerLate()
    expect(service.given.map((bytes) => [bytes.length, bytes.some((byte) => byte !== 0)])).toEqual([
      [32, false],
    ])
    service.silence(false)
    expect(await envelope.decrypt('alice', token)).toBe('x')
    await envelope.close()
  })

  it('ends open and a rewrap, which go on without it', async () => {
    const writer = await open()
    await writer.encrypt('alice', 'x')
    service.silence(true)
    const masterKeys = masterKeyring({
      primary: localMasterKey(randomBytes(32)),
      previous: [service.masterKey],
    })
    await (await open()).close()
    expect(await rewrapAll({ store, masterKeys })).toMatchObject({
      complete: false,
      changed: 0,
      failed: [{ userId: 'alice', code: 'ERR_MASTER_KEY', masterKeyReason: 'unavailable' }],
    })
    await writer.close()
  })

  it('whose late answer is an error leaves no unhandled rejection', async () => {
    let fail: (error: Error) => void = () => undefined
    const masterKeys: MasterKey = remoteMasterKey({
      timeLimitMs: 5,
      wrap: () =>
        new Promise((_, reject) => {
          fail = reject
        }),
    })
    const envelope = await open({ masterKeys })
    const unhandled: unknown[] = []
    const listener = (error: unknown) => unhandled.push(error)
    process.on('unhandledRejection', listener)
    try {
      expect(await errorOf(envelope.encrypt('alice', 'x'))).toMatchObject(NO_ANSWER)
      fail(new Error('late'))
      await new Promise((resolve) => setTimeout(resolve, 5))
      expect(unhandled).toEqual([])
    } finally {
      process.off('unhandledRejection', listener)
      await envelope.close()
    }
  })
})

it.each([0, -1, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 31, '1000', null])(
  'timeLimitMs may not be %s',
  (timeLimitMs) => {
    const primary = remoteMasterKey({ timeLimitMs: timeLimitMs as number })
    expect(() => masterKeyring({ primary })).toThrow(/timeLimitMs of a master key/)
  },
)
