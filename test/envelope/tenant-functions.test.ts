/** The functions of a keyring, tenantOf and tenantRoot: when they are asked, what they may give, and how they may fail. */
import { randomBytes } from 'node:crypto'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import {
  type EnvelopeCrypto,
  localMasterKey,
  type MasterKeyring,
  masterKeyring,
  StoreError,
} from '../../src/index.js'
import { errorOf } from '../support/errors.js'
import { freshService } from '../support/fresh-store.js'
import { everythingOf } from '../support/leaks.js'
import { rowsOf } from '../support/rows.js'
import { keksOf, tenantOf } from '../support/tenants.js'
import { sealAll } from '../support/tokens.js'

describe('tenantOf and tenantRoot', () => {
  const primary = localMasterKey(randomBytes(32))
  const services: EnvelopeCrypto[] = []
  afterEach(async () => {
    for (const service of services.splice(0)) await service.close()
  })
  async function service(keys: object, store = memoryKeyStore()) {
    const envelope = await freshService(store, {
      masterKeys: masterKeyring({ primary, ...keys }),
      closeStore: false,
    })
    services.push(envelope)
    return { envelope, store }
  }

  it('may be asynchronous, and are asked when a first key is made, not when one is used', async () => {
    const asked = vi.fn(async (userId: string) => userId.split('/')[0] ?? null)
    const { envelope, store } = await service({ tenantOf: asked })
    await envelope.encrypt('acme/alice', 'x')
    await envelope.encrypt('acme/alice', 'y')
    await envelope.rotateUserKey('acme/alice')
    const again = await service({ tenantOf: asked }, store)
    await again.envelope.encrypt('acme/alice', 'z')
    await again.envelope.pool.encrypt('x')
    expect(asked.mock.calls).toEqual([['acme/alice']])
  })

  it.each([
    ['undefined', undefined],
    ['an empty id', ''],
    ['a number', 7],
    ['an object', { id: 'acme' }],
    ['a lone surrogate', '\ud800'],
    ['505 bytes', 'x'.repeat(505)],
    ['a NUL', 'a\0b'],
  ])('tenantOf gives %s: ERR_INVALID_ARGUMENT, and nothing is minted under another key', async (_, value) => {
    const { envelope, store } = await service({ tenantOf: () => value })
    for (const work of [() => envelope.encrypt('alice', 'x'), () => envelope.user('alice')])
      expect(await errorOf(work)).toMatchObject({
        code: 'ERR_INVALID_ARGUMENT',
        message: expect.stringContaining('tenantOf of user "alice"'),
      })
    const [result] = await envelope.encryptMany([{ userId: 'alice', plaintext: 'x' }])
    expect(result).toMatchObject({ ok: false, error: { code: 'ERR_INVALID_ARGUMENT' } })
    expect(await rowsOf(store)).toEqual([])
  })

  it.each([
    ['undefined', undefined],
    ['a string', 'key'],
    ['a key without wrap', { id: 'x', unwrap: String }],
    ["a tenant's key", { id: 'tenant:1:acme', wrap: String, unwrap: String }],
  ])('tenantRoot gives %s: ERR_INVALID_ARGUMENT, and the primary does not stand in', async (_, value) => {
    const { envelope, store } = await service({ tenantOf: () => 'acme', tenantRoot: () => value })
    expect(await errorOf(envelope.encrypt('alice', 'x'))).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    expect(await rowsOf(store)).toEqual([])
  })

  it('that forget to return, or give what is none, are told what they may give', async () => {
    const messageOf = async (keys: object) =>
      (await errorOf((await service({ tenantOf: () => 'acme', ...keys })).envelope.encrypt('alice', 'x')))
        .message
    expect(await messageOf({ tenantOf: () => undefined })).toContain(
      'must be a string, or null for no tenant: does the function return?',
    )
    expect(await messageOf({ tenantRoot: () => undefined })).toContain(
      "must be a master key, a keyring of the tenant's, or null if it has none of its own: does the function return?",
    )
    const keyring = masterKeyring({ primary })
    const { envelope } = await service({ tenantOf })
    for (const of of [{ tenantOf: () => null }, { tenantRoot: () => null }])
      expect(await messageOf({ tenantRoot: () => masterKeyring({ primary, ...of }) })).toContain(
        'must be a keyring without tenantOf and tenantRoot',
      )
    const messages = [
      (await errorOf(() => masterKeyring({ primary: keyring as never }))).message,
      (await errorOf(envelope.moveTenant('acme', keyring as never))).message,
    ]
    for (const message of messages)
      expect(message).toContain(
        'got a keyring: pass its primary, as in `const { primary, previous } = masterKeysFromEnv()`',
      )
  })

  it('that a keyring of an older copy of the package lacks count as not there', async () => {
    class OlderKeyring {
      readonly primary = primary
      readonly previous = []
    }
    const store = memoryKeyStore()
    const { envelope } = await service({ tenantOf }, store)
    const token = await envelope.encrypt('acme/alice', 'x')
    const masterKeys = new OlderKeyring() as unknown as MasterKeyring
    const older = await freshService(store, { masterKeys, closeStore: false })
    services.push(older)
    expect(await older.decrypt('acme/alice', token)).toBe('x')
    await older.encrypt('b/bob', 'x')
    expect((await keksOf(store))['b/bob']).toBe(primary.id)
    await older.rotateTenantKey('acme')
  })

  it.each(['tenantOf', 'tenantRoot'])(
    '%s throws: ERR_MASTER_KEY without what it threw, and others go on',
    async (name) => {
      const thrown = new Error('postgres://user:hunter2@host')
      const fail = (id: string) => {
        if (id.startsWith('acme')) throw thrown
        return null
      }
      const { envelope, store } = await service({ tenantOf, [name]: fail })
      const error = await errorOf(envelope.encrypt('acme/alice', 'x'))
      expect(error).toMatchObject({ code: 'ERR_MASTER_KEY', reason: 'unavailable', retryable: true })
      expect(everythingOf(error)).not.toContain('hunter2')
      await envelope.encrypt('b/alice', 'x')
      expect((await keksOf(store))['acme/alice']).toBe(undefined)
    },
  )

  it("passes an error of the library's own on", async () => {
    const error = new StoreError('the table of users cannot be read', { retryable: true })
    const { envelope } = await service({ tenantOf: async () => Promise.reject(error) })
    expect(await errorOf(envelope.encrypt('alice', 'x'))).toBe(error)
  })

  it.each(['tenantOf', 'tenantRoot'])('%s that never answers ends after its time', async (name) => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    try {
      const { envelope } = await service({
        tenantOf: () => 'acme',
        [name]: () => new Promise(() => undefined),
      })
      const failing = errorOf(envelope.encrypt('alice', 'x'))
      await vi.waitFor(async () => {
        await vi.advanceTimersByTimeAsync(5001)
        expect(await Promise.race([failing, Promise.resolve(null)])).toMatchObject({
          code: 'ERR_MASTER_KEY',
          reason: 'unavailable',
        })
      })
    } finally {
      vi.useRealTimers()
    }
  })

  it('that are no functions are refused, and so is tenantOf with format v2', async () => {
    for (const keys of [{ tenantOf: 'acme' }, { tenantRoot: {} }, { tenantOf: {} }])
      expect(await errorOf(() => masterKeyring({ primary, ...keys } as never))).toMatchObject({
        code: 'ERR_INVALID_ARGUMENT',
      })
    const opening = freshService(memoryKeyStore(), {
      format: 'v2',
      masterKeys: masterKeyring({ primary, tenantOf }),
    })
    expect(await errorOf(opening)).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
  })

  it('a master key whose id looks like a tenant is refused', async () => {
    const key = { id: 'tenant:1:acme', wrap: () => randomBytes(60), unwrap: () => randomBytes(32) }
    expect(await errorOf(() => masterKeyring({ primary: key }))).toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
    })
  })

  it('open and a mint ask tenantRoot for no tenant but their own', async () => {
    const tenantRoot = vi.fn(() => null)
    const { envelope, store } = await service({ tenantOf, tenantRoot })
    await sealAll(envelope, ['a/x', 'b/x'])
    tenantRoot.mockClear()
    const again = await service({ tenantOf, tenantRoot }, store)
    expect(tenantRoot.mock.calls).toEqual([])
    await again.envelope.encrypt('a/x', 'x')
    await again.envelope.encrypt('a/y', 'x')
    expect(tenantRoot.mock.calls).toEqual([['a']])
  })
})
