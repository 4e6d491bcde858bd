/** Under which root a further version of a tenant's key goes: never under another one than the tenant's. And roots that are made anew. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { localMasterKey, type MasterKey, masterKeyring } from '../../src/index.js'
import { tenantUserId } from '../../src/table.js'
import { errorOf } from '../support/errors.js'
import { backends, freshService, freshStore, type TestStore } from '../support/fresh-store.js'
import { serviceError } from '../support/key-service.js'
import { mintedRow } from '../support/rows.js'
import { tenantOf, tenantRowsOf } from '../support/tenants.js'

describe.each(backends)('a further version of a tenant’s key on %s', (backend) => {
  const key = () => localMasterKey(randomBytes(32))
  const [primary, next, own, other] = [key(), key(), key(), key()]
  let test: TestStore
  beforeEach(async () => {
    test = await freshStore(backend)
    const application = await open({ primary, tenantRoot: (id: string) => (id === 'acme' ? own : null) })
    for (const userId of ['acme/alice', 'b/bob']) await application.encrypt(userId, 'x')
  })
  afterEach(() => test.remove())

  const open = (keys: Partial<Parameters<typeof masterKeyring>[0]> & { readonly primary: MasterKey }) =>
    test.open({ masterKeys: masterKeyring({ tenantOf, ...keys }) })
  const rootsOf = async (tenantId: string) =>
    (await tenantRowsOf(test.store, tenantId)).map(({ kekId }) => kekId)

  it('goes under the root that wraps the newest one, if the keyring says nothing of tenants', async () => {
    const envelope = await open({ primary, previous: [own], tenantOf: null })
    await envelope.rotateTenantKey('acme')
    expect(await rootsOf('acme')).toEqual([own.id, own.id])
    await envelope.rotateTenantKey('b')
    expect(await rootsOf('b')).toEqual([primary.id, primary.id])
    // Also under one that is no more the primary.
    await (await open({ primary: next, previous: [primary, own], tenantOf: null })).rotateTenantKey('b')
    expect(await rootsOf('b')).toEqual([primary.id, primary.id, primary.id])
  })

  it('goes under the primary, if the keyring names no root: a former primary may be stolen', async () => {
    const envelope = await open({ primary: next, previous: [primary] })
    await envelope.rotateTenantKey('b')
    await envelope.encrypt('b/new', 'x')
    expect(await rootsOf('b')).toEqual([primary.id, next.id])
  })

  it('is not made under the root of one that may be planted', async () => {
    await test.store.insertIfAbsent([await mintedRow(other, tenantUserId('acme'), { version: 2 })])
    const envelope = await open({ primary, previous: [own, other], tenantOf: null })
    expect(await errorOf(envelope.rotateTenantKey('acme'))).toMatchObject({ code: 'ERR_CONFLICT' })
    expect(await rootsOf('acme')).toEqual([own.id, other.id])
  })

  it('is not made while the root of the newest one is unknown, and the error says where to give it', async () => {
    for (const keys of [{ primary }, { primary, tenantRoot: () => null }]) {
      const envelope = await open(keys)
      expect(await errorOf(envelope.rotateTenantKey('acme'))).toMatchObject({
        code: 'ERR_UNKNOWN_MASTER_KEY',
        message: expect.stringMatching(/tenant "acme", version 1 .*`tenantRoot`.*`previous`/),
      })
      expect(await errorOf(envelope.encrypt('acme/new', 'x'))).toMatchObject({
        code: 'ERR_UNKNOWN_MASTER_KEY',
      })
    }
    expect(await rootsOf('acme')).toEqual([own.id])
  })

  it('goes under what tenantRoot gives, and under the primary if that is null', async () => {
    const moving = await open({
      primary,
      tenantRoot: () => masterKeyring({ primary: other, previous: [own] }),
    })
    await moving.rotateTenantKey('acme')
    expect(await rootsOf('acme')).toEqual([own.id, other.id])
    const back = await open({
      primary,
      tenantRoot: () => masterKeyring({ primary, previous: [own, other] }),
    })
    await back.rotateTenantKey('acme')
    expect(await rootsOf('acme')).toEqual([own.id, other.id, primary.id])
    await back.encrypt('acme/new', 'x')
  })

  it('the first one goes under what tenantRoot gives, else under the primary', async () => {
    await (await open({ primary, previous: [own], tenantRoot: () => other })).encrypt('c/carol', 'x')
    await (await open({ primary, previous: [own] })).encrypt('d/dave', 'x')
    expect([await rootsOf('c'), await rootsOf('d')]).toEqual([[other.id], [primary.id]])
  })
})

describe('a root that tenantRoot makes anew each time', () => {
  it('is one service: its objects share the bound of calls, and an outage', async () => {
    const inner = localMasterKey(randomBytes(32))
    let underWay = 0
    let most = 0
    let calls = 0
    let isDown = false
    const ask = async <T>(work: () => T) => {
      calls += 1
      most = Math.max(most, ++underWay)
      await sleep(2)
      underWay -= 1
      if (isDown) throw serviceError('unavailable')
      return work()
    }
    const tenantRoot = (): MasterKey => ({
      id: 'one-service',
      wrap: (key, aad) => ask(() => inner.wrap(key, aad)),
      unwrap: (wrapped, aad) => ask(() => inner.unwrap(wrapped, aad)),
    })
    const envelope = await freshService(undefined, {
      masterKeys: masterKeyring({ primary: inner, tenantOf, tenantRoot }),
    })
    const users = (name: string) =>
      Array.from({ length: 60 }, (_, index) => ({ userId: `t${index}/${name}`, plaintext: 'x' }))
    expect((await envelope.encryptMany(users('a'))).every(({ ok }) => ok)).toBe(true)
    expect(most).toBe(16)
    // It is no outage while it has answered a moment ago.
    await sleep(1100)
    isDown = true
    calls = 0
    for (let index = 100; index < 160; index++)
      expect(await errorOf(envelope.encrypt(`t${index}/a`, 'x'))).toMatchObject({ reason: 'unavailable' })
    // Each of them would ask for itself.
    expect(calls).toBeLessThan(10)
    await envelope.close()
  })
})
