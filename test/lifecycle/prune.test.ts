/** pruneRetired and pruneWhere: the removal of versions that nobody needs. */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type KeyStore, localMasterKey, pruneRetired, pruneWhere } from '../../src/index.js'
import { MAX_KEY_VERSION } from '../../src/table.js'
import { itIf } from '../support/conditional.js'
import type { Dialect } from '../support/databases.js'
import { backends, freshStore, type TestStore } from '../support/fresh-store.js'
import { insertVersions, rowsOf, spoilTime, versionsOf } from '../support/rows.js'

const DAY_MS = 24 * 60 * 60 * 1000
const daysAgo = (days: number) => new Date(Date.now() - days * DAY_MS)

describe.each(backends)('on %s', (backend) => {
  let test: TestStore
  let store: KeyStore
  const masterKeys = localMasterKey(randomBytes(32))
  beforeEach(async () => {
    test = await freshStore(backend, { masterKeys })
    store = test.store
  })
  afterEach(() => test.remove())

  const refs = async () => (await rowsOf(store)).map(({ userId, version }) => `${userId}:${version}`)

  /** Gives a user versions that were made so many days ago, one for each. */
  const madeAgo = (userId: string, ...days: number[]) =>
    insertVersions(store, masterKeys, userId, days.map(daysAgo))

  /** Gives a user the versions 1 to `count`. */
  const versions = (userId: string, count: number, createdAt: Date) =>
    insertVersions(store, masterKeys, userId, Array<Date>(count).fill(createdAt))

  describe('pruneWhere', () => {
    const given = { tokensReencrypted: true, includeFirst: true } as const

    it('removes all versions that were made before a moment, whatever their numbers, and names who has no newer one', async () => {
      await madeAgo('', 9, 1)
      await madeAgo('once', 9, 1)
      // Rotated before, and twice since.
      await madeAgo('often', 90, 30, 9, 2, 1)
      await madeAgo('new', 1)
      await madeAgo('forgotten', 9, 8)
      await madeAgo('shredded', 9, 8)
      await store.shred('shredded', { forget: false })
      const dry = await pruneWhere({ ...given, store, madeBefore: daysAgo(5), dryRun: true })
      const report = { complete: true, users: 4, removed: 6, notRotated: ['forgotten'], notRotatedCount: 1 }
      expect(dry).toMatchObject({ ...report, dryRun: true, failedCount: 0 })
      expect(await pruneWhere({ ...given, store, madeBefore: daysAgo(5), batchSize: 2 })).toMatchObject(
        report,
      )
      expect(await refs()).toEqual([
        ':2',
        'forgotten:2',
        'new:1',
        'often:4',
        'often:5',
        'once:2',
        'shredded:1',
        'shredded:2',
      ])
      expect(await pruneWhere({ ...given, store, madeBefore: daysAgo(5) })).toMatchObject({ removed: 0 })
    })

    it('keeps first versions unless it is told otherwise, and keys of tenants', async () => {
      await madeAgo('alice', 9, 8, 1)
      await madeAgo('\u0001tenant:acme', 9, 1)
      const report = await pruneWhere({ ...given, store, madeBefore: daysAgo(5), includeFirst: false })
      expect(report).toMatchObject({ users: 1, removed: 1 })
      expect(await refs()).toEqual(['\u0001tenant:acme:1', '\u0001tenant:acme:2', 'alice:1', 'alice:3'])
    })

    itIf(backend !== 'memory', 'a row in memory is always readable')(
      'removes nothing of a user of whom a row cannot be read, and names it',
      async () => {
        await madeAgo('alice', 9, 1)
        await madeAgo('bob', 9, 1)
        await spoilTime(backend as Dialect, test.url ?? '', 'alice', 1)
        const report = await pruneWhere({ ...given, store, madeBefore: daysAgo(5) })
        expect(report).toMatchObject({ users: 1, removed: 1, failed: [{ userId: 'alice' }] })
        expect(await versionsOf(store, 'bob')).toEqual([2])
      },
    )

    it('refuses what is no moment, and whoever has not confirmed', async () => {
      for (const madeBefore of [undefined, 5, '2026-11-27', new Date(Number.NaN)])
        await expect(pruneWhere({ ...given, store, madeBefore: madeBefore as Date })).rejects.toMatchObject({
          code: 'ERR_INVALID_ARGUMENT',
        })
      const unconfirmed = { store, madeBefore: daysAgo(5) } as never
      await expect(pruneWhere(unconfirmed)).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    })
  })

  describe('pruneRetired', () => {
    const given = { userId: 'alice', tokensReencrypted: true as const }

    it('takes a moment instead of a version, and exactly one of them', async () => {
      await madeAgo('alice', 9, 8, 1)
      const madeBefore = daysAgo(5)
      expect(await pruneRetired({ ...given, store, madeBefore, includeFirst: true })).toMatchObject({
        versions: [1, 2],
      })
      for (const both of [{}, { madeBefore, beforeVersion: 2 }])
        await expect(pruneRetired({ ...given, store, ...both })).rejects.toMatchObject({
          code: 'ERR_INVALID_ARGUMENT',
        })
    })

    it('removes retired versions, the first only with includeFirst, and never the highest', async () => {
      await versions('alice', 5, daysAgo(1))
      await versions('bob', 2, daysAgo(1))
      expect(await pruneRetired({ ...given, store, beforeVersion: 3 })).toEqual({
        userId: 'alice',
        versions: [2],
      })
      expect(await pruneRetired({ ...given, store, beforeVersion: 3 })).toEqual({
        userId: 'alice',
        versions: [],
      })
      expect(await pruneRetired({ ...given, store, beforeVersion: MAX_KEY_VERSION })).toMatchObject({
        versions: [3, 4],
      })
      expect(await versionsOf(store, 'alice')).toEqual([1, 5])
      const all = await pruneRetired({ ...given, store, beforeVersion: 99, includeFirst: true })
      expect(all.versions).toEqual([1])
      expect(await refs()).toEqual(['alice:5', 'bob:1', 'bob:2'])
      expect(await pruneRetired({ ...given, store, beforeVersion: 99, includeFirst: true })).toMatchObject({
        versions: [],
      })
      // The user can still encrypt, rotate and decrypt.
      const envelope = await test.open()
      const token = await envelope.encrypt('alice', 'x')
      expect(await envelope.rotateUserKey('alice')).toMatchObject({ version: 6 })
      expect(await envelope.decrypt('alice', token)).toBe('x')
    })

    it('leaves tombstones, users without rows, and the highest version of the pool', async () => {
      await versions('alice', 3, daysAgo(1))
      await store.shred('alice', { forget: false })
      expect(await pruneRetired({ ...given, store, beforeVersion: 3, includeFirst: true })).toMatchObject({
        versions: [],
      })
      expect(await versionsOf(store, 'alice')).toEqual([1, 2, 3])
      expect(await pruneRetired({ ...given, userId: 'nobody', store, beforeVersion: 3 })).toMatchObject({
        versions: [],
      })
      await versions('', 2, daysAgo(1))
      expect(
        await pruneRetired({ ...given, userId: '', store, beforeVersion: 2, includeFirst: true }),
      ).toEqual({
        userId: '',
        versions: [1],
      })
    })

    it('refuses without tokensReencrypted: true', async () => {
      await versions('alice', 3, daysAgo(1))
      for (const tokensReencrypted of [undefined, false, 'true', 1]) {
        const run = pruneRetired({
          store,
          userId: 'alice',
          beforeVersion: 3,
          tokensReencrypted: tokensReencrypted as true,
        })
        await expect(run).rejects.toMatchObject({
          code: 'ERR_INVALID_ARGUMENT',
          message: expect.stringContaining('re-encrypt'),
        })
      }
      for (const beforeVersion of [0, 1.5, Number.NaN, '2' as unknown as number])
        await expect(pruneRetired({ ...given, store, beforeVersion })).rejects.toMatchObject({
          code: 'ERR_INVALID_ARGUMENT',
        })
      await expect(
        pruneRetired({ ...given, store, userId: '\ud800', beforeVersion: 2 }),
      ).rejects.toMatchObject({
        code: 'ERR_INVALID_ARGUMENT',
      })
      expect(await versionsOf(store, 'alice')).toEqual([1, 2, 3])
    })

    it('makes tokens of removed versions ERR_KEY_NOT_FOUND in services that read the keys again', async () => {
      const envelope = await test.open()
      await envelope.encrypt('alice', 'one')
      await envelope.rotateUserKey('alice')
      const second = await envelope.encrypt('alice', 'two')
      await envelope.rotateUserKey('alice')
      await pruneRetired({ ...given, store, beforeVersion: 3 })
      await expect((await test.open()).decrypt('alice', second)).rejects.toMatchObject({
        code: 'ERR_KEY_NOT_FOUND',
      })
    })
  })
})
