/** The recipes of docs/MASTER-KEYS.md with tenants, while some processes are a step behind the others: nobody fails at any step. */
import { describe, expect, it } from 'vitest'
import { masterKeyring, rewrapAll } from '../../src/index.js'
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
    const oldRoot = old === null ? () => null : rootIs(old)
    const before = masterKeyring({ primary, tenantOf, tenantRoot: oldRoot })
    const both = masterKeyring({ primary, tenantOf, tenantRoot: oldRoot, previous: [b] })
    const after = masterKeyring({ primary, tenantOf, tenantRoot: rootIs(b) })
    const sealed = await sealAll(await test.open({ masterKeys: before }), usersOfTenants(8, 2))
    const service = await test.open({ masterKeys: both, cache: false })
    await expectAllOpen(service, sealed)
    expect(await service.moveTenant('t0', b)).toMatchObject({ kekId: 'b', versions: [1] })
    await expectAllOpen(service, sealed)
    await expectAllOpen(await test.open({ masterKeys: after, cache: false }), sealed)
    expect((await tenantRowsOf(store, 't0')).map(({ kekId }) => kekId)).toEqual(['b'])
  })
})
