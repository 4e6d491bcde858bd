/**
 * Which roots may open and move a tenant's key: a key that somebody plants under any other, in whatever order, gets no user's key. The attacker writes to
 * the database, and can use some master key.
 */
import { beforeEach, describe, expect, it } from 'vitest'
import {
  type EnvelopeCrypto,
  generateMasterKey,
  type KeyRecord,
  type KeyStore,
  localMasterKey,
  type MasterKey,
  type MasterKeyring,
  masterKeyring,
  rewrapAll,
} from '../../src/index.js'
import { tenantUserId } from '../../src/table.js'
import { errorOf } from '../support/errors.js'
import { backends, freshStoreOfEachTest } from '../support/fresh-store.js'
import { fill, mintedRow, rowsOfUser } from '../support/rows.js'
import { overriding } from '../support/store-doubles.js'
import { withTenants } from '../support/tenant-hierarchy.js'
import { keksOf, tenantRowsOf } from '../support/tenants.js'
import { expectAllOpen, type Sealed, sealAll } from '../support/tokens.js'

describe.each(backends)('a tenant’s key that is planted under another root, on %s', (backend) => {
  const { test, store } = freshStoreOfEachTest(backend)
  const key = () => localMasterKey(generateMasterKey())
  let [primary, former, acme, beta]: MasterKey[] = []
  beforeEach(() => {
    ;[primary, former, acme, beta] = [key(), key(), key(), key()]
  })

  const ofAcme = (options: Partial<Parameters<typeof masterKeyring>[0]> = {}): MasterKeyring =>
    withTenants(primary as MasterKey, { tenantRoot: (id) => ({ acme, beta })[id] ?? null, ...options })
  const open = (masterKeys: MasterKeyring): Promise<EnvelopeCrypto> => test.open({ masterKeys, cache: false })
  const seal = async (masterKeys: MasterKeyring, users: readonly string[]): Promise<Sealed[]> =>
    sealAll(await open(masterKeys), users)
  const plant = async (under: MasterKey | undefined, version: number, tenantId = 'acme') => {
    const row = await mintedRow(under as MasterKey, tenantUserId(tenantId), { version })
    await store.maintenance?.restore([row])
    return row
  }
  const rootsOf = async (tenantId: string) => (await tenantRowsOf(store, tenantId)).map(({ kekId }) => kekId)
  const kekOf = async (userId: string) => (await keksOf(store))[userId]

  it('as the first version, before the tenant’s users come into the hierarchy', async () => {
    const sealed = await seal(masterKeyring({ primary: primary as MasterKey }), ['acme/alice'])
    await plant(beta, 1)
    // Not even where the other customer's root is in `previous`, as it must not be.
    const masterKeys = ofAcme({ previous: [beta as MasterKey, former as MasterKey] })
    for (let run = 0; run < 2; run++) {
      const { changed, failed } = await rewrapAll({ store, masterKeys })
      expect(changed).toBe(0)
      expect(failed).toMatchObject([{ userId: 'acme/alice', code: 'ERR_UNKNOWN_MASTER_KEY' }])
      expect(await kekOf('acme/alice')).toBe(primary?.id)
      expect(await rootsOf('acme')).toEqual([beta?.id])
    }
    await expectAllOpen(await open(masterKeys), sealed)
  })

  it.each(['deleted', 'made unreadable'])(
    'while the version before it is %s, and comes back after a rewrap',
    async (how) => {
      const masterKeys = ofAcme({ previous: [beta as MasterKey] })
      const sealed = await seal(masterKeys, ['acme/alice'])
      const [first] = (await tenantRowsOf(store, 'acme')) as [KeyRecord]
      if (how === 'deleted') await store.remove([first])
      await plant(beta, 2)
      const hiding = how === 'deleted' ? store : withoutRow(first)
      expect(await rewrapAll({ store: hiding, masterKeys })).toMatchObject({ changed: 0 })
      await store.maintenance?.restore([first])
      const { changed, failed } = await rewrapAll({ store, masterKeys })
      expect(changed).toBe(0)
      expect(failed.map(({ userId, code }) => [userId, code])).toEqual([
        [tenantUserId('acme'), 'ERR_CONFLICT'],
        ['acme/alice', 'ERR_CONFLICT'],
      ])
      expect(await rootsOf('acme')).toEqual([acme?.id, beta?.id])
      expect(await kekOf('acme/alice')).toBe('tenant:1:acme')
      await expectAllOpen(await open(masterKeys), sealed)
    },
  )

  /** Lists as a store does that cannot read a row. */
  const withoutRow = ({ userId, version }: KeyRecord): KeyStore =>
    overriding(store, {
      list: async (page) =>
        (await store.list(page)).filter((row) => row.userId !== userId || row.version !== version),
      getAll: async (ids) => {
        const rows = await store.getAll(ids)
        for (const [id, versions] of rows)
          rows.set(
            id,
            versions.filter((row) => row.userId !== userId || row.version !== version),
          )
        return rows
      },
    })

  it('under a former primary, while the version before it is missing that users are under', async () => {
    const masterKeys = withTenants(primary as MasterKey, { previous: [former as MasterKey] })
    const sealed = await seal(masterKeys, ['t/alice'])
    const [first] = (await tenantRowsOf(store, 't')) as [KeyRecord]
    await store.remove([first])
    await plant(former, 2, 't')
    const report = await rewrapAll({ store, masterKeys })
    expect(report).toMatchObject({ changed: 0, failedCount: 2 })
    expect(report.failed.map(({ userId, code }) => [userId, code])).toEqual([
      [tenantUserId('t'), 'ERR_KEY_NOT_FOUND'],
      ['t/alice', 'ERR_KEY_NOT_FOUND'],
    ])
    expect(await rootsOf('t')).toEqual([former?.id])
    await store.maintenance?.restore([first])
    expect(await rewrapAll({ store, masterKeys })).toMatchObject({ changed: 0, failedCount: 2 })
    expect(await kekOf('t/alice')).toBe('tenant:1:t')
    await expectAllOpen(await open(masterKeys), sealed)
  })

  it('in the middle of a rewrap, in place of the versions that it has begun with', async () => {
    const users = Array.from({ length: 12 }, (_, i) => `acme/${i}`)
    // The application's own primary is stolen: it opens rows of the tenant too.
    const masterKeys = ofAcme()
    await seal(masterKeys, users)
    await (await open(masterKeys)).rotateTenantKey('acme')
    let writes = 0
    const raced = overriding(store, {
      async replaceWrapped(changes) {
        const changed = await store.replaceWrapped(changes)
        if (++writes === 1) {
          await plant(primary, 3)
          await store.remove([1, 2].map((version) => ({ userId: tenantUserId('acme'), version })))
        }
        // Until rows are read again.
        await new Promise((resolve) => setTimeout(resolve, 1100))
        return changed
      },
    })
    await rewrapAll({ store: raced, masterKeys, batchSize: 4 })
    const keks = Object.values(await keksOf(store))
    expect(keks.filter((kekId) => kekId === 'tenant:3:acme')).toEqual([])
  })

  it('is refused by rotateUserKey and moveTenant too', async () => {
    await seal(ofAcme(), ['acme/alice'])
    await plant(primary, 2)
    const next = key()
    const moving = ofAcme({
      tenantRoot: () => masterKeyring({ primary: next, previous: [acme as MasterKey] }),
    })
    for (const masterKeys of [ofAcme(), moving]) {
      const envelope = await open(masterKeys)
      expect(await errorOf(envelope.rotateUserKey('acme/alice'))).toMatchObject({ code: 'ERR_CONFLICT' })
      expect(await rowsOfUser(store, 'acme/alice')).toHaveLength(1)
    }
    expect(await errorOf((await open(moving)).moveTenant('acme', next))).toMatchObject({
      code: 'ERR_CONFLICT',
    })
    expect(await rootsOf('acme')).toEqual([acme?.id, primary?.id])
  })

  it('as a lower version: the one that users are under is moved all the same', async () => {
    const masterKeys = withTenants(primary as MasterKey)
    const sealed = await seal(masterKeys, ['t/alice'])
    const envelope = await open(masterKeys)
    await envelope.rotateTenantKey('t')
    await rewrapAll({ store, masterKeys })
    await store.remove([{ userId: tenantUserId('t'), version: 1 }])
    await plant(beta, 1, 't')
    const next = key()
    const rotation = withTenants(next, { previous: [primary as MasterKey] })
    expect(await rewrapAll({ store, masterKeys: rotation })).toMatchObject({ changed: 1 })
    expect(await rootsOf('t')).toEqual([beta?.id, next.id])
    expect(await kekOf('t/alice')).toBe('tenant:2:t')
    await expectAllOpen(await open(rotation), sealed)
  })

  it('what is no attack is moved: versions under several former primaries', async () => {
    const roots = [key(), key(), key(), key()] as const
    const [first, second, third, last] = roots
    const keys = (root: MasterKey, ...previous: MasterKey[]) =>
      withTenants(root, { previous, tenantRoot: () => null })
    const sealed = await seal(keys(first), ['t/alice'])
    await (await open(keys(second, first))).rotateTenantKey('t')
    await (await open(keys(third, second, first))).rotateTenantKey('t')
    expect(await rootsOf('t')).toEqual([first.id, second.id, third.id])
    const masterKeys = keys(last, third, second, first)
    expect(await rewrapAll({ store, masterKeys })).toMatchObject({ changed: 4, failedCount: 0 })
    expect(await rootsOf('t')).toEqual([last.id, last.id, last.id])
    await expectAllOpen(await open(keys(last)), sealed)
  })

  it('a damaged version that nobody needs holds back no other one, however often the root changes', async () => {
    let masterKeys = withTenants(primary as MasterKey)
    const sealed = await seal(masterKeys, ['t/alice'])
    await (await open(masterKeys)).rotateTenantKey('t')
    await rewrapAll({ store, masterKeys })
    const [first] = (await tenantRowsOf(store, 't')) as [KeyRecord]
    const encryptedKey = Uint8Array.from(first.encryptedKey, (byte, i) => (i === 50 ? byte ^ 1 : byte))
    await store.replaceWrapped([{ ...first, from: first.encryptedKey, encryptedKey, wrappedAt: new Date() }])
    const previous = [primary as MasterKey]
    for (let rotation = 0; rotation < 3; rotation++) {
      const root = key()
      masterKeys = withTenants(root, { previous: [...previous] })
      const { changed, failed } = await rewrapAll({ store, masterKeys })
      expect({ changed, failed: failed.map(({ version, code }) => [version, code]) }).toEqual({
        changed: 1,
        failed: [[1, 'ERR_UNWRAP_FAILED']],
      })
      expect(await rootsOf('t')).toEqual([primary?.id, root.id])
      previous.unshift(root)
    }
    await expectAllOpen(await open(masterKeys), sealed)
  })

  it('tenantRoot is asked once for a tenant, not once for each of its users', async () => {
    const users = Array.from({ length: 50 }, (_, i) => `acme/${i}`)
    await fill(store, primary as MasterKey, users)
    const asked: string[] = []
    const masterKeys = ofAcme({
      tenantRoot: (id) => {
        asked.push(id)
        return acme as MasterKey
      },
    })
    expect(await rewrapAll({ store, masterKeys })).toMatchObject({ changed: 50, failedCount: 0 })
    expect(asked).toEqual(['acme'])
  })
})

/** What SECURITY.md says that this does not protect against. */
describe.each(backends)('a former primary that was stolen, and is still in `previous`, on %s', (backend) => {
  const { test, store } = freshStoreOfEachTest(backend)

  it('can plant a key for users who come into the hierarchy, and cannot once it is taken out', async () => {
    const [primary, former] = [localMasterKey(generateMasterKey()), localMasterKey(generateMasterKey())]
    for (const previous of [[], [former]]) {
      await fill(store, primary, ['t/alice'])
      const planted = await mintedRow(former, tenantUserId('t'))
      await store.insertIfAbsent([planted])
      const masterKeys = withTenants(primary, { previous })
      const { changed } = await rewrapAll({ store, masterKeys })
      const kekId = (await keksOf(store))['t/alice']
      expect([changed > 0, kekId]).toEqual(previous.length === 0 ? [false, primary.id] : [true, 'tenant:1:t'])
      for (const userId of ['t/alice', tenantUserId('t')]) await store.shred(userId, { forget: true })
    }
    await (await test.open({ masterKeys: withTenants(primary) })).encrypt('t/alice', 'x')
  })
})
