/** What is listed, verified, rotated and pruned where there are tenants. */
import { beforeEach, describe, expect, it } from 'vitest'
import {
  findTenant,
  listTenants,
  type MasterKeyring,
  masterKeyring,
  rotateWhere,
  type TenantState,
  verifyAll,
} from '../../src/index.js'
import { tenantUserId } from '../../src/table.js'
import { backends, freshStoreOfEachTest } from '../support/fresh-store.js'
import { findingsOf } from '../support/maintenance.js'
import { rowsOf } from '../support/rows.js'
import {
  callsSince,
  expectInPlace,
  type Root,
  root,
  usersOfTenants,
  withTenants,
} from '../support/tenant-hierarchy.js'
import { tenantOf } from '../support/tenants.js'
import { expectAllOpen, type Sealed, sealAll } from '../support/tokens.js'

const TENANTS = 6
const USERS = usersOfTenants(60, TENANTS)
const LONE = ['lone-1', 'lone-2']

describe.each(backends)('tenants in long operations on %s', (backend) => {
  const { test, store } = freshStoreOfEachTest(backend)
  let primary: Root
  beforeEach(() => {
    primary = root('root-a')
  })

  const open = (masterKeys: MasterKeyring) => test.open({ masterKeys })
  /** Seals for all users, with these keys. */
  const seal = async (masterKeys: MasterKeyring, users = [...USERS, ...LONE]): Promise<Sealed[]> =>
    sealAll(await open(masterKeys), users)

  it('verifyAll opens all rows by one call for each tenant, and names a tenant once, not its users', async () => {
    const own = root('own')
    const keys = withTenants(primary, { tenantRoot: (id) => (id === 't5' ? own : null) })
    await seal(keys)
    callsSince(primary, own)
    const { ok, rows } = await verifyAll({ store, masterKeys: keys })
    expect({ ok, rows }).toEqual({ ok: true, rows: USERS.length + LONE.length + TENANTS })
    expect(own.askedFor).toEqual([tenantUserId('t5')])
    expect(callsSince(primary, own)).toEqual([
      { wraps: 0, unwraps: TENANTS - 1 + LONE.length },
      { wraps: 0, unwraps: 1 },
    ])
    own.denies = true
    expect(await findingsOf(store, keys)).toMatchObject([
      { severity: 'error', kind: 'masterKeyFailed', userId: tenantUserId('t5'), kekId: 'own' },
    ])
    expect(own.askedFor.length).toBeLessThanOrEqual(2)
    expect(await findingsOf(store, masterKeyring({ primary }))).toMatchObject([
      { severity: 'warning', kind: 'tenantNotChecked', userId: tenantUserId('t5') },
    ])
    expect(await findingsOf(store, withTenants(primary))).toMatchObject([
      { severity: 'error', kind: 'unknownMasterKey', userId: tenantUserId('t5') },
    ])

    await store.remove([{ userId: tenantUserId('t4'), version: 1 }])
    own.denies = false
    expect(await findingsOf(store, keys)).toMatchObject([
      { severity: 'error', kind: 'tenantMissing', userId: tenantUserId('t4'), version: 1 },
    ])
  })

  it('rotateWhere makes new versions under the tenants’ newest keys, and none of tenants’ keys', async () => {
    const keys = withTenants(primary)
    const sealed = await seal(keys)
    await (await open(keys)).rotateTenantKey('t1')
    const ofTenants = async () => (await rowsOf(store)).filter(({ userId }) => userId.startsWith('\u0001'))
    const before = await ofTenants()
    callsSince(primary)
    const report = await rotateWhere({ store, masterKeys: masterKeyring({ primary }), olderThanMs: 0 })
    expect(report).toMatchObject({ complete: true, rotated: USERS.length + LONE.length, failedCount: 0 })
    expect(callsSince(primary)).toEqual([{ wraps: LONE.length, unwraps: TENANTS }])
    expect(await ofTenants()).toEqual(before)
    const rows = (await rowsOf(store)).filter(
      ({ version, userId }) => version === 2 && tenantOf(userId) === 't1',
    )
    expect(new Set(rows.map(({ kekId }) => kekId))).toEqual(new Set(['tenant:2:t1']))
    await expectInPlace(store, keys)
    await expectAllOpen(await open(keys), sealed)
  })

  it('listTenants pages through tenants with the keys under each, findTenant finds one', async () => {
    const keys = withTenants(primary)
    await seal(keys)
    const envelope = await open(keys)
    await envelope.rotateTenantKey('t1')
    await envelope.encrypt('t1/new', 'x')
    await envelope.shredTenant('t4')
    for (const limit of [1, 2, 100]) {
      const found: TenantState[] = []
      for (let page = await listTenants({ store, limit }); page.length > 0; ) {
        found.push(...page)
        page = await listTenants({ store, limit, after: page.at(-1)?.tenantId })
      }
      expect(found.map(({ tenantId }) => tenantId)).toEqual(['t0', 't1', 't2', 't3', 't4', 't5'])
      const [t0, t1, , , t4] = found
      expect(t0).toMatchObject({ shredded: false, versions: [{ version: 1, kekId: 'root-a', keys: 10 }] })
      expect(t1?.versions.map(({ keys: count }) => count)).toEqual([10, 1])
      expect(t4).toMatchObject({ shredded: true })
      expect(await findTenant({ store, tenantId: 't1' })).toEqual(t1)
    }
    expect(await findTenant({ store, tenantId: 'unknown' })).toBeNull()
    await expect(listTenants({ store, limit: 0 })).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
  })
})
