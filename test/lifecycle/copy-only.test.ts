/** copyKeys with `only`: the rows of one user or tenant come back, whatever else has changed since. */
import { beforeEach, describe, expect, it } from 'vitest'
import { type CopyOptions, copyKeys, type EnvelopeCrypto } from '../../src/index.js'
import { tenantUserId } from '../../src/table.js'
import { ofEachTest } from '../support/each-test.js'
import { chosenPairs, freshStore } from '../support/fresh-store.js'
import { freshKeyLog } from '../support/key-log-file.js'
import { rowsOf, rowsOfUser } from '../support/rows.js'
import { overriding } from '../support/store-doubles.js'
import { root, usersOfTenants, withTenants } from '../support/tenant-hierarchy.js'
import { expectAllOpen, type Sealed, sealAll } from '../support/tokens.js'

const pairs = chosenPairs(['sqlite', 'postgres'], ['postgres', 'sqlite'], ['memory', 'memory'])

describe.each(pairs)('a backup in %s of a store in %s', (source, target) => {
  const other = root('other')
  const keys = withTenants(root('root'), { previous: [other] })
  const backup = ofEachTest(() => freshStore(source, { masterKeys: keys }))
  const store = ofEachTest(() => freshStore(target, { masterKeys: keys }))
  const keyLog = ofEachTest(freshKeyLog)
  let service: EnvelopeCrypto
  let sealed: Sealed[]
  beforeEach(async () => {
    service = await store.open({ keyLog: keyLog.path })
    sealed = await sealAll(service, [...usersOfTenants(40, 4), 'lone'])
    await service.rotateTenantKey('t1')
    await copyKeys({ from: store.store, to: backup.store })
    // What was done since then keeps a whole restore from being done.
    await service.moveTenant('t2', other)
    await service.rotateUserKey('lone')
  })

  const restore = (options: Partial<CopyOptions> = {}) =>
    copyKeys({ from: backup.store, to: store.store, ...options })
  const opened = async () => expectAllOpen(await store.open(), sealed)

  it('brings back all versions of a tenant’s key, and touches nothing else', async () => {
    const before = await rowsOf(store.store)
    await store.store.shred(tenantUserId('t1'), { forget: true })
    await expect(restore()).rejects.toMatchObject({
      code: 'ERR_CONFLICT',
      message: expect.stringContaining('npx keystore restore FILE --user ID, or --tenant ID'),
    })
    const only = { tenants: ['t1'] }
    expect(await restore({ only, dryRun: true })).toMatchObject({ copied: 2, conflictCount: 0, equal: false })
    expect(await rowsOf(store.store)).toHaveLength(before.length - 2)
    const state = { kekId: 'root', shredded: false, ofTenants: true, count: 1 }
    const counted = [1, 2].map((version) => ({ ...state, version }))
    expect(await restore({ only })).toMatchObject({
      complete: true,
      copied: 2,
      equal: true,
      extra: 0,
      census: { from: counted, to: counted },
    })
    expect(await rowsOf(store.store)).toEqual(before)
    expect(await restore({ only })).toMatchObject({ copied: 0, equal: true })
    await opened()
  })

  it('brings back users and the pool; newer versions of theirs stay', async () => {
    const pooled = await (await backup.open()).pool.encrypt('of the pool')
    const users = ['t0/user-000004', 'lone', '']
    await store.store.remove(users.map((userId) => ({ userId, version: 1 })))
    expect(await restore({ only: { users } })).toMatchObject({ copied: 3, extra: 1, failedCount: 0 })
    expect((await rowsOfUser(store.store, 'lone')).map(({ version }) => version)).toEqual([1, 2])
    expect(await (await store.open()).pool.decrypt(pooled)).toBe('of the pool')
    await opened()
  })

  it('reads no other users’ rows for it', async () => {
    await store.store.remove([{ userId: 'lone', version: 1 }])
    const asked = new Set<string>()
    const watched = overriding(store.store, {
      async getAll(userIds) {
        for (const userId of userIds) asked.add(userId)
        return store.store.getAll(userIds)
      },
      async census() {
        throw new Error('a census reads the whole table')
      },
    })
    await restore({ to: watched, only: { users: ['lone'] } })
    expect([...asked]).toEqual(['lone'])
  })

  it('refuses another key of theirs as ever, and brings no erased one back', async () => {
    const only = { users: ['t0/user-000004'], tenants: ['t2'] }
    const before = await rowsOf(store.store)
    await expect(restore({ only })).rejects.toMatchObject({
      code: 'ERR_CONFLICT',
      ref: { userId: tenantUserId('t2'), version: 1 },
      message: expect.not.stringContaining('--tenant'),
    })
    expect(await rowsOf(store.store)).toEqual(before)
    await service.shredTenant('t1')
    await service.shredUser('t0/user-000004', { forget: true })
    await expect(restore({ only: { tenants: ['t1'] } })).rejects.toMatchObject({ code: 'ERR_CONFLICT' })
    const ofLog = { tenants: ['t1'], users: ['t0/user-000004'] }
    const report = await restore({ only: ofLog, keyLog: keyLog.path })
    expect(report).toMatchObject({ copied: 0, equal: true, shredded: [] })
    expect((await rowsOfUser(store.store, tenantUserId('t1'))).map(({ shreddedAt }) => shreddedAt)).toEqual([
      expect.any(Date),
      expect.any(Date),
    ])
    expect(await rowsOfUser(store.store, 't0/user-000004')).toEqual([])
  })

  it('erases by the key log those that were chosen, and nobody else', async () => {
    await service.shredTenant('t1')
    await service.shredTenant('t3')
    // An older copy in the place of the store.
    await store.store.remove(['t1', 't3'].flatMap((id) => [1, 2].map((version) => ref(id, version))))
    await copyKeys({ from: backup.store, to: store.store, only: { tenants: ['t1', 't3'] } })
    const report = await restore({ only: { tenants: ['t1'] }, keyLog: keyLog.path })
    expect(report).toMatchObject({ shredded: [tenantUserId('t1')], equal: true })
    expect(await rowsOfUser(store.store, tenantUserId('t3'))).toMatchObject([{ shreddedAt: null }])
  })

  it('takes a tenant that was moved and then shredded for shredded, whatever had wrapped it', async () => {
    await service.shredTenant('t2')
    await service.shredTenant('t0')
    await copyKeys({ from: store.store, to: backup.store, only: { tenants: ['t0'] }, applyErasures: true })
    await backup.store.shred(tenantUserId('t2'), { forget: false, at: new Date(Date.now() + 5000) })
    const before = await rowsOf(store.store)
    const only = { tenants: ['t0', 't2'] }
    expect(await restore({ only })).toMatchObject({ copied: 0, equal: true, failedCount: 0 })
    expect(await rowsOf(store.store)).toEqual(before)
  })

  it('refuses an id that the source has not, and a choice that is none', async () => {
    await expect(restore({ only: { tenants: ['t1', 'T1'], users: ['nobody'] } })).rejects.toMatchObject({
      code: 'ERR_KEY_NOT_FOUND',
      message: 'The source has no key of tenant "T1", user "nobody". Nothing was written',
    })
    for (const only of [
      {},
      { users: [] },
      { tenant: ['t1'] },
      { users: 'lone' },
      { tenants: [''] },
      null,
      [],
    ])
      await expect(restore({ only: only as never })).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
  })
})

const ref = (tenantId: string, version: number) => ({ userId: tenantUserId(tenantId), version })
