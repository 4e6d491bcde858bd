/** A version of a tenant's key that somebody may have planted: no user comes under it, and it comes under no root of the tenant. */
import { beforeEach, describe, expect, it } from 'vitest'
import {
  generateMasterKey,
  localMasterKey,
  type MasterKey,
  type MasterKeyring,
  masterKeyring,
  pruneTenantKey,
  rewrapAll,
  verifyAll,
} from '../../src/index.js'
import { tenantUserId } from '../../src/table.js'
import { backends, freshStoreOfEachTest } from '../support/fresh-store.js'
import { serviceError } from '../support/key-service.js'
import { mintedRow, rowsOf } from '../support/rows.js'
import { overriding } from '../support/store-doubles.js'
import { expectInPlace, type Root, root, withTenants } from '../support/tenant-hierarchy.js'
import { keksOf, tenantRowsOf } from '../support/tenants.js'
import { expectAllOpen, sealAll } from '../support/tokens.js'

describe.each(backends)('a tenant’s key that may be planted, on %s', (backend) => {
  const { test, store } = freshStoreOfEachTest(backend)
  let primary: MasterKey
  let acme: Root
  let beta: Root
  beforeEach(() => {
    primary = key()
    acme = root('root-of-acme')
    beta = root('root-of-beta')
  })

  const key = () => localMasterKey(generateMasterKey())
  const keyring = (previous: readonly MasterKey[] = []): MasterKeyring =>
    withTenants(primary, {
      previous,
      tenantRoot: (id) => ({ acme, beta })[id] ?? null,
    })
  const seal = async (masterKeys: MasterKeyring, users: readonly string[]) =>
    sealAll(await test.open({ masterKeys }), users)
  /** What who writes to the database and uses a root can do. */
  const plant = async (under: MasterKey, version = 2, tenantId = 'acme') =>
    store.insertIfAbsent([await mintedRow(under, tenantUserId(tenantId), { version })])
  const rootsOf = async (tenantId: string) => (await tenantRowsOf(store, tenantId)).map(({ kekId }) => kekId)

  it('under another customer’s root gets no user of an earlier version, and is not moved', async () => {
    const sealed = await seal(keyring(), ['acme/alice', 'beta/bob'])
    await plant(beta)
    for (const masterKeys of [keyring([beta]), masterKeyring({ primary, previous: [acme, beta] })]) {
      const before = await rowsOf(store)
      const report = await rewrapAll({ store, masterKeys })
      expect(report.changed).toBe(0)
      expect(report.failed).toContainEqual(
        expect.objectContaining({
          userId: 'acme/alice',
          code: 'ERR_CONFLICT',
          reason: expect.stringContaining('move-tenant'),
        }),
      )
      expect(await rowsOf(store)).toEqual(before)
      const { findings } = await verifyAll({ store, masterKeys })
      expect(findings).toContainEqual(
        expect.objectContaining({
          severity: 'warning',
          kind: 'tenantMixed',
          userId: tenantUserId('acme'),
          version: 2,
        }),
      )
    }
    const { failed } = await rewrapAll({ store, masterKeys: keyring([beta]) })
    expect(failed.map(({ userId, version, code }) => [userId, version, code])).toEqual([
      [tenantUserId('acme'), 2, 'ERR_CONFLICT'],
      ['acme/alice', 1, 'ERR_CONFLICT'],
    ])

    // A version that is neither, and nobody is under the others any more.
    const envelope = await test.open({ masterKeys: keyring() })
    expect(await envelope.rotateTenantKey('acme')).toMatchObject({ version: 3, rotated: true })
    expect(await rewrapAll({ store, masterKeys: keyring() })).toMatchObject({ changed: 1, failedCount: 1 })
    expect((await keksOf(store))['acme/alice']).toBe('tenant:3:acme')
    const pruned = await pruneTenantKey({ store, tenantId: 'acme', olderThanMs: 0 })
    expect(pruned.versions).toEqual([1, 2])
    expect(await rewrapAll({ store, masterKeys: keyring() })).toMatchObject({ changed: 0, failedCount: 0 })
    await expectAllOpen(await test.open({ masterKeys: keyring() }), sealed)
  })

  it('under a former primary gets no user who came after it, and does not come under the new one', async () => {
    const next = key()
    const masterKeys = withTenants(next, { previous: [primary] })
    await seal(masterKeys, ['t/alice'])
    await plant(primary, 2, 't')
    const report = await rewrapAll({ store, masterKeys })
    expect(report).toMatchObject({ changed: 0, failedCount: 2 })
    expect(await rootsOf('t')).toEqual([next.id, primary.id])
    expect(report.masterKeys).toContainEqual(
      expect.objectContaining({ kekId: primary.id, noRowNeedsIt: false }),
    )
    expect((await keksOf(store))['t/alice']).toBe('tenant:1:t')
  })

  it('does not come under the tenant’s root together with an earlier version that moves there', async () => {
    await seal(masterKeyring({ primary, tenantOf: keyring().tenantOf }), ['acme/alice'])
    await plant(beta)
    for (let run = 0; run < 2; run++) {
      const { failed } = await rewrapAll({ store, masterKeys: keyring([beta]) })
      expect(failed.map(({ userId }) => userId)).toEqual([tenantUserId('acme'), 'acme/alice'])
      expect(await rootsOf('acme')).toEqual([acme.id, beta.id])
    }
  })

  it('gets no user from under a master key', async () => {
    await seal(keyring(), ['acme/alice'])
    await plant(beta)
    await store.insertIfAbsent([await mintedRow(primary, 'acme/late')])
    const { failed } = await rewrapAll({ store, masterKeys: keyring([beta]) })
    expect(failed).toContainEqual(expect.objectContaining({ userId: 'acme/late', code: 'ERR_CONFLICT' }))
    expect((await keksOf(store))['acme/late']).toBe(primary.id)
  })

  it('is none if it is under the root that tenantRoot names, or under that of the earlier version', async () => {
    const before = root('before')
    const earlier = withTenants(primary, { tenantRoot: () => before })
    const sealed = await seal(earlier, ['acme/alice', 'acme/bob'])
    // A rotation after the tenant got another root.
    const moving = withTenants(primary, {
      tenantRoot: () => masterKeyring({ primary: acme, previous: [before] }),
    })
    const envelope = await test.open({ masterKeys: moving })
    await envelope.rotateTenantKey('acme')
    expect(await rootsOf('acme')).toEqual(['before', acme.id])
    expect((await verifyAll({ store, masterKeys: moving })).counts).not.toHaveProperty('tenantMixed')
    expect(await rewrapAll({ store, masterKeys: moving })).toMatchObject({
      changed: 3,
      failedCount: 0,
    })
    expect(await rootsOf('acme')).toEqual([acme.id, acme.id])
    await envelope.rotateTenantKey('acme')
    expect(
      await rewrapAll({ store, masterKeys: masterKeyring({ primary, previous: [acme] }) }),
    ).toMatchObject({
      failedCount: 0,
    })
    expect((await keksOf(store))['acme/alice']).toBe('tenant:3:acme')
    await expectInPlace(store, keyring())
    await expectAllOpen(await test.open({ masterKeys: keyring() }), sealed)
  })

  it('all versions of a tenant are written at once, in batches of any size', async () => {
    const plain = withTenants(primary)
    const tenants = ['a', 'b', 'c', 'd']
    const sealed = await seal(
      plain,
      tenants.flatMap((id) => [`${id}/1`, `${id}/2`]),
    )
    const envelope = await test.open({ masterKeys: plain })
    for (const id of tenants) for (let i = 0; i < 3; i++) await envelope.rotateTenantKey(id)
    for (const batchSize of [1, 3, 5, 7]) {
      const next = key()
      const masterKeys = withTenants(next, { previous: [primary] })
      const calls: string[][] = []
      const watched = overriding(store, {
        replaceWrapped(changes) {
          calls.push(changes.filter(({ userId }) => userId.startsWith('\u0001')).map(({ userId }) => userId))
          return store.replaceWrapped(changes)
        },
      })
      expect(await rewrapAll({ store: watched, masterKeys, batchSize })).toMatchObject({ failedCount: 0 })
      for (const id of tenants) {
        const ofTenant = calls.filter((userIds) => userIds.includes(tenantUserId(id)))
        expect(ofTenant.map((ids) => ids.filter((userId) => userId === tenantUserId(id)).length)).toEqual([4])
      }
      primary = next
    }
    await expectAllOpen(await test.open({ masterKeys: withTenants(primary) }), sealed)
  })

  it('a root that fails for one version leaves all where they are', async () => {
    await seal(withTenants(primary), ['acme/alice'])
    await (await test.open({ masterKeys: withTenants(primary) })).rotateTenantKey('acme')
    let denied = 2
    const failing = {
      ...acme,
      wrap: (...args: Parameters<MasterKey['wrap']>) => {
        if (args[2].version === denied) throw serviceError('denied')
        return acme.wrap(...args)
      },
    }
    const masterKeys = withTenants(primary, { tenantRoot: () => failing })
    const { failed } = await rewrapAll({ store, masterKeys })
    expect(failed).toMatchObject([{ userId: tenantUserId('acme'), code: 'ERR_MASTER_KEY' }])
    expect(await rootsOf('acme')).toEqual([primary.id, primary.id])
    denied = 0
    expect(await rewrapAll({ store, masterKeys })).toMatchObject({ failedCount: 0 })
    expect(await rootsOf('acme')).toEqual([acme.id, acme.id])
  })
})
