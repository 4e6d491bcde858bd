/** The way out of the hierarchy of tenants: their own keys, which no user needs any more, fail no rewrap and can be removed. */
import { beforeEach, describe, expect, it } from 'vitest'
import {
  type KeyRecord,
  type KeyStore,
  masterKeyring,
  pruneUnusedTenants,
  rewrapAll,
} from '../../src/index.js'
import { tenantUserId } from '../../src/table.js'
import { backends, freshStoreOfEachTest } from '../support/fresh-store.js'
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

  it('a user who comes under a removed key just before every process knows of it is found', async () => {
    await rewrapAll({ store, masterKeys: out })
    const [user] = (await store.getAll(['t1/user-000001'])).get('t1/user-000001') ?? []
    const late = { ...(user as KeyRecord), userId: 't1/late', kekId: 'tenant:1:t1' }
    const racing = overriding(store, {
      async remove(refs) {
        const removed = await store.remove(refs)
        setTimeout(() => void store.insertIfAbsent([late]), 2000)
        return removed
      },
    })
    await expect(prune(racing)).rejects.toMatchObject({ code: 'ERR_STORE', retryable: true })
    expect(await rowsOfUser(store, tenantUserId('t1'))).toHaveLength(1)
  })
})
