/** rotateWhere: rotation of all users by age. */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  type KeyStore,
  type KeystoreEvent,
  localMasterKey,
  type Progress,
  rotateWhere,
} from '../../src/index.js'
import { MAX_KEY_VERSION } from '../../src/table.js'
import { itIf } from '../support/conditional.js'
import type { Dialect } from '../support/databases.js'
import { backends, freshStore, type TestStore } from '../support/fresh-store.js'
import { runSql } from '../support/raw-database.js'
import { fill, insertVersions, mintedRow, rowsOf, spoilTime, versionsOf } from '../support/rows.js'
import { overriding, remoteMasterKey } from '../support/store-doubles.js'
import { expectAllOpen, sealAll, versionOf } from '../support/tokens.js'
import { orderedUserIds } from '../support/users.js'

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

  /** Gives a user the versions 1 to `count`. */
  const versions = (userId: string, count: number, createdAt: Date) =>
    insertVersions(store, masterKeys, userId, Array<Date>(count).fill(createdAt))

  describe('rotateWhere', () => {
    it('rotates users whose newest version is old enough, and no others', async () => {
      await fill(store, masterKeys, ['old-1', 'old-2'], { createdAt: daysAgo(40) })
      await fill(store, masterKeys, ['young'], { createdAt: daysAgo(20) })
      await versions('rotated', 1, daysAgo(50))
      await store.insertIfAbsent([
        await mintedRow(masterKeys, 'rotated', { version: 2, createdAt: daysAgo(1) }),
      ])
      await store.insertIfAbsent([await mintedRow(masterKeys, '', { createdAt: daysAgo(40) })])
      await store.shred('shredded', { forget: false })
      const sealed = await sealAll(await test.open(), ['old-1', 'young'])
      const events: KeystoreEvent[] = []

      const report = await rotateWhere({
        store,
        masterKeys,
        olderThanMs: 30 * DAY_MS,
        onEvent: (event) => events.push(event),
      })
      expect(report).toEqual({
        complete: true,
        dryRun: false,
        rotated: 3,
        young: 2,
        skipped: 0,
        shredded: 1,
        failed: [],
        failedCount: 0,
      })
      expect(await refs()).toEqual([
        ':1',
        ':2',
        'old-1:1',
        'old-1:2',
        'old-2:1',
        'old-2:2',
        'rotated:1',
        'rotated:2',
        'shredded:1',
        'young:1',
      ])
      expect(events.map((event) => event.type === 'rotated' && [event.userId, event.version])).toEqual([
        ['', 2],
        ['old-1', 2],
        ['old-2', 2],
      ])
      const envelope = await test.open()
      await expectAllOpen(envelope, sealed)
      expect(versionOf(await envelope.encrypt('old-1', 'x'))).toBe(2)
      // The new versions are young.
      expect(await rotateWhere({ store, masterKeys, olderThanMs: 30 * DAY_MS })).toMatchObject({
        rotated: 0,
        young: 5,
      })
    })

    it('rotates every user once with olderThanMs: 0, however pages cut between versions of a user', async () => {
      for (const [userId, count] of [
        ['a', 1],
        ['b', 2],
        ['c', 3],
        ['d', 4],
        ['e', 5],
      ] as const)
        await versions(userId, count, daysAgo(1))
      await store.shred('b', { forget: false })
      const told: Progress[] = []
      const report = await rotateWhere({
        store,
        masterKeys,
        olderThanMs: 0,
        batchSize: 2,
        onProgress: (progress) => told.push(progress),
      })
      expect(report).toMatchObject({ complete: true, rotated: 4, young: 0, shredded: 1, skipped: 0 })
      const counts = await Promise.all(
        ['a', 'b', 'c', 'd', 'e'].map(async (id) => (await versionsOf(store, id)).length),
      )
      expect(counts).toEqual([2, 2, 4, 5, 6])
      expect((await store.getAll(['b'])).get('b')?.every(({ shreddedAt }) => shreddedAt !== null)).toBe(true)
      expect(told.at(-1)).toMatchObject({ phase: 'rotating', done: 15, total: 15, etaMs: 0 })
      expect(told.map(({ done }) => done)).toEqual(told.map(({ done }) => done).sort((a, b) => a - b))
    })

    it('writes nothing in a dry run', async () => {
      await fill(store, masterKeys, orderedUserIds(5), { createdAt: daysAgo(2) })
      const before = await rowsOf(store)
      const report = await rotateWhere({ store, masterKeys, olderThanMs: DAY_MS, dryRun: true })
      expect(report).toMatchObject({ dryRun: true, rotated: 5, skipped: 0 })
      expect(await rowsOf(store)).toEqual(before)
    })

    it('ends after the current page, and leaves a user alone whose versions the end has cut', async () => {
      await fill(store, masterKeys, ['a', 'b'], { createdAt: daysAgo(1) })
      // Version 2 was pruned: with a page that has version 1 alone, a rotation would make version 2 again.
      await versions('pruned', 3, daysAgo(1))
      await store.remove([{ userId: 'pruned', version: 2 }])
      const signal = new AbortController()
      const report = await rotateWhere({
        store,
        masterKeys,
        olderThanMs: 0,
        batchSize: 3,
        signal: signal.signal,
        onProgress: ({ done }) => done > 0 && signal.abort(),
      })
      expect(report).toMatchObject({ complete: false, rotated: 2, failedCount: 0 })
      expect(await versionsOf(store, 'pruned')).toEqual([1, 3])
      const nothing = await rotateWhere({ store, masterKeys, olderThanMs: 0, signal: AbortSignal.abort() })
      expect(nothing).toMatchObject({ complete: false, rotated: 0 })
      const rest = await rotateWhere({ store, masterKeys, olderThanMs: 0 })
      expect(rest).toMatchObject({ complete: true, rotated: 3 })
      expect(await versionsOf(store, 'pruned')).toEqual([1, 3, 4])
    })

    it('makes one version of each user when two run at once', async () => {
      await fill(store, masterKeys, orderedUserIds(50), { createdAt: daysAgo(2) })
      const runs = await Promise.all(
        [7, 10].map((batchSize) => rotateWhere({ store, masterKeys, olderThanMs: DAY_MS, batchSize })),
      )
      expect(runs.reduce((sum, { rotated }) => sum + rotated, 0)).toBe(50)
      expect(runs.every((run) => run.rotated + run.young + run.skipped === 50)).toBe(true)
      expect((await rowsOf(store)).length).toBe(100)
    })

    it('counts users as skipped whom another writer rotates or shreds between its read and its write', async () => {
      await fill(store, masterKeys, ['a', 'b', 'c'], { createdAt: daysAgo(2) })
      const racing = overriding(store, {
        async insertIfAbsent(records) {
          await store.insertIfAbsent([await mintedRow(masterKeys, 'a', { version: 2 })])
          await store.shred('b', { forget: false })
          return store.insertIfAbsent(records)
        },
      })
      const report = await rotateWhere({ store: racing, masterKeys, olderThanMs: 0 })
      expect(report).toMatchObject({ rotated: 1, skipped: 2 })
      expect(await refs()).toEqual(['a:1', 'a:2', 'b:1', 'c:1', 'c:2'])
    })

    itIf(backend !== 'memory', 'SQL alone can make such rows')(
      'reports a user whose row cannot be read or who has used up all versions, and goes on',
      async () => {
        await fill(store, masterKeys, ['a', 'z'], { createdAt: daysAgo(2) })
        await versions('gap', 3, daysAgo(2))
        await store.remove([{ userId: 'gap', version: 2 }])
        await spoilTime(backend as Dialect, test.url ?? '', 'gap', 3)
        await fill(store, masterKeys, ['last'], { createdAt: daysAgo(2) })
        await runSql(
          backend as Dialect,
          test.url ?? '',
          `update encryption_keys set version = ${MAX_KEY_VERSION} where user_id = 'last'`,
        )
        const report = await rotateWhere({ store, masterKeys, olderThanMs: 0, batchSize: 2 })
        expect(report).toMatchObject({ complete: true, rotated: 2, failedCount: 2, skipped: 0 })
        expect(report.failed.map(({ userId, version, code }) => [userId, version, code])).toEqual([
          ['gap', 3, 'ERR_STORE'],
          ['last', MAX_KEY_VERSION, 'ERR_INVALID_ARGUMENT'],
        ])
        await store.remove([{ userId: 'gap', version: 3 }])
        expect(await versionsOf(store, 'gap')).toEqual([1])
      },
    )

    it('asks a key service for several keys at once', async () => {
      await fill(store, masterKeys, orderedUserIds(40), { createdAt: daysAgo(2) })
      let under = 0
      let most = 0
      const service = remoteMasterKey({
        id: 'service',
        async wrap(dataKey, aad) {
          under += 1
          most = Math.max(most, under)
          await new Promise((resolve) => setTimeout(resolve, 1))
          under -= 1
          return masterKeys.wrap(dataKey, aad)
        },
      })
      expect(await rotateWhere({ store, masterKeys: service, olderThanMs: 0 })).toMatchObject({ rotated: 40 })
      expect(most).toBe(16)
    })

    it('refuses wrong ages', async () => {
      for (const olderThanMs of [-1, Number.NaN, '1', undefined]) {
        const run = rotateWhere({ store, masterKeys, olderThanMs: olderThanMs as number })
        await expect(run).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
      }
    })
  })
})
