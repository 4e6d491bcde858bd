/** Roots of tenants: what fails with one, what `open` asks, and what they do not protect against. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import {
  type EnvelopeCrypto,
  type KeystoreEvent,
  localMasterKey,
  type MasterKey,
  type MasterKeyring,
  masterKeyring,
} from '../../src/index.js'
import { newDataKey, unwrapDataKey } from '../../src/master-keys/key-wrap.js'
import { TenantKey } from '../../src/master-keys/tenant-keys.js'
import { kekOf } from '../../src/master-keys/tenant-roots.js'
import { tenantUserId } from '../../src/table.js'
import { errorOf } from '../support/errors.js'
import { freshService } from '../support/fresh-store.js'
import { keyService, serviceError } from '../support/key-service.js'
import { corrupted, rowsOf } from '../support/rows.js'
import { countedStore, overriding } from '../support/store-doubles.js'
import { keksOf, type Roots, tenantOf, tenantRoots, tenantRowsOf, usersOf } from '../support/tenants.js'
import { sealAll } from '../support/tokens.js'

describe('a root that fails', () => {
  let roots: Roots
  let envelope: EnvelopeCrypto
  let events: KeystoreEvent[]
  const store = () => memoryKeyStore()
  beforeEach(async () => {
    roots = tenantRoots(['acme'])
    events = []
    const shared = store()
    const first = await freshService(shared, { masterKeys: roots.keyring, closeStore: false })
    await sealAll(first, [...usersOf('acme', 20), ...usersOf('b', 20), 'nobody'])
    await first.close()
    envelope = await freshService(shared, {
      masterKeys: roots.keyring,
      onEvent: (event) => events.push(event),
    })
    roots.reset()
  })
  afterEach(() => envelope.close())

  const MODES: readonly [string, (roots: Roots) => void, object][] = [
    [
      'denies',
      (all) => all.of('acme').fail(() => serviceError('denied')),
      { reason: 'denied', retryable: false },
    ],
    ['hangs', (all) => all.of('acme').silence(true), { reason: 'unavailable', retryable: true }],
    [
      'throttles',
      (all) => all.of('acme').fail(() => serviceError('throttled')),
      { reason: 'throttled', retryable: true },
    ],
  ]

  it.each(MODES)('%s: its own tenant alone fails, and works again afterwards', async (_, fail, expected) => {
    fail(roots)
    const begun = performance.now()
    const failing = Promise.all(
      [...usersOf('acme', 20), 'acme/new'].map((userId) => errorOf(envelope.encrypt(userId, 'x'))),
    )
    for (const userId of [...usersOf('b', 20), 'b/new', 'nobody', 'c/new'])
      await envelope.encrypt(userId, 'x')
    // The others have not waited for it: its limit is 300 ms.
    expect(performance.now() - begun).toBeLessThan(290)
    for (const error of await failing) expect(error).toMatchObject({ code: 'ERR_MASTER_KEY', ...expected })
    roots.of('acme').fail(null)
    roots.of('acme').silence(false)
    await roots.of('acme').answerLate()
    await vi.waitFor(() => envelope.encrypt('acme/0', 'x'), { timeout: 4000, interval: 50 })
    await envelope.encrypt('acme/new', 'x')
  })

  it.each(MODES.filter(([mode]) => mode !== 'throttles'))(
    '%s: it is asked about once a second',
    async (_, fail) => {
      fail(roots)
      const end = performance.now() + 2500
      while (performance.now() < end) {
        await errorOf(envelope.encrypt('acme/0', 'x'))
        await errorOf(envelope.encrypt('acme/new', 'x'))
        await sleep(5)
      }
      expect(roots.of('acme').calls.unwrap).toBeGreaterThanOrEqual(2)
      expect(roots.of('acme').calls.unwrap).toBeLessThanOrEqual(4)
      expect(roots.of('acme').calls.wrap).toBe(0)
    },
  )

  it('harms no user of another version of the same tenant’s key, which is under another root', async () => {
    const [a, b] = [keyService({ id: 'root-a' }), keyService({ id: 'root-b' })]
    let current: MasterKey | MasterKeyring = a.masterKey
    const keys = masterKeyring({
      primary: roots.primary.masterKey,
      tenantOf,
      tenantRoot: () => current,
    })
    const shared = store()
    const first = await freshService(shared, { masterKeys: keys, closeStore: false })
    await sealAll(first, ['acme/old'])
    current = masterKeyring({ primary: b.masterKey, previous: [a.masterKey] })
    await first.rotateTenantKey('acme')
    await sealAll(first, ['acme/new'])
    await first.close()
    const service = await freshService(shared, { masterKeys: keys, cache: { ttlMs: 1 } })
    a.fail(() => serviceError('denied'))
    for (let i = 0; i < 10; i++) {
      expect(await errorOf(service.encrypt('acme/old', 'x'))).toMatchObject({ code: 'ERR_MASTER_KEY' })
      await service.encrypt('acme/new', 'x')
      await service.encrypt(`acme/new-${i}`, 'x')
    }
    await service.close()
  })

  it('fails the mint of its tenant without a row, and asks it about once a second', async () => {
    const service = await freshService(undefined, { masterKeys: roots.keyring })
    roots.of('acme').fail(() => serviceError('denied'))
    for (let i = 0; i < 50; i++)
      expect(await errorOf(service.encrypt(`acme/${i}`, 'x'))).toMatchObject({ code: 'ERR_MASTER_KEY' })
    expect(roots.of('acme').calls.wrap).toBe(1)
    await service.encrypt('b/alice', 'x')
    await service.close()
  })

  it('that does not open what it wraps gets no tenant: nothing is stored under it', async () => {
    const shared = store()
    const inner = localMasterKey(randomBytes(32))
    const other = localMasterKey(randomBytes(32))
    const roots: Record<string, MasterKey> = {
      denied: {
        id: 'denied',
        wrap: (key, aad) => inner.wrap(key, aad),
        unwrap: () => Promise.reject(serviceError('denied')),
      },
      garbage: { id: 'garbage', wrap: () => randomBytes(105), unwrap: () => randomBytes(32) },
      swapped: {
        id: 'swapped',
        wrap: (key, aad) => inner.wrap(key, aad),
        unwrap: (wrapped, aad) => other.unwrap(wrapped, aad),
      },
    }
    const service = await freshService(shared, {
      masterKeys: masterKeyring({ primary: inner, tenantOf, tenantRoot: (id) => roots[id] ?? null }),
    })
    for (const [id, code] of Object.entries({
      denied: 'ERR_MASTER_KEY',
      garbage: 'ERR_UNWRAP_FAILED',
      swapped: 'ERR_UNWRAP_FAILED',
    }))
      expect(await errorOf(service.encrypt(`${id}/alice`, 'x'))).toMatchObject({ code })
    expect(await rowsOf(shared)).toEqual([])
    await service.close()
  })

  it('is told by an event with the root, and by no event of damage', async () => {
    roots.of('acme').fail(() => serviceError('denied'))
    await errorOf(envelope.encrypt('acme/0', 'x'))
    expect(events).toContainEqual(
      expect.objectContaining({ type: 'masterKeyUnavailable', kekId: 'root-of-acme', reason: 'denied' }),
    )
    expect(events.some(({ type }) => type === 'damagedKey')).toBe(false)
  })

  it('a damaged row of a tenant is an event that names the row, and fails its own tenant', async () => {
    const shared = store()
    const first = await freshService(shared, { masterKeys: roots.keyring, closeStore: false })
    await sealAll(first, ['acme/alice', 'b/alice'])
    await first.close()
    const damaged = overriding(shared, {
      getAll: async (ids) =>
        new Map(
          [...(await shared.getAll(ids))].map(([id, rows]) => [
            id,
            id === tenantUserId('acme')
              ? rows.map((row) => ({ ...row, encryptedKey: corrupted(row.encryptedKey) }))
              : rows,
          ]),
        ),
    })
    const service = await freshService(damaged, {
      masterKeys: roots.keyring,
      onEvent: (event) => events.push(event),
    })
    expect(await errorOf(service.encrypt('acme/alice', 'x'))).toMatchObject({ code: 'ERR_UNWRAP_FAILED' })
    expect(events).toContainEqual({
      type: 'damagedKey',
      userId: tenantUserId('acme'),
      version: 1,
      kekId: 'root-of-acme',
    })
    await service.encrypt('b/alice', 'x')
    await service.close()
  })
})

describe('open', () => {
  const primary = () => localMasterKey(randomBytes(32))

  it('refuses a wrong master key where all that there is are tenants under it', async () => {
    const store = memoryKeyStore()
    const first = await freshService(store, {
      closeStore: false,
      masterKeys: masterKeyring({ primary: primary(), tenantOf: () => 'default' }),
    })
    await first.encrypt('alice', 'x')
    for (const masterKeys of [primary(), masterKeyring({ primary: primary(), tenantOf: () => 'default' })]) {
      const error = await errorOf(freshService(store, { closeStore: false, masterKeys }))
      expect(error).toMatchObject({
        code: 'ERR_UNKNOWN_MASTER_KEY',
        message: expect.stringContaining(': 1 row)'),
      })
    }
  })

  it('goes on without the roots of tenants, and asks none of them', async () => {
    const roots = tenantRoots(['acme'])
    const store = memoryKeyStore()
    const first = await freshService(store, { closeStore: false, masterKeys: roots.keyring })
    await sealAll(first, ['acme/alice', 'nobody'])
    roots.reset()
    for (const masterKeys of [roots.keyring, masterKeyring({ primary: roots.primary.masterKey })])
      await freshService(store, { closeStore: false, masterKeys })
    expect(roots.of('acme').calls).toMatchObject({ wrap: 0, unwrap: 0 })
  })

  it('takes no query more for a thousand tenants than for ten', async () => {
    const store = memoryKeyStore()
    const keys = masterKeyring({ primary: primary(), tenantOf })
    const first = await freshService(store, { closeStore: false, masterKeys: keys })
    await sealAll(
      first,
      Array.from({ length: 1000 }, (_, index) => `t${index}/alice`),
    )
    const counted = countedStore(store)
    await freshService(counted.store, { masterKeys: keys })
    // A few of the tenants, and a page of them.
    expect(counted.calls).toEqual({ sampleByKek: 1, list: 2 })
  })
})

describe('what tenants do not protect against (SECURITY.md)', () => {
  it("who writes to the database and uses one tenant's root can plant a key for another tenant's user", async () => {
    const roots = tenantRoots(['acme', 'evil'])
    const store = memoryKeyStore()
    const envelope = await freshService(store, { masterKeys: roots.keyring, closeStore: false })
    await envelope.encrypt('evil/mallory', 'x')
    // Mallory opens the tenant key of evil, and wraps under it a key that she knows, for a user of acme who has none yet.
    const [row] = await tenantRowsOf(store, 'evil')
    if (row === undefined) throw new Error('not there')
    const kek = await kekOf(roots.keyring, row, () => Promise.reject(new Error('not needed')))
    const key = new TenantKey(
      { tenantId: 'evil', version: 1 },
      await unwrapDataKey(roots.keyring, row, ['v3'], kek),
    )
    const planted = await newDataKey(roots.keyring, { userId: 'acme/alice', version: 1 }, 'v3', key)
    await store.insertIfAbsent([planted.record])
    expect(await envelope.encrypt('acme/alice', 'secret')).toMatch(/^v3:/)
    expect((await keksOf(store))['acme/alice']).toBe('tenant:1:evil')
    // Without a root of hers she cannot: a row moved from one tenant to another does not open.
    await envelope.encrypt('acme/bob', 'x')
    const [bob] = (await store.getAll(['acme/bob'])).get('acme/bob') ?? []
    if (bob === undefined) throw new Error('not there')
    await store.remove([{ userId: 'acme/bob', version: 1 }])
    await store.insertIfAbsent([{ ...bob, kekId: 'tenant:1:evil' }])
    const fresh = await freshService(store, { masterKeys: roots.keyring, closeStore: false })
    expect(await errorOf(fresh.encrypt('acme/bob', 'x'))).toMatchObject({ code: 'ERR_UNWRAP_FAILED' })
  })
})
