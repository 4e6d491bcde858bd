/** rewrapAll on stores with tenants: users come under their tenants' keys and back, and tenants' own rows under their roots. */
import { randomBytes } from 'node:crypto'
import { beforeEach, describe, expect, it } from 'vitest'
import {
  type EnvelopeCrypto,
  type KeyRecord,
  type KeyStore,
  type KeystoreEvent,
  localMasterKey,
  type MasterKeyring,
  masterKeyring,
  rewrapAll,
  verifyAll,
} from '../../src/index.js'
import { tenantUserId } from '../../src/table.js'
import { backends, freshStoreOfEachTest } from '../support/fresh-store.js'
import { findingsOf } from '../support/maintenance.js'
import { rowsOf, v2Row } from '../support/rows.js'
import { overriding } from '../support/store-doubles.js'
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

describe.each(backends)('rewrapAll with tenants on %s', (backend) => {
  const { test, store } = freshStoreOfEachTest(backend)
  let primary: Root
  beforeEach(() => {
    primary = root('root-a')
  })

  const open = (masterKeys: MasterKeyring) => test.open({ masterKeys })
  /** Seals for all users, with these keys. */
  const seal = async (masterKeys: MasterKeyring, users = [...USERS, ...LONE]): Promise<Sealed[]> =>
    sealAll(await open(masterKeys), users)
  /** Rows of users that a store gave out. */
  function countingRead(inner: KeyStore): { readonly store: KeyStore; readonly read: () => number } {
    let read = 0
    const list: KeyStore['list'] = async (page) => {
      const rows = await inner.list(page)
      read += rows.filter(({ userId }) => !userId.startsWith('\u0001')).length
      return rows
    }
    return { store: overriding(inner, { list }), read: () => read }
  }
  const kekIds = async () => new Set((await rowsOf(store)).map(({ kekId }) => kekId))

  it('rewrapAll brings users under the keys of their tenants, and back', async () => {
    const sealed = await seal(masterKeyring({ primary }))
    callsSince(primary)
    const events: KeystoreEvent[] = []
    const hierarchy = withTenants(primary)
    const report = await rewrapAll({
      store,
      masterKeys: hierarchy,
      batchSize: 7,
      onEvent: (event) => events.push(event),
    })
    expect(report).toMatchObject({ complete: true, changed: USERS.length, skipped: 0, failedCount: 0 })
    // Each user's old wrap, and each tenant's new key, which is opened once to see that it can be.
    expect(callsSince(primary)).toEqual([{ wraps: TENANTS, unwraps: USERS.length + TENANTS }])
    await expectInPlace(store, hierarchy)
    expect(report.after.filter(({ shredded }) => !shredded)).toEqual([
      { kekId: 'root-a', version: 1, shredded: false, count: LONE.length },
      { kekId: 'root-a', version: 1, shredded: false, count: TENANTS, ofTenants: true },
      { kekId: 'tenant:', version: 1, shredded: false, count: USERS.length },
    ])
    const counts = events.flatMap((event) => (event.type === 'rewrapped' ? [event.count] : []))
    expect(counts.reduce((sum, count) => sum + count)).toBe(USERS.length)

    callsSince(primary)
    await expectAllOpen(await open(hierarchy), sealed)
    // `open` opens one sample. Each tenant's key is opened once, and each user without a tenant.
    const [{ unwraps } = { unwraps: 0 }] = callsSince(primary)
    expect(unwraps).toBeLessThanOrEqual(TENANTS + LONE.length + 2)

    const rows = await rowsOf(store)
    expect(await rewrapAll({ store, masterKeys: hierarchy })).toMatchObject({ complete: true, changed: 0 })
    expect(await rowsOf(store)).toEqual(rows)
    expect(callsSince(primary)).toEqual([{ wraps: 0, unwraps: 0 }])

    const flat = withTenants(primary, { tenantOf: () => null })
    const back = await rewrapAll({ store, masterKeys: flat, batchSize: 7 })
    expect(back).toMatchObject({ complete: true, changed: USERS.length, failedCount: 0 })
    await expectInPlace(store, flat, () => null)
    await expectAllOpen(await open(flat), sealed)
  })

  it('a new root is one row for each tenant: users are not read, and no other call is made', async () => {
    const sealed = await seal(withTenants(primary))
    const next = root('root-b')
    const rotated = withTenants(next, { previous: [primary] })
    const users = (await rowsOf(store)).filter(({ kekId }) => kekId?.startsWith('tenant:'))
    callsSince(primary, next)
    // Without `tenantOf`, as a command has it.
    const counting = countingRead(store)
    const plain = masterKeyring({ primary: next, previous: [primary] })
    const report = await rewrapAll({ store: counting.store, masterKeys: plain, moveTenants: true })
    expect(report).toMatchObject({ complete: true, changed: TENANTS + LONE.length, failedCount: 0 })
    expect(report.tenantsMoved).toEqual([{ fromKekId: 'root-a', count: TENANTS }])
    expect(report.warnings).toHaveLength(2)
    expect(report.masterKeys).toMatchObject([
      { kekId: 'root-b', noRowNeedsIt: false },
      { kekId: 'root-a', rows: 0, noRowNeedsIt: true },
    ])
    // Every new wrap is opened before it replaces the old one.
    const moved = TENANTS + LONE.length
    expect(callsSince(primary, next)).toEqual([
      { wraps: 0, unwraps: moved },
      { wraps: moved, unwraps: moved },
    ])
    // Those without a tenant; and a page of tenants ends where users begin, so that it may have some of them.
    expect(counting.read()).toBeLessThanOrEqual(2 * (USERS.length + LONE.length) + LONE.length)
    expect((await rowsOf(store)).filter(({ kekId }) => kekId?.startsWith('tenant:'))).toEqual(users)
    await expectAllOpen(await open(withTenants(next)), sealed)
    expect(await rewrapAll({ store, masterKeys: rotated })).toMatchObject({ complete: true, changed: 0 })
  })

  it('a previous key that only tenants’ own rows need is needed', async () => {
    await seal(withTenants(primary), USERS)
    const next = root('root-b')
    const keys = masterKeyring({ primary: next, previous: [primary] })
    const { masterKeys } = await verifyAll({ store, masterKeys: keys })
    expect(masterKeys).toMatchObject([
      { kekId: 'root-b', rows: 0 },
      { kekId: 'root-a', rows: TENANTS, noRowNeedsIt: false },
    ])
  })

  it('brings users of earlier versions of a tenant’s key along, in this process', async () => {
    const keys = withTenants(primary)
    const sealed = await seal(keys)
    const envelope = await open(keys)
    await envelope.rotateTenantKey('t1')
    await envelope.rotateTenantKey('t1')
    await envelope.rotateTenantKey('t2')
    callsSince(primary)
    // A command knows no tenantOf, and has the root.
    const report = await rewrapAll({ store, masterKeys: masterKeyring({ primary }) })
    expect(report).toMatchObject({ complete: true, changed: (2 * USERS.length) / TENANTS, failedCount: 0 })
    // Versions 1 and 3 of one, 1 and 2 of the other: version 2 has no user.
    expect(callsSince(primary)).toEqual([{ wraps: 0, unwraps: 4 }])
    const ids = await kekIds()
    expect(ids.has('tenant:1:t1') || ids.has('tenant:2:t1') || ids.has('tenant:1:t2')).toBe(false)
    expect(ids.has('tenant:3:t1') && ids.has('tenant:2:t2') && ids.has('tenant:1:t3')).toBe(true)
    await expectInPlace(store, keys)
    await expectAllOpen(await open(keys), sealed)
  })

  it('moves tenants to roots of their own, and a root that denies harms no other tenant', async () => {
    const sealed = await seal(withTenants(primary))
    const roots = new Map(['t0', 't1', 't2'].map((id) => [id, root(`own-${id}`)]))
    const keys = withTenants(primary, { tenantRoot: (id) => roots.get(id) ?? null })
    const denying = roots.get('t1') as Root
    denying.denies = true
    const report = await rewrapAll({ store, masterKeys: keys })
    expect(report).toMatchObject({ complete: true, changed: 2, failedCount: 1 })
    expect(report.failed).toMatchObject([
      { userId: tenantUserId('t1'), kekId: 'root-a', code: 'ERR_MASTER_KEY', masterKeyReason: 'denied' },
    ])
    // Its users still open under the old root.
    await expectAllOpen(await open(keys), sealed)
    denying.denies = false
    expect(await rewrapAll({ store, masterKeys: keys })).toMatchObject({ changed: 1, failedCount: 0 })
    await expectInPlace(store, keys)

    // A keyring that does not know the tenants leaves them as they are.
    const before = await rowsOf(store)
    const next = root('root-b')
    const unknowing = masterKeyring({ primary: next, previous: [primary] })
    expect(await rewrapAll({ store, masterKeys: unknowing })).toMatchObject({
      complete: true,
      changed: LONE.length,
      failedCount: 0,
    })
    const ofTenants = ({ userId }: KeyRecord) => userId.startsWith('\u0001')
    expect((await rowsOf(store)).filter(ofTenants)).toEqual(before.filter(ofTenants))
    expect(await rewrapAll({ store, masterKeys: unknowing, moveTenants: true })).toMatchObject({
      complete: true,
      changed: TENANTS - 3,
      failedCount: 0,
    })
    const ofOwnRoots = (row: { kekId: string | null }) => row.kekId?.startsWith('own-') ?? false
    expect((await rowsOf(store)).filter(ofOwnRoots)).toEqual(before.filter(ofOwnRoots))
    // One that has tenants has to know their roots.
    const lacking = withTenants(next, { previous: [primary] })
    const { failed } = await rewrapAll({ store, masterKeys: lacking })
    expect(failed.filter(({ code }) => code === 'ERR_UNKNOWN_MASTER_KEY')).toHaveLength(3)
  })

  it('a root that returns garbage replaces no row, and gives no tenant a key', async () => {
    const sealed = await seal(withTenants(primary), USERS)
    const garbage = { ...root('garbage'), wrap: async () => new Uint8Array(randomBytes(64)) }
    const before = await rowsOf(store)
    const moved = await rewrapAll({ store, masterKeys: withTenants(garbage, { previous: [primary] }) })
    expect(moved).toMatchObject({ changed: 0, failedCount: TENANTS })
    expect(await rowsOf(store)).toEqual(before)
    await seal(masterKeyring({ primary }), ['new/user'])
    const keys = withTenants(primary, { tenantRoot: (id) => (id === 'new' ? garbage : null) })
    expect(await rewrapAll({ store, masterKeys: keys })).toMatchObject({ changed: 0, failedCount: 1 })
    expect((await store.getAll([tenantUserId('new')])).size).toBe(0)
    await expectAllOpen(await open(withTenants(primary)), sealed)
  })

  it('moves no user from one tenant to another, and says so', async () => {
    const keys = withTenants(primary)
    const sealed = await seal(keys)
    const moving = withTenants(primary, {
      tenantOf: (userId) => (userId === 't3/user-000003' ? 't4' : tenantOf(userId)),
    })
    const before = await rowsOf(store)
    const report = await rewrapAll({ store, masterKeys: moving })
    expect(report).toMatchObject({ changed: 0, failedCount: 1 })
    expect(report.failed).toMatchObject([{ userId: 't3/user-000003', code: 'ERR_CONFLICT' }])
    expect(await rowsOf(store)).toEqual(before)
    await expectAllOpen(await open(keys), sealed)
  })

  it('asks about all users of a tenant only if one of the first belongs elsewhere, or if it is told to', async () => {
    const many = usersOfTenants(250, 1)
    await seal(withTenants(primary), many)
    const asked: string[] = []
    const last = many.at(-1)
    const masterKeys = withTenants(primary, {
      tenantOf: (userId) => {
        asked.push(userId)
        return userId === last ? null : tenantOf(userId)
      },
    })
    const sampled = await rewrapAll({ store, masterKeys })
    expect(sampled).toMatchObject({ changed: 0 })
    expect(sampled.warnings.at(-1)).toMatch(/first 100 users .* of 1 tenant there are more.*`allUsers: true`/)
    expect(new Set(asked).size).toBe(100)
    const all = await rewrapAll({ store, masterKeys, allUsers: true })
    expect(all).toMatchObject({ changed: 1, failedCount: 0 })
    expect(all.warnings).toHaveLength(2)
    expect(new Set(asked).size).toBe(250)
  })

  it('brings rows of the reference’s format under tenants’ keys, but no copied key', async () => {
    const local = localMasterKey(randomBytes(32))
    const rows = USERS.slice(0, 12).map((userId) => v2Row(local, { userId }, { kekId: null }))
    const [copied] = rows
    const copy = { ...(copied as KeyRecord), userId: 't5/copy' }
    await store.insertIfAbsent([...rows, copy])
    const keys = withTenants(local)
    const report = await rewrapAll({ store, masterKeys: keys, accept: ['v2'] })
    expect(report).toMatchObject({ changed: rows.length - 1, failedCount: 2 })
    expect(new Set(report.failed.map(({ userId }) => userId))).toEqual(new Set([copied?.userId, 't5/copy']))
    await store.remove([copy])
    expect(await rewrapAll({ store, masterKeys: keys, accept: ['v2'] })).toMatchObject({ changed: 1 })
    await expectInPlace(store, keys)
  })

  it('writes nothing in a dry run, and refuses tenants in format v2', async () => {
    await seal(masterKeyring({ primary }))
    const before = await rowsOf(store)
    const report = await rewrapAll({ store, masterKeys: withTenants(primary), dryRun: true })
    expect(report).toMatchObject({ changed: USERS.length, failedCount: 0 })
    expect(await rowsOf(store)).toEqual(before)
    const local = localMasterKey(randomBytes(32))
    await expect(rewrapAll({ store, masterKeys: withTenants(local), format: 'v2' })).rejects.toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
    })
  })

  it('a user who is leaving while the tenant is shredded stays shredded, whichever write comes last', async () => {
    const keys = withTenants(primary)
    await seal(keys)
    const envelope = await open(keys)
    let written = 0
    // All has been read and wrapped under the primary, and nothing written, when the tenant is shredded.
    const racing = overriding(store, {
      async replaceWrapped(changes) {
        if (written++ === 0) await envelope.shredTenant('t2')
        return store.replaceWrapped(changes)
      },
    })
    const flat = withTenants(primary, { tenantOf: () => null })
    const report = await rewrapAll({ store: racing, masterKeys: flat })
    const ofShredded = USERS.filter((userId) => tenantOf(userId) === 't2')
    expect(report).toMatchObject({
      complete: true,
      changed: USERS.length - ofShredded.length,
      failedCount: 0,
    })
    const rows = await rowsOf(store)
    for (const userId of ofShredded)
      expect(rows.find((row) => row.userId === userId)?.kekId, userId).toBe('tenant:1:t2')
    await expectShredded(await open(flat), ofShredded)
    expect(await findingsOf(store, flat)).toMatchObject([
      { severity: 'note', kind: 'tenantShredded', userId: tenantUserId('t2') },
    ])
    // A tenant that is shredded gets no users.
    await seal(masterKeyring({ primary }), ['t2/late'])
    const again = await rewrapAll({ store, masterKeys: keys })
    expect(again.failed).toMatchObject([{ userId: 't2/late', code: 'ERR_KEY_SHREDDED' }])
  })

  it('no user comes under a tenant’s key that is removed meanwhile', async () => {
    const sealed = await seal(masterKeyring({ primary }))
    const keys = withTenants(primary)
    let written = 0
    const racing = overriding(store, {
      async replaceWrapped(changes) {
        if (written++ === 0) await store.shred(tenantUserId('t2'), { forget: true })
        return store.replaceWrapped(changes)
      },
    })
    await rewrapAll({ store: racing, masterKeys: keys, batchSize: 20 })
    await rewrapAll({ store, masterKeys: keys })
    await expectInPlace(store, keys)
    await expectAllOpen(await open(keys), sealed)
  })

  async function expectShredded(envelope: EnvelopeCrypto, users: readonly string[]): Promise<void> {
    for (const userId of users)
      await expect(envelope.encrypt(userId, 'x'), userId).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
  }
})
