/** Calls of a key service: how many at once, how long, what is shown of a failure, and what an outage costs. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { inspect } from 'node:util'
import { beforeEach, describe, expect, it } from 'vitest'
import { type MasterKey, MasterKeyError, type MasterKeyReason } from '../../src/index.js'
import { unwrapByService, wrapByService } from '../../src/master-keys/service-calls.js'
import { errorOf } from '../support/errors.js'
import { type KeyService, keyService, serviceError } from '../support/key-service.js'
import { remoteMasterKey } from '../support/store-doubles.js'

const owner = { userId: 'alice', version: 1, tenantId: null }
const aad = Buffer.from('aad')
const wrap = (key: MasterKey, dataKey: Uint8Array = randomBytes(32)) =>
  wrapByService(key, dataKey, aad, owner)
const unwrap = (key: MasterKey, wrapped: Uint8Array = randomBytes(105)) =>
  unwrapByService(key, wrapped, aad, owner)
const SLOW_MS = 40

async function millisecondsOf(work: Promise<unknown>): Promise<number> {
  const start = performance.now()
  await work.catch(() => undefined)
  return performance.now() - start
}

let service: KeyService
beforeEach(() => {
  service = keyService({ timeLimitMs: SLOW_MS })
})

describe('calls at once', () => {
  it('are 16 of one key; the others wait, and all get their own answer', async () => {
    service = keyService()
    const { masterKey, calls } = service
    service.delay(2)
    const keys = Array.from({ length: 100 }, () => randomBytes(32))
    const wrapped = await Promise.all(keys.map((key) => wrap(masterKey, key)))
    expect(calls).toEqual({ wrap: 100, unwrap: 0, most: 16 })
    const opened = await Promise.all(wrapped.map((bytes) => unwrap(masterKey, bytes)))
    expect(opened).toEqual(keys)
    expect(calls.most).toBe(16)
  })

  it('are counted for each key: one that hangs delays no other', async () => {
    service = keyService({ timeLimitMs: 500 })
    const other = keyService()
    service.silence(true)
    const hanging = Array.from({ length: 40 }, () => errorOf(wrap(service.masterKey)))
    expect(await millisecondsOf(wrap(other.masterKey))).toBeLessThan(400)
    for (const error of await Promise.all(hanging)) expect(error).toMatchObject({ reason: 'unavailable' })
    // Those that waited for their turn were not sent after the others had hung.
    expect(service.calls.wrap).toBe(16)
  })

  it('wait for their turn no longer than the time limit, and say so', async () => {
    service = keyService({ timeLimitMs: 200 })
    service.delay(120)
    const work = Array.from({ length: 16 * 6 }, () =>
      wrap(service.masterKey).then(
        () => null,
        (error: unknown) => error,
      ),
    )
    expect(await millisecondsOf(Promise.all(work))).toBeLessThan(800)
    const errors = (await Promise.all(work)).filter((error) => error !== null)
    expect(errors.length).toBeGreaterThan(0)
    expect(errors.length).toBeLessThan(work.length)
    for (const error of errors as Error[]) {
      expect(error).toMatchObject({ code: 'ERR_MASTER_KEY', reason: 'throttled', retryable: true })
      expect(error.message).toContain('waited 200 ms for its turn')
    }
  })
})

describe('an answer', () => {
  it.each<[string, unknown, string]>([
    ['a string', 'c2VjcmV0', 'wrap() returned string, not bytes'],
    ['nothing', undefined, 'wrap() returned undefined, not bytes'],
    ['null', null, 'wrap() returned null, not bytes'],
    ['an array', [1, 2], 'wrap() returned an array, not bytes'],
    ['no bytes', new Uint8Array(), 'wrap() returned 0 bytes'],
  ])('of wrap that is %s is told apart from an outage', async (_, answer, message) => {
    const error = await errorOf(wrap(remoteMasterKey({ wrap: () => answer as Uint8Array })))
    expect(error).toMatchObject({ code: 'ERR_MASTER_KEY', reason: 'wrongKey', retryable: false })
    expect(error.message).toBe(`Master key remote: ${message}`)
  })

  it.each<[string, unknown, string]>([
    ['a string', 'c2VjcmV0', 'unwrap() returned string, not bytes'],
    ['nothing', undefined, 'unwrap() returned undefined, not bytes'],
    ['3 bytes', randomBytes(3), 'unwrap() returned 3 bytes, not 32'],
    ['1 byte', randomBytes(1), 'unwrap() returned 1 byte, not 32'],
    ['zeros', Buffer.alloc(32), 'unwrap() returned zeros'],
  ])('of unwrap that is %s is told apart from an outage', async (_, answer, message) => {
    const error = await errorOf(unwrap(remoteMasterKey({ unwrap: async () => answer as Uint8Array })))
    expect(error).toMatchObject({ code: 'ERR_MASTER_KEY', reason: 'wrongKey', retryable: false })
    expect(error.message).toBe(`Master key remote: ${message}`)
  })

  it('may not be the data key itself, nor have it in it', async () => {
    for (const careless of [
      (key: Uint8Array) => Uint8Array.from(key),
      (key: Uint8Array) => Buffer.concat([Buffer.of(1), key, Buffer.of(2)]),
    ]) {
      const error = await errorOf(wrap(remoteMasterKey({ wrap: careless })))
      expect(error.message).toContain('the data key as it is')
    }
  })

  it('may not be the same array twice', async () => {
    const bytes = randomBytes(32)
    const key = remoteMasterKey({ wrap: () => bytes, unwrap: () => bytes })
    await wrap(key)
    expect((await errorOf(wrap(key))).message).toContain('the same array as before')
    expect((await errorOf(unwrap(key))).message).toContain('the same array as before')
  })

  it('may come from a provider that wipes what it is given', async () => {
    const dataKey = randomBytes(32)
    const before = Buffer.from(dataKey)
    const seen: Uint8Array[] = []
    await wrap(
      remoteMasterKey({
        wrap(key) {
          seen.push(key)
          key.fill(0)
          return randomBytes(60)
        },
      }),
      dataKey,
    )
    expect(dataKey).toEqual(before)
    // And nothing of the copy is left.
    expect(seen.every((key) => key !== dataKey && key.every((byte) => byte === 0))).toBe(true)
  })

  it('that comes too late is wiped', async () => {
    const wrapped = await wrap(service.masterKey)
    service.reset()
    service.silence(true)
    expect(await errorOf(unwrap(service.masterKey, wrapped))).toMatchObject({ reason: 'unavailable' })
    await service.answerLate()
    expect(service.given.map((bytes) => bytes.some((byte) => byte !== 0))).toEqual([false])
  })
})

describe('a failure', () => {
  it.each<[MasterKeyReason, boolean]>([
    ['denied', false],
    ['notFound', false],
    ['wrongKey', false],
    ['unavailable', true],
    ['throttled', true],
  ])('that is %s is retryable: %s, and names the code and the request', async (reason, retryable) => {
    service.fail(() => serviceError(reason))
    const error = await errorOf(wrap(service.masterKey))
    const details = { providerCode: 'ProviderSays', requestId: 'request-1' }
    expect(error).toMatchObject({ code: 'ERR_MASTER_KEY', reason, retryable, ...details })
    expect(error.message).toBe(`The service says: ${reason} (ProviderSays, request id request-1)`)
  })

  it('shows a bounded, printable part of the code and of the request id', () => {
    const hostile = `\u001b[31m\n${'x'.repeat(10_000)}`
    const error = new MasterKeyError('ERR_MASTER_KEY', 'no', { providerCode: hostile, requestId: hostile })
    for (const text of [error.message, error.providerCode ?? '', error.requestId ?? '']) {
      expect(text.length).toBeLessThan(500)
      expect(text).not.toContain('\u001b')
      expect(text).not.toContain('\n')
    }
    const wrong = { providerCode: 7, requestId: { secret: 1 } } as unknown as { providerCode: string }
    expect(new MasterKeyError('ERR_MASTER_KEY', 'no', wrong).message).toBe('no')
  })

  const withCode = (code: string) => Object.assign(new Error(`secret ${code}`), { code })
  it.each<[string, () => unknown]>([
    ['ECONNREFUSED', () => withCode('ECONNREFUSED')],
    ['ETIMEDOUT', () => withCode('ETIMEDOUT')],
    ['ENOTFOUND', () => withCode('ENOTFOUND')],
    ['UND_ERR_SOCKET', () => new TypeError('fetch failed', { cause: withCode('UND_ERR_SOCKET') })],
    ['AbortError', () => new DOMException('secret', 'AbortError')],
    ['TimeoutError', () => new DOMException('secret', 'TimeoutError')],
  ])('that looks like one of the network, %s, is an outage', async (providerCode, make) => {
    service.fail(make)
    const error = await errorOf(wrap(service.masterKey))
    expect(error).toMatchObject({
      code: 'ERR_MASTER_KEY',
      reason: 'unavailable',
      retryable: true,
      providerCode,
    })
    expect(inspect(error)).not.toContain('secret')
  })

  it.each<[string, () => unknown]>([
    ['an error', () => new TypeError('secret')],
    ['an error with a code', () => withCode('ERR_SECRET_THING')],
    ['no error', () => 'secret'],
    ['nothing', () => undefined],
    [
      'an error that cannot be read',
      () =>
        Object.defineProperty(new Error('secret'), 'code', {
          get() {
            throw new Error('secret')
          },
        }),
    ],
  ])('of the provider’s own, %s, is not retryable, is hidden, and is no outage', async (_, make) => {
    service.fail(make)
    for (let call = 0; call < 3; call += 1) {
      const error = await errorOf(wrap(service.masterKey))
      expect(error).toMatchObject({ code: 'ERR_MASTER_KEY', reason: undefined, retryable: false })
      expect(error.message).toContain('failed with an error of its own')
      expect(inspect(error)).not.toContain('secret')
    }
    expect(service.calls.wrap).toBe(3)
  })

  it('keeps no foreign cause, which may hold the request', async () => {
    const secret = Object.assign(new Error('its client'), { request: 'secret' })
    service.fail(() => new MasterKeyError('ERR_MASTER_KEY', 'no', { reason: 'denied', cause: secret }))
    const error = await errorOf(wrap(service.masterKey))
    expect(error).toMatchObject({ reason: 'denied' })
    expect(inspect(error, { showHidden: true, depth: null })).not.toContain('secret')
    const ours = new MasterKeyError('ERR_UNWRAP_FAILED', 'ours')
    service.fail(() => new MasterKeyError('ERR_MASTER_KEY', 'no', { reason: 'denied', cause: ours }))
    expect((await errorOf(wrap(service.masterKey))).cause).toBe(ours)
  })

  it('may be thrown at once, too', async () => {
    const key = remoteMasterKey({
      wrap: () => {
        throw serviceError('denied')
      },
    })
    expect(await errorOf(wrap(key))).toMatchObject({ reason: 'denied' })
  })
})

describe('throttling', () => {
  it('is waited out inside the time limit', async () => {
    service = keyService({ timeLimitMs: 5000 })
    let left = 3
    service.fail(() => {
      left -= 1
      if (left === 0) service.fail(null)
      return serviceError('throttled')
    })
    await wrap(service.masterKey)
    expect(service.calls.wrap).toBe(4)
  })

  it('that lasts ends with the time limit, after a few calls', async () => {
    service = keyService({ timeLimitMs: 400 })
    service.fail(() => serviceError('throttled'))
    const error = errorOf(wrap(service.masterKey))
    expect(await millisecondsOf(error)).toBeLessThan(600)
    expect(await error).toMatchObject({ reason: 'throttled', requestId: 'request-1' })
    expect(service.calls.wrap).toBeGreaterThan(1)
    expect(service.calls.wrap).toBeLessThan(40)
  })

  it('alone is tried again: nothing else is', async () => {
    for (const reason of ['denied', 'notFound', 'wrongKey'] as const) {
      service.reset()
      service.fail(() => serviceError(reason))
      await errorOf(wrap(service.masterKey))
      expect(service.calls.wrap).toBe(1)
    }
  })
})

describe('an outage', () => {
  const fast = (error: Error) =>
    expect(error.message).toContain('it failed a moment ago, and is asked again about once a second')

  it('is asked about once a second; what fails meanwhile fails at once, with the same reason', async () => {
    service.silence(true)
    expect(await errorOf(wrap(service.masterKey))).toMatchObject({ reason: 'unavailable' })
    const end = performance.now() + 2300
    let failed = 0
    for (; performance.now() < end; await sleep(20)) {
      const work = errorOf(unwrap(service.masterKey))
      expect(await millisecondsOf(work)).toBeLessThan(SLOW_MS * 5)
      expect(await work).toMatchObject({ code: 'ERR_MASTER_KEY', reason: 'unavailable', retryable: true })
      failed += 1
    }
    expect(failed).toBeGreaterThan(20)
    expect(service.calls.unwrap).toBeGreaterThanOrEqual(2)
    expect(service.calls.unwrap).toBeLessThanOrEqual(3)
  })

  it('of another kind has its reason, code and request id, too', async () => {
    service.fail(() => serviceError('throttled'))
    await errorOf(wrap(service.masterKey))
    const error = await errorOf(wrap(service.masterKey))
    fast(error)
    expect(error).toMatchObject({ reason: 'throttled', retryable: true, requestId: 'request-1' })
    expect(error.message).toContain('(ProviderSays, request id request-1)')
  })

  it('is told to each call with the text of the failure, which is bounded and printable', async () => {
    const text = `the token was not found: is its label right?\u001b[2J${'x'.repeat(5000)}`
    service.fail(() => new MasterKeyError('ERR_MASTER_KEY', text, { reason: 'unavailable' }))
    await errorOf(wrap(service.masterKey))
    for (let i = 0; i < 3; i += 1) {
      const error = await errorOf(wrap(service.masterKey))
      fast(error)
      expect(error.message).toContain(
        'The failure: the token was not found: is its label right?\\u001b[2Jxxx',
      )
      expect(error.message.length).toBeLessThan(1000)
    }
  })

  it('costs who asks again half a second, not the time limit', async () => {
    service = keyService({ timeLimitMs: 700 })
    service.silence(true)
    await errorOf(wrap(service.masterKey))
    await sleep(1050)
    const again = errorOf(wrap(service.masterKey))
    expect((await again).message).toContain('no answer within 500 ms')
  })

  it('is over with the first answer, even with a refusal or one that comes too late', async () => {
    const wrapped = await wrap(service.masterKey)
    const down = async () => {
      await sleep(1050)
      service.silence(true)
      await errorOf(unwrap(service.masterKey, wrapped))
      fast(await errorOf(unwrap(service.masterKey, wrapped)))
      service.silence(false)
    }
    await down()
    await service.answerLate()
    await unwrap(service.masterKey, wrapped)
    await down()
    await sleep(1050)
    service.fail(() => serviceError('denied'))
    expect(await errorOf(unwrap(service.masterKey, wrapped))).toMatchObject({ reason: 'denied' })
    service.fail(null)
    await unwrap(service.masterKey, wrapped)
  })

  it('is not begun by one call that fails among others that succeed', async () => {
    const { masterKey } = service
    await wrap(masterKey)
    service.fail(() => serviceError('unavailable'))
    await errorOf(wrap(masterKey))
    service.fail(null)
    await wrap(masterKey)
  })

  it('is one of its master key alone', async () => {
    service.silence(true)
    await errorOf(wrap(service.masterKey))
    fast(await errorOf(wrap(service.masterKey)))
    await wrap(keyService().masterKey)
    await wrap({ ...service.masterKey, wrap: () => randomBytes(60) })
  })
})
