/**
 * Keys of tenants that no user needs any more: earlier versions after a rotation, and on the way out of the hierarchy all of them, which fail no
 * rewrap and can be removed.
 */
import { beforeEach, describe, expect, it } from 'vitest'
import {
  findTenant,
  type KeyRecord,
  type KeyStore,
  type KeystoreError,
  masterKeyring,
  pruneTenantKey,
  pruneUnusedTenants,
  rewrapAll,
} from '../../src/index.js'
import { tenantUserId } from '../../src/table.js'
import { errorOf } from '../support/errors.js'
import { backends, freshStoreOfEachTest } from '../support/fresh-store.js'
import { gate } from '../support/gate.js'
import { rowsOf, rowsOfUser } from '../support/rows.js'
import { overriding } from '../support/store-doubles.js'
import { root, usersOfTenants, withTenants } from '../support/tenant-hierarchy.js'
import { expectAllOpen, type Sealed, sealAll } from '../support/tokens.js'

describe.each(backends)('tenants without users on %s', (backend) => {
  const primary = root('root')
  const customers = root('customers')
  const tenantRoot = (tenantId: string) => (tenantId === 't0' ? customers : null)
  const hierarchy = withTenants(primary, { tenantRoot })
  const out = masterKeyring({ primary, tenantOf: () => null, tenantRoot })
  const { test, store } = freshStoreOfEachTest(backend, { masterKeys: hierarchy })
  let sealed: Sealed[]
  beforeEach(async () => {
    const service = await test.open()
    sealed = await sealAll(service, [...usersOfTenants(12, 3), 'lone'])
    await service.rotateTenantKey('t0')
  })

  const prune = (on: KeyStore = store) => pruneUnusedTenants({ store: on, olderThanMs: 0 })
  const tenants = async () => (await rowsOf(store)).filter(({ userId }) => userId.startsWith('\u0001'))

  it('fail no rewrap without their roots, while a tenant who has users does', async () => {
    const none = masterKeyring({ primary, tenantOf: () => null })
    const withUsers = await rewrapAll({ store, masterKeys: none })
    // The four users of t0, and the version of its key that wraps them.
    expect(withUsers.failedCount).toBe(5)
    await rewrapAll({ store, masterKeys: out })
    for (const masterKeys of [none, primary, masterKeyring({ primary })])
      expect(await rewrapAll({ store, masterKeys })).toMatchObject({ complete: true, failedCount: 0 })
  })

  it('are removed, all versions of them, and their users had left', async () => {
    expect((await prune()).tenantIds).toEqual([])
    await rewrapAll({ store, masterKeys: out })
    expect((await pruneUnusedTenants({ store })).tenantIds).toEqual([])
    const dry = await pruneUnusedTenants({ store, olderThanMs: 0, dryRun: true })
    expect(dry.tenantIds).toEqual(['t0', 't1', 't2'])
    expect(await pruneUnusedTenants({ store, olderThanMs: 0, tenantId: 't1' })).toEqual({ tenantIds: ['t1'] })
    expect((await tenants()).map(({ userId }) => userId)).toEqual(['t0', 't0', 't2'].map(tenantUserId))
    await store.shred(tenantUserId('t2'), { forget: false })
    expect(await prune()).toEqual({ tenantIds: ['t0'] })
    expect(await tenants()).toMatchObject([{ userId: tenantUserId('t2'), shreddedAt: expect.any(Date) }])
    const plain = masterKeyring({ primary })
    expect(await rewrapAll({ store, masterKeys: plain })).toMatchObject({ failedCount: 0, complete: true })
    await expectAllOpen(await test.open({ masterKeys: plain }), sealed)
  })

  it('are put back if a process that still has their key makes a user meanwhile', async () => {
    await rewrapAll({ store, masterKeys: out })
    const before = await rowsOfUser(store, tenantUserId('t1'))
    const late = await test.open()
    // It opens the key of t1, and keeps it.
    await late.encrypt('t1/late', 'x')
    await store.shred('t1/late', { forget: true })
    let token = ''
    const racing = overriding(store, {
      async remove(refs) {
        token = await late.encrypt('t1/later', 'of later')
        return store.remove(refs)
      },
    })
    await expect(prune(racing)).rejects.toMatchObject({
      code: 'ERR_STORE',
      retryable: true,
      message: expect.stringContaining('put back: "t1"'),
    })
    expect(await rowsOfUser(store, tenantUserId('t1'))).toEqual(before)
    expect(await (await test.open()).decrypt('t1/later', token)).toBe('of later')
  })

  /** A service whose insert of a user's first key waits at a gate. */
  async function slowMint(userId: string) {
    const stop = gate()
    const another = await test.another()
    const slow = overriding(another, {
      async insertIfAbsent(records) {
        if (records.some((record) => record.userId === userId)) await stop.wait()
        return another.insertIfAbsent(records)
      },
    })
    return { stop, service: await test.open({ store: slow }) }
  }

  it('lose no user whose mint waits for the database longer than the removal takes', async () => {
    await rewrapAll({ store, masterKeys: out })
    const { stop, service } = await slowMint('t1/slow')
    // It opens the key of t1, and keeps it.
    await service.encrypt('t1/first', 'x')
    await store.shred('t1/first', { forget: true })
    stop.arm()
    const minted = errorOf(service.encrypt('t1/slow', 'of slow'))
    await stop.reached()
    expect((await prune()).tenantIds).toEqual(['t0', 't1', 't2'])
    stop.open()
    // It has used the key, and does not make a second one unasked.
    expect(await minted).toMatchObject({ code: expect.stringMatching(/^ERR_KEYS_LOST|ERR_KEY_NOT_FOUND$/) })
    expect(await rowsOfUser(store, 't1/slow')).toEqual([])
    const token = await (await test.open()).encrypt('t1/slow', 'of slow')
    expect(await (await test.open()).decrypt('t1/slow', token)).toBe('of slow')
  })

  it('leave no user under a key that was forgotten, and made anew, while the mint was waiting', async () => {
    const { stop, service } = await slowMint('t1/slow')
    await service.encrypt('t1/user-000001', 'x')
    stop.arm()
    const minted = service.encrypt('t1/slow', 'of slow').catch((error: KeystoreError) => error)
    await stop.reached()
    const other = await test.open()
    await other.shredTenant('t1', { forget: true })
    for (const { userId } of await rowsOf(store))
      if (userId.startsWith('t1/')) await store.shred(userId, { forget: true })
    await other.encrypt('t1/other', 'x')
    stop.open()
    const token = await minted
    // Under the new key, if the process knows that the other one was forgotten on purpose; else it is not made.
    if (typeof token !== 'string') expect(await rowsOfUser(store, 't1/slow')).toEqual([])
    else expect(await (await test.open()).decrypt('t1/slow', token)).toBe('of slow')
    await (await test.open()).encrypt('t1/slow', 'x')
  })
})

describe.each(backends)('earlier versions of a tenant’s key on %s', (backend) => {
  const keys = withTenants(root('root'))
  const { test, store } = freshStoreOfEachTest(backend, { masterKeys: keys })

  it('pruneTenantKey removes versions without users, not too soon, and puts one back that a user came under', async () => {
    const envelope = await test.open()
    const sealed = await sealAll(envelope, usersOfTenants(60, 6))
    await envelope.rotateTenantKey('t1')
    const prune = (olderThanMs?: number, on: KeyStore = store) =>
      pruneTenantKey({ store: on, tenantId: 't1', ...(olderThanMs === undefined ? {} : { olderThanMs }) })
    expect((await prune(0)).versions).toEqual([])
    await rewrapAll({ store, masterKeys: keys })
    expect((await prune()).versions).toEqual([])
    expect((await pruneTenantKey({ store, tenantId: 't1', olderThanMs: 0, dryRun: true })).versions).toEqual([
      1,
    ])
    // A process that was suspended wraps under the earlier version, just as this is removed.
    const [user] = (await store.getAll(['t1/user-000001'])).get('t1/user-000001') ?? []
    const late = { ...(user as KeyRecord), userId: 't1/late', kekId: 'tenant:1:t1' }
    const racing = overriding(store, {
      async remove(refs) {
        await store.insertIfAbsent([late])
        return store.remove(refs)
      },
    })
    await expect(prune(0, racing)).rejects.toMatchObject({ code: 'ERR_STORE', retryable: true })
    expect((await findTenant({ store, tenantId: 't1' }))?.versions).toHaveLength(2)
    await store.remove([late])
    expect((await prune(0)).versions).toEqual([1])
    expect((await findTenant({ store, tenantId: 't1' }))?.versions).toMatchObject([{ version: 2, keys: 10 }])
    await expectAllOpen(await test.open(), sealed)
    expect((await prune(0)).versions).toEqual([])
  })
})
