/** Tenants' keys in a process: how often a root is asked, and what is kept in memory when rows change meanwhile. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { type EnvelopeCrypto, type KeyStore, masterKeyring, type StoreChange } from '../../src/index.js'
import { tenantUserId } from '../../src/table.js'
import { controlledStore } from '../support/controlled-store.js'
import { errorOf } from '../support/errors.js'
import { backends, freshService, freshStore, type TestStore } from '../support/fresh-store.js'
import { nextTurn } from '../support/gate.js'
import { rowsOf } from '../support/rows.js'
import { countedStore } from '../support/store-doubles.js'
import { keksOf, type Roots, tenantRoots, tenantRowsOf, usersOf } from '../support/tenants.js'
import { expectAllOpen, sealAll } from '../support/tokens.js'

const TEN = Array.from({ length: 10 }, (_, index) => `tenant-${index}`)

describe.each(backends)('tenants on %s', (backend) => {
  let roots: Roots
  let fresh: TestStore
  beforeEach(async () => {
    roots = tenantRoots(TEN.slice(5))
    fresh = await freshStore(backend, { masterKeys: roots.keyring })
  })
  afterEach(() => fresh.remove())

  it('ten tenants of many users are ten wraps when they are minted, and ten unwraps when a process begins', async () => {
    const users = TEN.flatMap((tenantId) => usersOf(tenantId, 40))
    const first = await fresh.open()
    roots.reset()
    const sealed = await sealAll(first, users)
    // Five have roots of their own, which have to open what they have just wrapped.
    expect(roots.calls()).toEqual({ wraps: 10, unwraps: 5 })
    roots.reset()
    const second = await fresh.open()
    await expectAllOpen(second, sealed)
    // One of `open`, which looks whether the primary opens a tenant's row.
    expect(roots.calls().wraps).toBe(0)
    expect(roots.calls().unwraps).toBeLessThanOrEqual(11)
    roots.reset()
    for (const { userId } of sealed) await second.encrypt(userId, 'x')
    expect(roots.calls()).toEqual({ wraps: 0, unwraps: 0 })
  })

  it('users who are minted one by one, and at once, are under their tenants keys, and the others under the primary', async () => {
    const envelope = await fresh.open()
    await envelope.encrypt('acme/alice', 'x')
    await Promise.all(['acme/bob', 'b/bob', 'nobody'].map((userId) => envelope.user(userId)))
    await envelope.pool.encrypt('x')
    expect(await keksOf(fresh.store)).toEqual({
      '': 'primary',
      [tenantUserId('acme')]: 'primary',
      [tenantUserId('b')]: 'primary',
      'acme/alice': 'tenant:1:acme',
      'acme/bob': 'tenant:1:acme',
      'b/bob': 'tenant:1:b',
      nobody: 'primary',
    })
    expect(roots.primary.calls.wrap).toBeGreaterThan(0)
  })

  it('a look-up of a cached user asks neither store nor root; one of a cold user of a cached tenant is one query', async () => {
    const writer = await fresh.open()
    await sealAll(writer, usersOf('acme', 3))
    const { store, calls } = countedStore(fresh.store)
    const envelope = await fresh.open({ store })
    const queries = () => calls.getAll ?? 0
    await envelope.encrypt('acme/0', 'x')
    // On Postgres the store says once that it listens now: what was read before may have changed.
    await sleep(300)
    await envelope.encrypt('acme/0', 'x')
    const before = queries()
    await envelope.encrypt('acme/1', 'x')
    expect(queries()).toBe(before + 1)
    await envelope.encrypt('acme/1', 'x')
    expect(queries()).toBe(before + 1)
  })

  it('many services that mint a tenant at once agree on one key', async () => {
    const services = await Promise.all(
      Array.from({ length: 6 }, async () => fresh.open({ store: await fresh.another() })),
    )
    const users = usersOf('acme', 30)
    const all = await Promise.all(services.map((service) => sealAll(service, users)))
    expect(await tenantRowsOf(fresh.store, 'acme')).toHaveLength(1)
    const reader = await fresh.open()
    for (const sealed of all) await expectAllOpen(reader, sealed)
    for (const service of services) await expectAllOpen(service, all.flat())
  })

  it('a rotation that races with mints leaves every token readable, under the version that its row names', async () => {
    const [first, second] = [await fresh.open(), await fresh.open({ store: await fresh.another() })]
    await first.encrypt('acme/0', 'x')
    const users = usersOf('acme', 60)
    const minting = users.map((userId) => second.encrypt(userId, `secret of ${userId}`))
    const rotating = [first.rotateTenantKey('acme'), second.rotateTenantKey('acme')]
    const sealed = (await Promise.all(minting)).map((token, index) => ({ userId: users[index] ?? '', token }))
    await Promise.all(rotating)
    const reader = await fresh.open()
    await expectAllOpen(reader, sealed)
    await reader.encrypt('acme/late', 'x')
    const { version } = (await tenantRowsOf(fresh.store, 'acme')).at(-1) ?? { version: 0 }
    expect(version).toBeGreaterThan(1)
    expect((await keksOf(fresh.store))['acme/late']).toBe(`tenant:${version}:acme`)
  })

  it('rotating a user keeps the tenant, under the current version of its key, whatever tenantOf says by now', async () => {
    const envelope = await fresh.open()
    await envelope.encrypt('acme/alice', 'x')
    await envelope.encrypt('nobody', 'x')
    await envelope.rotateTenantKey('acme')
    const other = await fresh.open({
      masterKeys: masterKeyring({ primary: roots.primary.masterKey, tenantOf: () => 'other' }),
    })
    await other.rotateUserKey('acme/alice')
    await other.rotateUserKey('nobody')
    const rows = await rowsOf(fresh.store)
    const keks = (userId: string) => rows.filter((row) => row.userId === userId).map(({ kekId }) => kekId)
    expect(keks('acme/alice')).toEqual(['tenant:1:acme', 'tenant:2:acme'])
    expect(keks('nobody')).toEqual(['primary', 'primary'])
  })

  it('without tenantOf, users who are under a tenant stay there, and new ones go under the primary', async () => {
    const sealed = await sealAll(await fresh.open(), ['acme/alice'])
    const envelope = await fresh.open({ masterKeys: roots.primary.masterKey })
    await expectAllOpen(envelope, sealed)
    await envelope.rotateUserKey('acme/alice')
    await envelope.encrypt('acme/bob', 'x')
    expect(await keksOf(fresh.store)).toMatchObject({ 'acme/alice': 'tenant:1:acme', 'acme/bob': 'primary' })
  })

  it('a tenant that is shredded between the look-up and the insert of a user: the user is dead too', async () => {
    const other = await fresh.another()
    const shredder = await fresh.open({ store: other })
    await shredder.encrypt('acme/old', 'x')
    let shred: () => Promise<unknown> = async () => undefined
    const store = new Proxy(fresh.store, {
      get(target, name) {
        const value: unknown = Reflect.get(target, name, target)
        if (name !== 'insertIfAbsent') return typeof value === 'function' ? value.bind(target) : value
        return async (...records: Parameters<KeyStore['insertIfAbsent']>) => {
          await shred()
          return target.insertIfAbsent(...records)
        }
      },
    })
    const envelope = await fresh.open({ store })
    await envelope.encrypt('acme/warm', 'x')
    shred = () => shredder.shredTenant('acme')
    await envelope.encrypt('acme/new', 'x').catch(() => undefined)
    shred = async () => undefined
    await vi.waitFor(
      async () =>
        expect(await errorOf(envelope.encrypt('acme/new', 'x'))).toMatchObject({ code: 'ERR_KEY_SHREDDED' }),
      { timeout: 2000 },
    )
    const late = await fresh.open()
    for (const userId of ['acme/new', 'acme/warm', 'acme/newer'])
      expect(await errorOf(late.encrypt(userId, 'x'))).toMatchObject({ code: 'ERR_KEY_SHREDDED' })
  })

  it('a lost tenant row is replaced by no other key, and named as lost', async () => {
    const events: unknown[] = []
    const envelope = await fresh.open({ onEvent: (event) => events.push(event) })
    const [token] = await sealAll(envelope, ['acme/alice'])
    await fresh.store.remove([{ userId: tenantUserId('acme'), version: 1 }])
    await vi.waitFor(
      async () =>
        expect(await errorOf(envelope.encrypt('acme/new', 'x'))).toMatchObject({ code: 'ERR_KEY_NOT_FOUND' }),
      { timeout: 2000 },
    )
    expect(events).toContainEqual({
      type: 'keysLost',
      users: [{ userId: tenantUserId('acme'), version: 1 }],
      count: 1,
    })
    const late = await fresh.open()
    const error = await errorOf(late.decrypt('acme/alice', token?.token ?? ''))
    expect(error).toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    expect(error.message).toContain('tenant "acme", version 1')
  })

  it('without a cache every look-up asks the root, once for all that are asked for at the same time', async () => {
    const sealed = await sealAll(await fresh.open(), usersOf('acme', 20))
    const envelope = await fresh.open({ cache: false })
    roots.reset()
    await expectAllOpen(envelope, sealed)
    expect(roots.calls()).toEqual({ wraps: 0, unwraps: 1 })
    await expectAllOpen(envelope, sealed)
    expect(roots.calls()).toEqual({ wraps: 0, unwraps: 2 })
    const handle = await envelope.user('acme/0')
    expect(handle.encrypt('x')).toMatch(/^v3:/)
  })

  it('a cache of one user and one tenant serves many', async () => {
    const sealed = await sealAll(
      await fresh.open(),
      TEN.flatMap((tenantId) => usersOf(tenantId, 3)),
    )
    await expectAllOpen(await fresh.open({ cache: { maxEntries: 1 } }), sealed)
  })
})

describe('changes that the store reports', () => {
  const ROW: StoreChange = { userIds: [tenantUserId('acme')] }
  const KINDS: readonly [string, StoreChange][] = [
    ['named', ROW],
    ['unspecific', { unspecific: true }],
    ['of anybody', {}],
  ]
  let roots: Roots
  let controlled: ReturnType<typeof controlledStore>
  let envelope: EnvelopeCrypto
  let other: EnvelopeCrypto
  beforeEach(async () => {
    roots = tenantRoots(['acme'])
    controlled = controlledStore()
    const options = { masterKeys: roots.keyring, closeStore: false }
    envelope = await freshService(controlled.store, options)
    other = await freshService(controlled.bare, options)
    await other.encrypt('acme/alice', 'x')
    await other.encrypt('nobody', 'x')
    await envelope.encrypt('acme/alice', 'x')
    roots.reset()
  })
  afterEach(() => Promise.all([envelope.close(), other.close()]))

  it.each(KINDS)('%s: an eviction drops keys and ends handles of that tenant alone', async (_, change) => {
    const handle = await envelope.user('acme/alice')
    const unharmed = await envelope.user('nobody')
    await other.evictTenant('acme')
    expect(roots.of('acme').calls.unwrap).toBe(0)
    await controlled.tell(change)
    expect(await errorOf(() => handle.encrypt('x'))).toMatchObject({
      code: 'ERR_KEY_NOT_FOUND',
      retryable: true,
    })
    roots.of('acme').fail(() => new Error('taken away'))
    expect(await errorOf(envelope.encrypt('acme/alice', 'x'))).toMatchObject({ code: 'ERR_MASTER_KEY' })
    expect(unharmed.encrypt('x')).toMatch(/^v3:/)
    expect(await envelope.encrypt('nobody', 'x')).toMatch(/^v3:/)
  })

  it.each(KINDS)('%s: a shred drops keys and ends handles', async (_, change) => {
    const handle = await envelope.user('acme/alice')
    await other.shredTenant('acme')
    await controlled.tell(change)
    for (const work of [
      () => handle.encrypt('x'),
      () => envelope.encrypt('acme/alice', 'x'),
      () => envelope.encrypt('acme/new', 'x'),
    ])
      expect(await errorOf(work)).toMatchObject({ code: 'ERR_KEY_SHREDDED' })
  })

  it.each(KINDS)('%s: a move ends handles, and the next use asks the new root', async (_, change) => {
    const handle = await envelope.user('acme/alice')
    await other.moveTenant('acme', roots.primary.masterKey)
    roots.reset()
    await controlled.tell(change)
    expect(await errorOf(() => handle.encrypt('x'))).toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    await envelope.encrypt('acme/alice', 'x')
    expect(roots.primary.calls.unwrap).toBe(1)
    expect(roots.of('acme').calls.unwrap).toBe(0)
  })

  it.each(KINDS)('%s: where nothing has changed, no root is asked, and handles go on', async (_, change) => {
    const handle = await envelope.user('acme/alice')
    for (let i = 0; i < 5; i++) {
      await controlled.tell(change)
      await envelope.encrypt('acme/alice', 'x')
      await envelope.encrypt(`acme/${i}`, 'x')
    }
    expect(roots.calls()).toEqual({ wraps: 0, unwraps: 0 })
    expect(handle.encrypt('x')).toMatch(/^v3:/)
  })

  it.each(KINDS)(
    '%s: a new version wraps what comes, asks the root once, and ends no handle',
    async (_, change) => {
      const handle = await envelope.user('acme/alice')
      await other.rotateTenantKey('acme')
      roots.reset()
      await controlled.tell(change)
      await envelope.encrypt('acme/new', 'x')
      await envelope.encrypt('acme/alice', 'x')
      expect((await keksOf(controlled.bare))['acme/new']).toBe('tenant:2:acme')
      expect(roots.calls()).toEqual({ wraps: 0, unwraps: 1 })
      expect(handle.encrypt('x')).toMatch(/^v3:/)
    },
  )

  /** Begins a piece of work, and evicts the tenant while its root is being asked. */
  async function acrossAnEviction<T>(change: StoreChange, work: () => Promise<T>): Promise<T> {
    await envelope.evictTenant('acme')
    roots.of('acme').delay(30)
    const working = work()
    while (roots.of('acme').calls.unwrap === 0) await nextTurn()
    await other.evictTenant('acme')
    await controlled.tell(change)
    return working
  }

  it.each(KINDS)(
    '%s: a handle made across an eviction ends, or the root was asked again',
    async (_, change) => {
      const handle = await acrossAnEviction(change, () => envelope.user('acme/alice'))
      await vi.waitFor(async () => {
        if (roots.of('acme').calls.unwrap === 1)
          expect(await errorOf(() => handle.encrypt('x'))).toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
      })
    },
  )

  it.each(KINDS)('%s: what a root answered before an eviction is not used after it', async (_, change) => {
    await acrossAnEviction(change, () => envelope.encrypt('acme/alice', 'x'))
    await envelope.encrypt('acme/alice', 'x')
    expect(roots.of('acme').calls.unwrap).toBe(2)
  })

  it('unspecific ones cost one query of tenants, however many there are', async () => {
    for (let i = 0; i < 50; i++) await envelope.encrypt(`tenant-${i}/alice`, 'x')
    controlled.calls.length = 0
    await controlled.tell({ unspecific: true })
    expect(controlled.calls).toEqual(['getAll 51', 'getAll 51'])
  })

  it('are found out for tenants whose users alone are in use', async () => {
    for (let i = 0; i < 5; i++) {
      await controlled.tell({ unspecific: true })
      await envelope.encrypt('acme/alice', 'x')
    }
    await other.shredTenant('acme')
    await controlled.tell({ unspecific: true })
    expect(await errorOf(envelope.encrypt('acme/alice', 'x'))).toMatchObject({ code: 'ERR_KEY_SHREDDED' })
  })

  it('users who come under a tenant are opened anew, and their handles end', async () => {
    const before = await freshService(controlled.bare, {
      masterKeys: roots.primary.masterKey,
      closeStore: false,
    })
    await before.encrypt('acme/older', 'x')
    await envelope.encrypt('acme/older', 'x')
    const handle = await envelope.user('acme/older')
    const [row] = (await controlled.bare.getAll(['acme/older'])).get('acme/older') ?? []
    const [moved] = (await controlled.bare.getAll(['acme/alice'])).get('acme/alice') ?? []
    if (row === undefined || moved === undefined) throw new Error('not there')
    await controlled.bare.replaceWrapped([
      {
        ...row,
        from: row.encryptedKey,
        encryptedKey: moved.encryptedKey,
        kekId: moved.kekId,
        wrappedAt: new Date(),
      },
    ])
    await controlled.tell({ unspecific: true })
    expect(await errorOf(() => handle.encrypt('x'))).toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    expect(await errorOf(envelope.encrypt('acme/older', 'x'))).toMatchObject({ code: 'ERR_UNWRAP_FAILED' })
    await before.close()
  })

  it('a read of tenants that fails drops their keys and those of their users', async () => {
    controlled.failWith(new Error('the database is gone'))
    await controlled.tell({ unspecific: true })
    controlled.failWith(null)
    roots.of('acme').fail(() => new Error('taken away'))
    await other.evictTenant('acme')
    expect(await errorOf(envelope.encrypt('acme/alice', 'x'))).toMatchObject({ code: 'ERR_MASTER_KEY' })
  })
})

describe('the time to live', () => {
  it('of a user ends with that of the tenant: a root that was taken away is asked within it', async () => {
    const roots = tenantRoots(['acme'])
    const ttlMs = 400
    const envelope = await freshService(undefined, { masterKeys: roots.keyring, cache: { ttlMs } })
    await envelope.encrypt('acme/alice', 'x')
    const begun = performance.now()
    await sleep(250)
    await envelope.encrypt('acme/bob', 'x')
    roots.of('acme').fail(() => new Error('taken away'))
    await sleep(Math.max(0, ttlMs + 30 - (performance.now() - begun)))
    for (const userId of ['acme/alice', 'acme/bob'])
      expect(await errorOf(envelope.encrypt(userId, 'x'))).toMatchObject({ code: 'ERR_MASTER_KEY' })
    roots.of('acme').fail(null)
    await vi.waitFor(() => envelope.encrypt('acme/bob', 'x'), { timeout: 3000 })
    await envelope.close()
  })

  it('is not lengthened by changes after which the row is as it was', async () => {
    const roots = tenantRoots(['acme'])
    const { store, tell } = controlledStore()
    const envelope = await freshService(store, { masterKeys: roots.keyring, cache: { ttlMs: 300 } })
    const end = performance.now() + 450
    await envelope.encrypt('acme/alice', 'x')
    roots.reset()
    while (performance.now() < end) {
      await tell({})
      await envelope.encrypt('acme/alice', 'x')
      await sleep(20)
    }
    expect(roots.of('acme').calls.unwrap).toBe(1)
    await envelope.close()
  })
})
