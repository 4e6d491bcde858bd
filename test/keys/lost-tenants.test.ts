/** A tenant whose row is missing though users are under it gets no second key of the same version. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  type KeyStore,
  type KeystoreEvent,
  type MasterKeyring,
  masterKeyring,
  rewrapAll,
} from '../../src/index.js'
import { tenantUserId } from '../../src/table.js'
import { errorOf } from '../support/errors.js'
import { backends, freshStore, type TestStore } from '../support/fresh-store.js'
import { mintedRow, rowsOf } from '../support/rows.js'
import { overriding, storeWithout } from '../support/store-doubles.js'
import { tenantRoots, tenantRowsOf } from '../support/tenants.js'
import { expectAllOpen, type Sealed, sealAll } from '../support/tokens.js'

describe.each(backends)('a tenant’s key that is missing, on %s', (backend) => {
  let test: TestStore
  let store: KeyStore
  let keyring: MasterKeyring
  let sealed: Sealed[]
  beforeEach(async () => {
    const roots = tenantRoots()
    keyring = roots.keyring
    test = await freshStore(backend, { masterKeys: keyring })
    store = test.store
    sealed = await sealAll(await test.open(), ['acme/alice', 'b/bob'])
  })
  afterEach(() => test.remove())

  const lost = () => tenantRowsOf(store, 'acme')
  const refs = (rows: readonly { userId: string; version: number }[]) =>
    rows.map(({ userId, version }) => ({ userId, version }))

  it('is not made anew by a fresh process: ERR_KEYS_LOST and an event, and a restore brings everything back', async () => {
    const rows = await lost()
    await store.remove(refs(rows))
    const before = await rowsOf(store)
    const events: KeystoreEvent[] = []
    const envelope = await test.open({ onEvent: (event) => events.push(event) })
    const error = await errorOf(envelope.encrypt('acme/new', 'x'))
    expect(error).toMatchObject({ code: 'ERR_KEYS_LOST', retryable: false })
    expect(error.message).toContain('restore')
    expect(error.message).toContain('shred-tenant ID --forget --with-users')
    expect(events.filter(({ type }) => type === 'keysLost')).toEqual([
      { type: 'keysLost', users: [{ userId: tenantUserId('acme'), version: 1 }], count: 1 },
    ])
    expect(await rowsOf(store)).toEqual(before)
    await envelope.encrypt('b/new', 'x')
    await envelope.encrypt('c/new', 'x')

    await store.maintenance?.restore(rows)
    await expectAllOpen(await test.open(), [...sealed, ...(await sealAll(await test.open(), ['acme/new']))])
  })

  it('is not made anew by rewrapAll either, and all others go on', async () => {
    await store.remove(refs(await lost()))
    await store.insertIfAbsent([
      await mintedRow(keyring.primary, 'acme/late'),
      await mintedRow(keyring.primary, 'b/late'),
    ])
    const events: KeystoreEvent[] = []
    const report = await rewrapAll({ store, masterKeys: keyring, onEvent: (event) => events.push(event) })
    expect(report).toMatchObject({ changed: 1, failedCount: 2 })
    expect(report.failed).toMatchObject([
      { userId: 'acme/late', code: 'ERR_KEYS_LOST' },
      // Also whoever could have stayed where they are.
      { userId: 'acme/alice', code: 'ERR_KEYS_LOST' },
    ])
    // Nor does it pass in silence where all users leave the hierarchy, or none is asked about.
    for (const masterKeys of [
      masterKeyring({ primary: keyring.primary, tenantOf: () => null }),
      masterKeyring({ primary: keyring.primary }),
    ]) {
      const { failed } = await rewrapAll({ store, masterKeys, dryRun: true })
      const ofAcme = failed.filter(({ kekId }) => kekId === 'tenant:1:acme')
      expect(ofAcme).toMatchObject([{ userId: 'acme/alice', code: expect.stringMatching(/LOST|NOT_FOUND/) }])
    }
    expect(events.some(({ type }) => type === 'keysLost')).toBe(true)
    expect(await lost()).toEqual([])
  })

  it.each([1, 20])(
    'is not made anew either where all users are under a version that is %i later',
    async (times) => {
      const envelope = await test.open()
      for (let i = 0; i < times; i++) await envelope.rotateTenantKey('acme')
      await rewrapAll({ store, masterKeys: keyring })
      const rows = await lost()
      await store.remove(refs(rows))
      const other = await test.open()
      expect(await errorOf(other.encrypt('acme/new', 'x'))).toMatchObject({ code: 'ERR_KEYS_LOST' })
      await store.maintenance?.restore(rows)
      await expectAllOpen(await test.open(), sealed)
    },
  )

  it('gets no second next version either', async () => {
    const envelope = await test.open()
    await envelope.rotateTenantKey('acme')
    const [second] = await sealAll(envelope, ['acme/second'])
    const rows = await lost()
    await store.remove(refs(rows.slice(1)))
    const other = await test.open()
    expect(await errorOf(other.rotateTenantKey('acme'))).toMatchObject({ code: 'ERR_KEYS_LOST' })
    await store.maintenance?.restore(rows.slice(1))
    await expectAllOpen(await test.open(), [...sealed, ...(second === undefined ? [] : [second])])
  })

  /** The store, with `before` called before users of a tenant are looked for. */
  const looking = (before: (kekIds: readonly string[]) => Promise<void> | void): KeyStore => {
    const { maintenance } = store
    if (maintenance === undefined) throw new Error('the store has no maintenance')
    const countUnder: typeof maintenance.countUnder = async (kekIds) => {
      await before(kekIds)
      return maintenance.countUnder(kekIds)
    }
    const { restore, inspect, finishErasure, datedCensus } = maintenance
    return overriding(store, { maintenance: { restore, inspect, finishErasure, datedCensus, countUnder } })
  }

  it('is none if another process makes it, and a user, between two looks', async () => {
    let looks = 0
    const racing = looking(async () => {
      if (looks++ === 0) await sealAll(await test.open(), ['new/first'])
    })
    const [mine] = await sealAll(await test.open({ store: racing }), ['new/second'])
    expect(looks).toBe(1)
    expect(await tenantRowsOf(store, 'new')).toHaveLength(1)
    await expectAllOpen(await test.open(), mine === undefined ? [] : [mine])
  })

  it('is found in a store without maintenance, and not made in one that does not know the filter', async () => {
    await store.remove(refs(await lost()))
    const plain = await test.open({ store: storeWithout(store, 'maintenance') })
    expect(await errorOf(plain.encrypt('acme/new', 'x'))).toMatchObject({ code: 'ERR_KEYS_LOST' })
    // Of one that does not know the filter nobody can tell.
    const list: KeyStore['list'] = ({ kekId: _, ...page }) => store.list(page)
    const blind = await test.open({ store: overriding(storeWithout(store, 'maintenance'), { list }) })
    expect(await errorOf(blind.encrypt('new/user', 'x'))).toMatchObject({
      code: 'ERR_STORE',
      message: expect.stringContaining('must know `kekId`'),
    })
    expect(await tenantRowsOf(store, 'new')).toEqual([])
  })

  it('is looked for once, when a tenant’s first key is made', async () => {
    const looks: string[] = []
    const envelope = await test.open({
      store: looking(([first = '']) => {
        looks.push(first)
      }),
    })
    await envelope.encrypt('acme/other', 'x')
    await envelope.encrypt('b/other', 'x')
    await Promise.all(['new/1', 'new/2', 'new/3'].map((userId) => envelope.encrypt(userId, 'x')))
    expect(looks).toEqual(['tenant:1:new'])
  })

  it('after shredTenant with forget the tenant begins anew once its users are gone', async () => {
    const envelope = await test.open()
    await envelope.shredTenant('acme', { forget: true })
    expect(await errorOf(envelope.encrypt('acme/new', 'x'))).toMatchObject({ code: 'ERR_KEYS_LOST' })
    await envelope.shredUser('acme/alice', { forget: true })
    const fresh = await test.open()
    await expectAllOpen(await test.open(), await sealAll(fresh, ['acme/new', 'acme/alice']))
  })
})
