/** copyKeys: every row exactly, from any store to any other, again and again; and nothing where a row differs. */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  copyKeys,
  EnvelopeCrypto,
  type KeyRecord,
  type KeyStore,
  localMasterKey,
  masterKeyring,
  type Progress,
  rewrapAll,
} from '../../src/index.js'
import { ODD_IDS } from '../../src/testing/fixture.js'
import { errorOf } from '../support/errors.js'
import { chosenPairs, freshStore, type TestStore } from '../support/fresh-store.js'
import { storeMaintenance } from '../support/maintenance.js'
import { fill, mintedRow, rowsOf, v2Row } from '../support/rows.js'
import { overriding } from '../support/store-doubles.js'
import { expectAllOpen, sealAll } from '../support/tokens.js'
import { orderedUserIds } from '../support/users.js'

const masterKeys = localMasterKey(randomBytes(32))
const open = (store: KeyStore) =>
  EnvelopeCrypto.open({
    store,
    masterKeys,
    closeStore: false,
    accept: { keys: ['v2'] },
    allowUnknownMasterKeys: true,
  })

const pairs = chosenPairs(
  ['sqlite', 'postgres'],
  ['postgres', 'sqlite'],
  ['sqlite', 'sqlite'],
  ['sqlite', 'memory'],
)

describe.each(pairs)('copyKeys from %s to %s', (source, target) => {
  let from: TestStore
  let to: TestStore
  let stores: { readonly from: KeyStore; readonly to: KeyStore }
  beforeEach(async () => {
    from = await freshStore(source)
    to = await freshStore(target)
    stores = { from: from.store, to: to.store }
  })
  afterEach(async () => {
    await from.remove()
    await to.remove()
  })

  /** Users of all kinds. */
  async function fillSource(): Promise<void> {
    await fill(from.store, masterKeys, ODD_IDS)
    const envelope = await open(from.store)
    for (const userId of ['pruned', 'shredded', 'rotated']) {
      await envelope.encrypt(userId, 'x')
      for (let version = 2; version <= 3; version++) await envelope.rotateUserKey(userId)
    }
    await from.store.remove([{ userId: 'pruned', version: 2 }])
    await envelope.shredUser('shredded')
    await envelope.shredUser('never had a key')
    await from.store.insertIfAbsent([
      v2Row(
        masterKeys,
        { userId: 'reference' },
        { kekId: null, createdAt: new Date('2024-01-01T00:00:00.001Z') },
      ),
      await mintedRow(masterKeys, 'rewrapped', { wrappedAt: new Date('2025-05-05T05:05:05.005Z') }),
      await mintedRow(masterKeys, 'no id', { kekId: '' }),
    ])
    await envelope.close()
  }

  it('copies every row exactly, and says that both are equal', async () => {
    await fillSource()
    const before = await rowsOf(from.store)
    const told: Progress[] = []
    const report = await copyKeys({ ...stores, batchSize: 5, onProgress: (progress) => told.push(progress) })
    expect(await rowsOf(to.store)).toEqual(before)
    expect(await rowsOf(from.store)).toEqual(before)
    expect(report).toMatchObject({
      complete: true,
      dryRun: false,
      copied: before.length,
      shredded: [],
      extra: 0,
      equal: true,
    })
    expect(report.digest.from).toMatch(/^[0-9a-f]{64}$/)
    expect(report.digest.to).toBe(report.digest.from)
    expect(report.census.to).toEqual(report.census.from)
    expect(report.census.to.reduce((sum, { count }) => sum + count, 0)).toBe(before.length)
    for (const phase of ['comparing', 'copying']) {
      const last = told.findLast((progress) => progress.phase === phase)
      expect(last).toMatchObject({ done: before.length, total: before.length })
    }
    // Again: nothing to do.
    expect(await copyKeys(stores)).toMatchObject({ copied: 0, equal: true, digest: report.digest })
    expect(await rowsOf(to.store)).toEqual(before)
  })

  it('opens at the target what was encrypted at the source', async () => {
    const sealed = await sealAll(await open(from.store), orderedUserIds(20))
    await copyKeys(stores)
    await expectAllOpen(await open(to.store), sealed)
  })

  it('picks up in a further run what was minted, rotated and shredded at the source since', async () => {
    await fillSource()
    await copyKeys(stores)
    const envelope = await open(from.store)
    const minted = await envelope.encrypt('minted since', 'new')
    await envelope.rotateUserKey('rotated')
    const rotated = await envelope.encrypt('rotated', 'newer')
    await envelope.rotateUserKey('pruned')
    const { at } = await envelope.shredUser('a')
    await envelope.shredUser('shredded after a rotation')
    await envelope.close()

    const applyErasures = true
    const plan = await copyKeys({ ...stores, applyErasures, dryRun: true })
    expect(plan).toMatchObject({
      dryRun: true,
      copied: 5,
      shredded: ['a'],
      extra: 0,
      equal: false,
      complete: true,
    })
    const report = await copyKeys({ ...stores, applyErasures })
    expect(report).toMatchObject({ dryRun: false, copied: 5, shredded: ['a'], extra: 0, equal: true })
    expect(await rowsOf(to.store)).toEqual(await rowsOf(from.store))
    const reader = await open(to.store)
    expect(await reader.decrypt('minted since', minted)).toBe('new')
    expect(await reader.decrypt('rotated', rotated)).toBe('newer')
    await expect(reader.encrypt('a', 'x')).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
    expect((await to.store.getAll(['a'])).get('a')).toMatchObject([{ shreddedAt: at }])
  })

  it('erases a user of several versions at the target, though pages cut them', async () => {
    await fill(from.store, masterKeys, ['a', 'z'])
    const envelope = await open(from.store)
    await envelope.encrypt('m', 'x')
    for (let version = 2; version <= 5; version++) await envelope.rotateUserKey('m')
    await copyKeys(stores)
    await envelope.rotateUserKey('m')
    await envelope.shredUser('m')
    const report = await copyKeys({ ...stores, applyErasures: ['m'], batchSize: 2 })
    expect(report).toMatchObject({ shredded: ['m'], equal: true })
    expect(await rowsOf(to.store)).toEqual(await rowsOf(from.store))
  })

  it('writes nothing in a dry run', async () => {
    await fillSource()
    const count = (await rowsOf(from.store)).length
    const report = await copyKeys({ ...stores, dryRun: true })
    expect(report).toMatchObject({ complete: true, dryRun: true, copied: count, extra: 0, equal: false })
    expect(await rowsOf(to.store)).toEqual([])
  })

  it('counts rows that only the target has, and leaves them', async () => {
    await fill(from.store, masterKeys, orderedUserIds(5))
    await fill(to.store, masterKeys, ['own-1', 'own-2'])
    await copyKeys({ from: from.store, to: to.store, dryRun: true }).then((plan) =>
      expect(plan).toMatchObject({ copied: 5, extra: 2, equal: false }),
    )
    const report = await copyKeys(stores)
    expect(report).toMatchObject({ complete: true, copied: 5, extra: 2, equal: false })
    expect(report.digest.from).not.toBe(report.digest.to)
    expect(await rowsOf(to.store)).toHaveLength(7)
  })

  it('ends after the page in hand when told to, and a further run completes', async () => {
    await fill(from.store, masterKeys, orderedUserIds(20))
    const signal = new AbortController()
    const first = await copyKeys({
      ...stores,
      batchSize: 3,
      signal: signal.signal,
      onProgress: ({ phase, done }) => phase === 'copying' && done >= 6 && signal.abort(),
    })
    expect(first).toMatchObject({
      complete: false,
      // The last user of a page waits for the next one, which may have more of their versions.
      copied: 8,
      equal: false,
      digest: { from: null, to: null },
    })
    expect(await rowsOf(to.store)).toHaveLength(8)
    expect(await copyKeys(stores)).toMatchObject({ complete: true, copied: 12, equal: true })

    const early = await copyKeys({ ...stores, signal: AbortSignal.abort() })
    expect(early).toMatchObject({ complete: false, copied: 0, equal: false })
  })

  it('brings a source that is written meanwhile over in one run', async () => {
    await fill(from.store, masterKeys, orderedUserIds(30, 'm'))
    let minted = 0
    const busy = overriding(from.store, {
      async list(page) {
        // In front of the cursor, and in the way of the one look that would be the last.
        if (minted < 5 && page.after !== undefined) {
          minted += 1
          await fill(from.store, masterKeys, [`a-${minted}`])
        }
        return from.store.list(page)
      },
    })
    const report = await copyKeys({ from: busy, to: to.store, batchSize: 10 })
    expect(report).toMatchObject({ complete: true, copied: 35, equal: true })
  })

  describe('refuses, names the row, and writes nothing', () => {
    async function expectRefusal(userId: string, message: string): Promise<void> {
      const before = await rowsOf(to.store)
      const plan = await copyKeys({ ...stores, dryRun: true, batchSize: 3 })
      const row = async (store: KeyStore) => (await store.getAll([userId])).get(userId)?.[0]
      expect(plan.conflicts).toContainEqual({
        userId,
        version: 1,
        reason: expect.stringContaining(message),
        from: stateOf(await row(from.store)),
        to: stateOf(await row(to.store)),
      })
      expect(plan.conflictCount).toBe(plan.conflicts.length)
      await expectError(userId, message, false)
      expect(await rowsOf(to.store)).toEqual(before)
    }
    async function expectError(userId: string, message: string, dryRun: boolean): Promise<void> {
      const error = await errorOf(copyKeys({ ...stores, dryRun, batchSize: 3 }))
      expect(error).toMatchObject({ code: 'ERR_CONFLICT', ref: { userId, version: 1 } })
      expect(error.message).toContain(`user "${userId}", version 1`)
      expect(error.message).toContain(message)
    }
    const stateOf = (row: KeyRecord | undefined) => {
      if (row === undefined) throw new Error('no row')
      const { kekId, createdAt, wrappedAt, shreddedAt } = row
      return { kekId, createdAt, wrappedAt, shreddedAt }
    }
    beforeEach(() => fill(from.store, masterKeys, orderedUserIds(10)))

    it('another key at the target', async () => {
      await fill(to.store, masterKeys, ['user-000008'])
      await expectRefusal('user-000008', 'is another key at the target')
    })

    it('a row that was rewrapped since it was copied', async () => {
      await copyKeys(stores)
      const keyring = masterKeyring({ primary: localMasterKey(randomBytes(32)), previous: [masterKeys] })
      await rewrapAll({ store: from.store, masterKeys: keyring })
      await expectRefusal('user-000000', 'or was rewrapped since it was copied')
    })

    it('a user shredded at the target, under any version', async () => {
      await to.store.shred('user-000004', { forget: false })
      await expectRefusal('user-000004', 'was shredded at the target')
    })

    it('a tombstone of the source that is another live key at the target', async () => {
      await fill(to.store, masterKeys, ['user-000007'], { createdAt: new Date('2020-01-01') })
      await from.store.shred('user-000007', { forget: false })
      await expectRefusal('user-000007', 'is a tombstone at the source and another live key at the target')
    })

    it('two tombstones of different keys', async () => {
      await fill(to.store, masterKeys, ['user-000007'], { createdAt: new Date('2020-01-01') })
      await to.store.shred('user-000007', { forget: false })
      await from.store.shred('user-000007', { forget: false })
      await expectRefusal('user-000007', 'is another tombstone at the target')
    })

    it('a user shredded at the target under a version that the source has not', async () => {
      await to.store.insertIfAbsent([await mintedRow(masterKeys, 'user-000004', { version: 1 })])
      await to.store.insertIfAbsent([await mintedRow(masterKeys, 'user-000004', { version: 2 })])
      await to.store.shred('user-000004', { forget: false })
      await to.store.remove([{ userId: 'user-000004', version: 1 }])
      const before = await rowsOf(to.store)
      const { conflicts } = await copyKeys({ ...stores, dryRun: true })
      expect(conflicts).toMatchObject([{ userId: 'user-000004', version: 1, to: null }])
      await expectError('user-000004', 'was shredded at the target', false)
      expect(await rowsOf(to.store)).toEqual(before)
    })
  })

  it.each([
    { name: 'an empty target', before: [] },
    { name: 'a target with rows', before: ['user-000000', 'user-000004'] },
  ])(
    'refuses a row that $name gets between look and write, and gives away no key in the error',
    async ({ before }) => {
      await fill(from.store, masterKeys, orderedUserIds(5))
      if (before.length > 0) await copyKeys({ ...stores, only: { users: before } })
      let rival: KeyRecord | undefined
      const maintenance = storeMaintenance(to.store)
      const restore = async (records: readonly KeyRecord[]) => {
        rival ??= await mintedRow(masterKeys, 'user-000002')
        await to.store.insertIfAbsent([rival])
        return maintenance.restore(records)
      }
      const racing = overriding(to.store, {
        maintenance: Object.assign(Object.create(maintenance), { restore }),
      })
      const error = await errorOf(copyKeys({ from: from.store, to: racing }))
      expect(error).toMatchObject({ code: 'ERR_CONFLICT', ref: { userId: 'user-000002', version: 1 } })
      const stored = (await to.store.getAll(['user-000002'])).get('user-000002')
      expect(Buffer.from(stored?.[0]?.encryptedKey ?? [])).toEqual(Buffer.from(rival?.encryptedKey ?? []))
      for (const key of [rival?.encryptedKey, (await rowsOf(from.store))[2]?.encryptedKey])
        expect(error.message).not.toContain(
          Buffer.from(key ?? [])
            .toString('hex')
            .slice(0, 12),
        )
    },
  )

  it('refuses a target whose answer is not what was written', async () => {
    await fill(from.store, masterKeys, orderedUserIds(3))
    const maintenance = to.store.maintenance
    if (maintenance === undefined) throw new Error('no maintenance')
    const lying = overriding(to.store, {
      maintenance: {
        inspect: () => maintenance.inspect(),
        finishErasure: () => maintenance.finishErasure(),
        datedCensus: () => maintenance.datedCensus(),
        countUnder: (kekIds) => maintenance.countUnder(kekIds),
        restore: async (records) =>
          (await maintenance.restore(records)).map((row) => ({ ...row, createdAt: new Date(0) })),
      },
    })
    await expect(copyKeys({ from: from.store, to: lying })).rejects.toMatchObject({ code: 'ERR_CONFLICT' })
  })

  it('refuses stores that are none, or into which nothing can be copied', async () => {
    const wrong = [
      { from: from.store },
      { to: to.store },
      { from: 'a.db', to: to.store },
      { ...stores, batchSize: 0 },
    ]
    for (const options of wrong)
      await expect(copyKeys(options as never)).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    const bare = new Proxy(to.store, {
      get: (store, name) => (name === 'maintenance' ? undefined : Reflect.get(store, name, store)),
    })
    await expect(copyKeys({ from: from.store, to: bare })).rejects.toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
    })
  })
})
