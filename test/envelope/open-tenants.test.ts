/** What `open` tells from tenants' own rows: a wrong keyring refuses, and the root of a single tenant is its own matter. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { type KeystoreEvent, localMasterKey, type MasterKey, masterKeyring } from '../../src/index.js'
import { errorOf } from '../support/errors.js'
import { backends, freshStore, type TestStore } from '../support/fresh-store.js'
import { overriding } from '../support/store-doubles.js'
import { root } from '../support/tenant-hierarchy.js'
import { tenantOf } from '../support/tenants.js'

type Keys = Partial<Parameters<typeof masterKeyring>[0]>

describe.each(backends)('open and the roots of tenants on %s', (backend) => {
  const key = () => localMasterKey(randomBytes(32))
  const [right, wrong] = [key(), key()]
  let test: TestStore
  beforeEach(async () => {
    test = await freshStore(backend)
  })
  afterEach(() => test.remove())

  const open = (primary: MasterKey, keys: Keys = {}, options = {}) =>
    test.open({ masterKeys: masterKeyring({ primary, tenantOf, ...keys }), ...options })
  /** A user of each tenant. @param own the roots of those that have one */
  async function fill(tenants: readonly string[], own: Readonly<Record<string, MasterKey>> = {}) {
    const envelope = await open(right, { tenantRoot: (id) => own[id] ?? null })
    await envelope.encryptMany(tenants.map((id) => ({ userId: `${id}/alice`, plaintext: 'x' })))
    return envelope
  }
  const refused = { code: 'ERR_UNKNOWN_MASTER_KEY', message: expect.stringContaining(right.id) }
  const named = (from: number, count: number) =>
    Array.from({ length: count }, (_, index) => `t${from + index}`)

  it('refuses a wrong primary, whatever the keyring says of tenants', async () => {
    const own = root('own')
    await fill(['a', 'b', 'z'], { z: own })
    const customers = { tenantRoot: (id: string) => (id === 'z' ? own : null) }
    for (const keys of [{}, { tenantOf: null }, { tenantRoot: () => null }, customers])
      expect(await errorOf(open(wrong, keys))).toMatchObject(refused)
    // Several versions of one key show no more than one.
    await (await open(right, { tenantRoot: (id) => (id === 'z' ? own : null) })).rotateTenantKey('a')
    expect(await errorOf(open(wrong, { tenantOf: null }))).toMatchObject(refused)
    expect((await errorOf(open(wrong, customers))).message).toContain('`tenantRoot`')
    const events: KeystoreEvent[] = []
    await open(wrong, customers, {
      allowUnknownMasterKeys: true,
      onEvent: (event: KeystoreEvent) => events.push(event),
    })
    expect(events).toEqual([{ type: 'unknownMasterKey', kekIds: [right.id] }])
    // One that the keyring has as an earlier one is not missing.
    await open(wrong, { ...customers, previous: [right] })
    await open(right, customers)
    expect(own.askedFor.filter((userId) => userId !== '\u0001tenant:z')).toEqual([])
  })

  it('refuses it also behind tenants that were shredded', async () => {
    const envelope = await fill(named(0, 110))
    for (const tenantId of named(0, 110).sort().slice(0, 105)) await envelope.shredTenant(tenantId)
    expect(await errorOf(open(wrong))).toMatchObject(refused)
    await open(right)
  })

  it('goes on without tenantRoot where the primary wraps others, whichever come first', async () => {
    await fill([...named(0, 20), 'z'], Object.fromEntries(named(0, 20).map((id) => [id, key()])))
    await open(right)
    expect(await errorOf(open(wrong))).toMatchObject({ code: 'ERR_UNKNOWN_MASTER_KEY' })
  })

  it('refuses it also where a customer’s root is a previous key, by mistake', async () => {
    const own = key()
    await fill(['a', 'b', 'c', 'z'], { b: own })
    for (const keys of [
      {},
      { tenantRoot: () => null },
      { tenantRoot: (id: string) => (id === 'b' ? own : null) },
    ])
      expect(await errorOf(open(wrong, { ...keys, previous: [own] }))).toMatchObject(refused)
  })

  it('refuses it also where a tenant was shredded that was under it long ago', async () => {
    const stale = await open(wrong)
    await stale.encrypt('a/alice', 'x')
    await stale.shredTenant('a')
    await (await open(right)).encrypt('b/bob', 'x')
    expect(await errorOf(open(wrong))).toMatchObject(refused)
  })

  it('refuses it also where most of the first tenants have roots of their own', async () => {
    const own = Object.fromEntries(named(0, 50).map((id) => [id, key()]))
    await fill([...named(0, 50), 'tx', 'ty'], own)
    const tenantRoot = (id: string) => own[id] ?? null
    expect(await errorOf(open(wrong, { tenantRoot }))).toMatchObject(refused)
    await open(right, { tenantRoot })
  })

  it('refuses it also in a store whose pages are shorter than they may be', async () => {
    const envelope = await fill(named(0, 7))
    for (const tenantId of named(0, 5)) await envelope.shredTenant(tenantId)
    const capped = overriding(test.store, {
      list: (page) => test.store.list({ ...page, limit: Math.min(page.limit, 2) }),
    })
    expect(await errorOf(open(wrong, {}, { store: capped }))).toMatchObject(refused)
    await open(right, {}, { store: capped })
  })

  it('refuses nobody for one customer whose root is not given any more, and says so', async () => {
    const own: Record<string, MasterKey> = { a: key(), b: key(), c: key() }
    await fill(['a', 'b', 'c'], own)
    for (const gone of ['a', 'b', 'c']) {
      const events: KeystoreEvent[] = []
      const envelope = await open(
        right,
        { tenantRoot: (id) => (id === gone ? null : (own[id] ?? null)) },
        { onEvent: (event: KeystoreEvent) => events.push(event) },
      )
      expect(events).toEqual([{ type: 'unknownMasterKey', kekIds: [own[gone]?.id] }])
      for (const id of ['a', 'b', 'c']) if (id !== gone) await envelope.encrypt(`${id}/alice`, 'x')
      expect(await errorOf(envelope.encrypt(`${gone}/alice`, 'x'))).toMatchObject({
        code: 'ERR_UNKNOWN_MASTER_KEY',
      })
    }
    // Nor in the middle of a rotation of the primary.
    await (await open(right, { tenantRoot: (id) => own[id] ?? null })).encrypt('d/dave', 'x')
    await open(wrong, { previous: [right], tenantRoot: (id) => (id === 'a' ? null : (own[id] ?? null)) })
  })

  it('goes on where all tenants have roots of their own, and asks none of these', async () => {
    const own = Object.fromEntries(named(0, 30).map((id) => [id, root(`root-of-${id}`)]))
    await fill(named(0, 30), own)
    for (const each of Object.values(own)) each.askedFor.length = 0
    const tenantRoot = vi.fn((id: string) => own[id] ?? null)
    await open(wrong, { tenantRoot })
    expect(tenantRoot.mock.calls.length).toBe(30)
    expect(Object.values(own).flatMap(({ askedFor }) => askedFor)).toEqual([])
    // One of them is at another root meanwhile: nobody else's matter.
    await open(wrong, { tenantRoot: (id) => (id === 't3' ? right : (own[id] ?? null)) })
    // All of them: they are the tenants of another application.
    expect(await errorOf(open(wrong, { tenantRoot: () => wrong }))).toMatchObject({
      code: 'ERR_UNKNOWN_MASTER_KEY',
    })
  })

  it('asks tenantRoot of several tenants at the same time, and minds no error of its own', async () => {
    const tenants = named(0, 30)
    const own = Object.fromEntries(tenants.map((id) => [id, key()]))
    await fill(tenants, own)
    let underWay = 0
    let most = 0
    await open(wrong, {
      async tenantRoot(id) {
        most = Math.max(most, ++underWay)
        await sleep(20)
        underWay -= 1
        if (id.endsWith('1')) throw new Error('no such customer')
        return own[id] ?? null
      },
    })
    expect(most).toBe(16)
  })

  it('asks no previous key that only tenants are under', async () => {
    const own = root('own')
    await fill(['a', 'z'], { a: own })
    own.askedFor.length = 0
    const tenantRoot = (id: string) => (id === 'a' ? own : null)
    await open(right, { previous: [own] })
    await open(right, { previous: [own], tenantRoot })
    expect(own.askedFor).toEqual([])
  })

  it('asks tenantRoot of nobody where the primary wraps something', async () => {
    await fill([...named(0, 5), 'z'], Object.fromEntries(named(0, 5).map((id) => [id, key()])))
    const tenantRoot = vi.fn(() => null)
    await open(right, { tenantRoot })
    expect(tenantRoot.mock.calls).toEqual([])
  })
})
