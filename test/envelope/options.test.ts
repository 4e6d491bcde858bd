/** Options that there are not: a mistyped one would silently mean the default of the one that was meant. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { openKeyStore } from '../../src/adapters/open.js'
import { EnvelopeCrypto, generateMasterKey, type KeyStore, localMasterKey } from '../../src/index.js'
import { errorOf } from '../support/errors.js'

const masterKeys = localMasterKey(generateMasterKey())

describe('EnvelopeCrypto.open', () => {
  let store: KeyStore
  beforeEach(() => {
    store = memoryKeyStore()
  })
  afterEach(() => store.close())
  const open = (options: object) => EnvelopeCrypto.open({ store, masterKeys, ...options })

  it.each([
    [{ keylog: 'x' }, '"keylog" is no option of EnvelopeCrypto.open: did you mean keyLog?'],
    [{ onEvents: () => 0 }, '"onEvents" is no option of EnvelopeCrypto.open: did you mean onEvent?'],
    [{ masterKey: masterKeys }, 'did you mean masterKeys?'],
    [{ formt: 'v2' }, 'did you mean format?'],
    [{ toString: 1 }, '"toString" is no option of EnvelopeCrypto.open: it takes store, masterKeys'],
    [{ hasOwnProperty: 1 }, '"hasOwnProperty" is no option'],
    [JSON.parse('{ "__proto__": 1 }'), 'is no option'],
    [{ ['k'.repeat(100_000)]: 1 }, 'it takes store'],
    [{ cache: { ttl: 1000 } }, '"ttl" is no option of cache: it takes maxEntries, ttlMs'],
    [{ cache: { ttlMS: 1000 } }, 'did you mean ttlMs?'],
    [{ accept: { token: ['v2'] } }, '"token" is no option of accept: did you mean tokens?'],
  ])('refuses %o', async (options, message) => {
    const error = await errorOf(open(options))
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    expect(error.message).toContain(message)
  })

  it('says what is wrong with the store', async () => {
    const messageOf = async (options: object) => (await errorOf(open(options))).message
    expect(await messageOf({ store: openKeyStore(':memory:') })).toBe(
      'store is a promise: write `await openKeyStore(…)`',
    )
    expect(await messageOf({ store: undefined })).toContain('such as `await openKeyStore(…)`, got undefined')
    const text = await messageOf({ masterKeys: 'hunter2' })
    expect(text).not.toContain('hunter2')
  })

  it('and its calls name what is wrong: the entry of a context, and who has closed the store', async () => {
    const [one, other] = [await open({}), await open({})]
    const context = { table: 't', row: 7 } as never
    expect((await errorOf(one.encrypt('alice', 'x', context))).message).toBe(
      'context values must be strings, and that of "row" is number',
    )
    await one.close()
    const error = await errorOf(other.encrypt('alice', 'x'))
    expect(error).toMatchObject({ code: 'ERR_CLOSED' })
    expect(error.message).toContain('unless closeStore is false')
    await other.close()
  })

  it('takes what is undefined for absent', async () => {
    await (await open({ keylog: undefined, cache: { ttl: undefined } })).close()
  })
})
