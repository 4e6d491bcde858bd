/** Under which roots long operations leave tenants' own keys, and whom they bring under which version. */
import { beforeEach, describe, expect, it } from 'vitest'
import {
  type KeyRecord,
  type MasterKeyring,
  masterKeyring,
  rewrapAll,
  rotateWhere,
  StoreError,
} from '../../src/index.js'
import { newDataKey } from '../../src/master-keys/key-wrap.js'
import { tenantIdOf, tenantUserId } from '../../src/table.js'
import { backends, freshStoreOfEachTest } from '../support/fresh-store.js'
import { rowsOf } from '../support/rows.js'
import { overriding } from '../support/store-doubles.js'
import { type Root, root, usersOfTenants, withTenants } from '../support/tenant-hierarchy.js'
import { tenantOf } from '../support/tenants.js'
import { expectAllOpen, type Sealed, sealAll } from '../support/tokens.js'

const TENANTS = 6
const USERS = usersOfTenants(60, TENANTS)

describe.each(backends)('roots of tenants in long operations on %s', (backend) => {
  const { test, store } = freshStoreOfEachTest(backend)
  let primary: Root
  beforeEach(() => {
    primary = root('root-a')
  })

  const open = (masterKeys: MasterKeyring) => test.open({ masterKeys })
  const seal = async (masterKeys: MasterKeyring): Promise<Sealed[]> => sealAll(await open(masterKeys), USERS)

  it('a keyring that says nothing of tenants moves none of a previous key’s, counts them, and brings users along', async () => {
    const own = root('own')
    const keys = withTenants(primary, { tenantRoot: (id) => (id === 't1' ? own : null) })
    const sealed = await seal(keys)
    await (await open(keys)).rotateTenantKey('t1')
    const ofTenants = async () => (await rowsOf(store)).filter(({ userId }) => userId.startsWith('\u0001'))
    const before = await ofTenants()
    const unknowing = masterKeyring({ primary, previous: [own] })
    const report = await rewrapAll({ store, masterKeys: unknowing })
    expect(report).toMatchObject({
      complete: true,
      changed: USERS.length / TENANTS,
      failedCount: 0,
      tenantsMoved: [],
    })
    expect(report.warnings.filter((warning) => warning.includes('own'))).toEqual([
      expect.stringMatching(/^2 keys of tenants stay under master key own.*moveTenants: true/),
    ])
    expect(await ofTenants()).toEqual(before)
    expect((await rowsOf(store)).some(({ kekId }) => kekId === 'tenant:1:t1')).toBe(false)
    await expectAllOpen(await open(keys), sealed)
    // With tenantOf the primary is the root of all, unless there is a tenantRoot.
    const { warnings } = await rewrapAll({ store, masterKeys: withTenants(primary, { previous: [own] }) })
    expect(warnings).toHaveLength(2)
    expect((await ofTenants()).map(({ kekId }) => kekId)).toEqual(Array(before.length).fill('root-a'))
  })

  it('brings nobody under a version that another key of the keyring wraps, and moves no such version', async () => {
    const [own, others, next] = [root('own'), root('others'), root('root-b')]
    const tenantRoot = (id: string) => ({ t1: own, t2: others })[id] ?? null
    const keys = withTenants(primary, { previous: [others], tenantRoot })
    const sealed = await seal(keys)
    // Who can use the root of t2 makes keys for t1, whose root is another, and for t3, which is under the primary.
    for (const tenantId of ['t1', 't3']) {
      const planted = await newDataKey(keys, { userId: tenantUserId(tenantId), version: 2 }, 'v3', others)
      await store.insertIfAbsent([planted.record])
    }
    const isAttacked = ({ userId }: KeyRecord) =>
      ['t1', 't3'].includes(tenantOf(userId) ?? tenantIdOf(userId) ?? '')
    const before = await rowsOf(store)
    for (const masterKeys of [keys, masterKeyring({ primary, previous: [own, others] })]) {
      const { failed } = await rewrapAll({ store, masterKeys, allUsers: true, dryRun: true })
      expect(failed.length).toBeGreaterThanOrEqual((2 * USERS.length) / TENANTS)
      expect(new Set(failed.map(({ code }) => code))).toEqual(new Set(['ERR_CONFLICT']))
    }
    await rewrapAll({ store, masterKeys: keys, allUsers: true })
    await rewrapAll({ store, masterKeys: masterKeyring({ primary, previous: [own, others] }) })
    const rotated = await rotateWhere({ store, masterKeys: keys, olderThanMs: 0, dryRun: false })
    expect(rotated.failed.filter(({ code }) => code === 'ERR_CONFLICT')).toHaveLength(
      (2 * USERS.length) / TENANTS,
    )
    expect((await rowsOf(store)).filter(isAttacked)).toEqual(before.filter(isAttacked))
    // Nor does another primary take any of it along.
    const rotation = withTenants(next, { previous: [primary], tenantRoot })
    const { failed } = await rewrapAll({ store, masterKeys: rotation })
    expect(failed).toContainEqual(
      expect.objectContaining({ userId: tenantUserId('t3'), code: 'ERR_CONFLICT' }),
    )
    // But for the version that is not planted.
    const isLeft = (row: KeyRecord) => isAttacked(row) && (tenantIdOf(row.userId) === null || row.version > 1)
    expect((await rowsOf(store)).filter(isLeft)).toEqual(before.filter(isLeft))
    await expectAllOpen(await open(rotation), sealed)
  })

  it('brings users under the newest version after a move that was interrupted, once it is done', async () => {
    const [old, own] = [root('old'), root('own')]
    const keys = withTenants(primary, { tenantRoot: (id) => (id === 't1' ? old : null) })
    const sealed = await seal(keys)
    await (await open(keys)).rotateTenantKey('t1')
    // Version 1 is moved already.
    const moved = withTenants(primary, {
      tenantRoot: (id) => (id === 't1' ? masterKeyring({ primary: own, previous: [old] }) : null),
    })
    const envelope = await open(moved)
    const [, second] = (await store.getAll([tenantUserId('t1')])).get(tenantUserId('t1')) ?? []
    await envelope.moveTenant('t1', own)
    const [now] = ((await store.getAll([tenantUserId('t1')])).get(tenantUserId('t1')) ?? []).slice(1)
    const { encryptedKey: from } = now as KeyRecord
    await store.replaceWrapped([{ ...(second as KeyRecord), from, wrappedAt: new Date() }])
    const silent = masterKeyring({ primary, previous: [old, own] })
    expect(await rewrapAll({ store, masterKeys: silent })).toMatchObject({ changed: 0, failedCount: 10 })
    await envelope.moveTenant('t1', own)
    expect(await rewrapAll({ store, masterKeys: silent })).toMatchObject({ changed: 10, failedCount: 0 })
    await expectAllOpen(await open(moved), sealed)
  })

  it('moves all versions of a tenant’s key, wherever it is interrupted', async () => {
    const sealed = await seal(withTenants(primary))
    const envelope = await open(withTenants(primary))
    for (const tenantId of ['t1', 't1', 't2']) await envelope.rotateTenantKey(tenantId)
    const next = root('root-b')
    const keys = withTenants(next, { previous: [primary] })
    const dry = await rewrapAll({ store, masterKeys: keys, dryRun: true })
    expect(dry).toMatchObject({ changed: TENANTS + 3 + 20, failedCount: 0 })
    for (let stopped = 0; stopped < 12; stopped++) {
      let writes = 0
      const stopping = overriding(store, {
        replaceWrapped: async (changes) => {
          if (writes++ === 1) throw new StoreError('stopped', { retryable: false })
          return store.replaceWrapped(changes)
        },
      })
      await rewrapAll({ store: stopping, masterKeys: keys, batchSize: 1 }).catch(() => undefined)
    }
    expect(await rewrapAll({ store, masterKeys: keys })).toMatchObject({ complete: true, failedCount: 0 })
    expect((await rowsOf(store)).some(({ kekId }) => kekId === 'root-a')).toBe(false)
    await expectAllOpen(await open(keys), sealed)
  })
})
