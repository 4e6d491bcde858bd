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
import { remoteMasterKey } from '../support/store-doubles.js'

const NO_ANSWER = { name: 'MasterKeyError', code: 'ERR_MASTER_KEY', retryable: true }

/** A key service that can fall silent, and can give its answers late. */
function silentKey(timeLimitMs = 20) {
  const inner = localMasterKey(randomBytes(32))
  const late: (() => void)[] = []
  const given: Uint8Array[] = []
  let silent = false
  const answer = async (bytes: () => Uint8Array) => {
    if (silent) await new Promise<void>((resolve) => late.push(resolve))
    const result = bytes()
    given.push(result)
    return result
  }
  const masterKey = remoteMasterKey({
    timeLimitMs,
    wrap: (dataKey, aad) => answer(() => inner.wrap(dataKey, aad)),
    unwrap: (wrapped, aad) => answer(() => inner.unwrap(wrapped, aad)),
  })
  return {
    masterKey,
    given,
    silence(on: boolean) {
      silent = on
    },
    /** All answers that are still to be given. */
    async answerLate() {
      for (const resolve of late.splice(0)) resolve()
      await new Promise(setImmediate)
    },
  }
}

describe('a key service that gives no answer', () => {
  let store: KeyStore
  let service: ReturnType<typeof silentKey>
  const open = (options: Partial<EnvelopeCryptoOptions> = {}) =>
    EnvelopeCrypto.open({ store, masterKeys: service.masterKey, closeStore: false, ...options })
  beforeEach(() => {
    store = memoryKeyStore()
    service = silentKey()
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
    service.given.length = 0
    expect(await errorOf(envelope.decrypt('alice', token))).toMatchObject(NO_ANSWER)
    await service.answerLate()
    expect(service.given.map((bytes) => [bytes.length, bytes.some((byte) => byte !== 0)])).toEqual([
      [32, false],
    ])
    service.silence(false)
    expect(await envelope.decrypt('alice', token)).toBe('x')
    await envelope.close()
  })

  it('ends open and a rewrap', async () => {
    const writer = await open()
    await writer.encrypt('alice', 'x')
    service.silence(true)
    const masterKeys = masterKeyring({
      primary: localMasterKey(randomBytes(32)),
      previous: [service.masterKey],
    })
    expect(await errorOf(open())).toMatchObject(NO_ANSWER)
    expect(await errorOf(rewrapAll({ store, masterKeys }))).toMatchObject(NO_ANSWER)
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
