/** The recipes of docs/MASTER-KEYS.md with tenants, while some processes are a step behind the others: nobody fails at any step. */
import { describe, expect, it } from 'vitest'
import { type EnvelopeCrypto, masterKeyring, rewrapAll } from '../../src/index.js'
import { backends, freshStoreOfEachTest } from '../support/fresh-store.js'
import { root, usersOfTenants } from '../support/tenant-hierarchy.js'
import { keksOf, tenantOf, tenantRowsOf } from '../support/tenants.js'
import { expectAllOpen, sealAll } from '../support/tokens.js'

describe.each(backends)('recipes of tenants on %s', (backend) => {
  const primary = root('primary')
  const [a, b] = [root('a'), root('b')]
  const rootIs = (own: typeof a) => (tenantId: string) => (tenantId === 't0' ? own : null)
  const { test, store } = freshStoreOfEachTest(backend)

  it('one root to tenants', async () => {
    const before = masterKeyring({ primary })
    const first = masterKeyring({ primary, tenantRoot: rootIs(a) })
    const then = masterKeyring({ primary, tenantRoot: rootIs(a), tenantOf })
    const sealed = await sealAll(await test.open({ masterKeys: before }), usersOfTenants(8, 2))
    const services = async (...keyrings: (typeof first)[]) =>
      Promise.all(keyrings.map((masterKeys) => test.open({ masterKeys, cache: false })))
    for (const service of await services(before, first)) await expectAllOpen(service, sealed)
    const [behind, ahead] = await services(first, then)
    sealed.push(...(await sealAll(ahead as never, ['t0/new', 't1/new'])))
    await expectAllOpen(behind as never, sealed)
    expect(await rewrapAll({ store, masterKeys: then })).toMatchObject({ complete: true, failedCount: 0 })
    expect((await keksOf(store))['t0/user-000000']).toBe('tenant:1:t0')
    for (const service of [behind, ahead]) await expectAllOpen(service as never, sealed)
  })

  it.each(['the primary', 'a root of its own'])('a tenant’s new root, from %s', async (from) => {
    const old = from === 'the primary' ? null : a
    const before = masterKeyring({ primary, tenantOf, tenantRoot: old === null ? () => null : rootIs(old) })
    const ring = old === null ? b : masterKeyring({ primary: b, previous: [old] })
    const first = masterKeyring({ primary, tenantOf, tenantRoot: (id) => (id === 't0' ? ring : null) })
    const then = masterKeyring({ primary, tenantOf, tenantRoot: rootIs(b) })
    const services = async (...keyrings: (typeof first)[]) =>
      Promise.all(keyrings.map((masterKeys) => test.open({ masterKeys, cache: false })))
    const sealed = await sealAll(await test.open({ masterKeys: before }), usersOfTenants(8, 2))
    for (const service of await services(before, first)) await expectAllOpen(service, sealed)
    const [behind, ahead] = await services(first, then)
    expect(await (behind as EnvelopeCrypto).moveTenant('t0', b)).toMatchObject({ kekId: 'b', versions: [1] })
    expect((await tenantRowsOf(store, 't0')).map(({ kekId }) => kekId)).toEqual(['b'])
    sealed.push(...(await sealAll(ahead as EnvelopeCrypto, ['t0/new'])))
    for (const service of [behind, ahead]) await expectAllOpen(service as EnvelopeCrypto, sealed)
    // rewrapAll moves it too.
    expect(await rewrapAll({ store, masterKeys: then })).toMatchObject({ complete: true, failedCount: 0 })
  })

  it('a tenant comes back under the primary', async () => {
    const before = masterKeyring({ primary, tenantOf, tenantRoot: rootIs(a) })
    const sealed = await sealAll(await test.open({ masterKeys: before }), usersOfTenants(8, 2))
    const ring = masterKeyring({ primary, previous: [a] })
    const back = masterKeyring({ primary, tenantOf, tenantRoot: (id) => (id === 't0' ? ring : null) })
    const service = await test.open({ masterKeys: back, cache: false })
    await expectAllOpen(service, sealed)
    expect(await rewrapAll({ store, masterKeys: back })).toMatchObject({ changed: 1, failedCount: 0 })
    expect((await tenantRowsOf(store, 't0')).map(({ kekId }) => kekId)).toEqual(['primary'])
    await expectAllOpen(await test.open({ masterKeys: masterKeyring({ primary, tenantOf }) }), sealed)
  })

  it('a tenant is not moved to a root that the keyring does not give for it', async () => {
    const masterKeys = masterKeyring({ primary, tenantOf, tenantRoot: rootIs(a) })
    const service = await test.open({ masterKeys })
    await service.encrypt('t0/alice', 'x')
    await expect(service.moveTenant('t0', b)).rejects.toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
      message: expect.stringContaining('masterKeyring({ primary: newRoot'),
    })
    expect((await tenantRowsOf(store, 't0')).map(({ kekId }) => kekId)).toEqual(['a'])
    // Nor is it said to be moved, where the root is another key of the same id.
    await expect(service.moveTenant('t0', root('a'))).rejects.toMatchObject({ code: 'ERR_UNWRAP_FAILED' })
    expect(await service.moveTenant('t0', a)).toMatchObject({ versions: [] })
  })
})
