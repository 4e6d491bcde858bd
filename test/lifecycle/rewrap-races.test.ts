/** rewrapAll beside other writers, with old processes that go on minting, with signals, and on stores that refuse writes. */
import { randomBytes } from 'node:crypto'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { beforeEach, describe, expect, it } from 'vitest'
import {
  type KeyRecord,
  type KeyRef,
  type LocalMasterKey,
  localMasterKey,
  masterKeyring,
  type Progress,
  rewrapAll,
} from '../../src/index.js'
import { refKey } from '../../src/table.js'
import { itIf } from '../support/conditional.js'
import type { Dialect } from '../support/databases.js'
import { backends, freshStore, freshStoreOfEachTest } from '../support/fresh-store.js'
import { fill, mintedRow, rowsOf, spoilTime } from '../support/rows.js'
import { overriding } from '../support/store-doubles.js'
import { expectAllOpen, type Sealed, sealAll } from '../support/tokens.js'
import { orderedUserIds } from '../support/users.js'

describe.each(backends)('rewrapAll on %s', (backend) => {
  const { test, store } = freshStoreOfEachTest(backend)
  let old: LocalMasterKey
  let fresh: LocalMasterKey
  beforeEach(() => {
    old = localMasterKey(randomBytes(32))
    fresh = localMasterKey(randomBytes(32))
  })

  const both = () => masterKeyring({ primary: fresh, previous: [old] })
  const kekIdOf = ({ kekId }: KeyRecord) => kekId

  it('skips a row that another writer changes between its read and its write, and is right afterwards', async () => {
    await fill(store, old, orderedUserIds(5))
    const rival = masterKeyring({ primary: localMasterKey(randomBytes(32)), previous: [old] })
    let raced = false
    const racing = overriding(store, {
      async replaceWrapped(changes) {
        if (!raced) {
          raced = true
          const one = overriding(store, {
            list: async (page) => (await store.list(page)).filter(({ userId }) => userId === 'user-000002'),
          })
          await rewrapAll({ store: one, masterKeys: rival })
          await store.shred('user-000003', { forget: false })
        }
        return store.replaceWrapped(changes)
      },
    })
    const masterKeys = masterKeyring({ primary: fresh, previous: [old, rival.primary] })
    const report = await rewrapAll({ store: racing, masterKeys })
    // The next pass rewraps the row that the rival has changed; the shredded row is left alone.
    expect(report).toMatchObject({ complete: true, changed: 4, skipped: 2, failed: [] })
    const rows = await rowsOf(store)
    expect(rows.filter(({ shreddedAt }) => shreddedAt === null).map(kekIdOf)).toEqual(Array(4).fill(fresh.id))
    expect(rows[3]).toMatchObject({ userId: 'user-000003', encryptedKey: new Uint8Array(0) })
  })

  it('rewraps rows too that a process with the old primary mints meanwhile behind its cursor', async () => {
    await fill(store, old, orderedUserIds(30, 'm'))
    let mints = 0
    const busy = overriding(store, {
      async replaceWrapped(changes) {
        const changed = await store.replaceWrapped(changes)
        // Sorts before the cursor of the pass.
        if (mints < 4) {
          mints += 1
          await store.insertIfAbsent([await mintedRow(old, `a-${mints}`)])
        }
        return changed
      },
    })
    const report = await rewrapAll({ store: busy, masterKeys: both(), batchSize: 10 })
    expect(mints).toBe(4)
    expect(report).toMatchObject({ complete: true, changed: 34, failed: [] })
    expect(new Set((await rowsOf(store)).map(kekIdOf))).toEqual(new Set([fresh.id]))
  })

  itIf(backend !== 'memory', 'in memory every time is a Date')(
    'rewraps such rows even if all other rows that are left cannot be read',
    async () => {
      await fill(store, old, orderedUserIds(6, 'm'))
      await spoilTime(backend as Dialect, test.url ?? '', 'm-000000')
      let minted = false
      const busy = overriding(store, {
        async replaceWrapped(changes) {
          const changed = await store.replaceWrapped(changes)
          if (!minted) {
            minted = true
            await store.insertIfAbsent([await mintedRow(old, 'a')])
          }
          return changed
        },
      })
      const report = await rewrapAll({ store: busy, masterKeys: both() })
      expect(report).toMatchObject({ complete: true, changed: 6, failedCount: 1 })
    },
  )

  it('ends after the current page when its signal aborts, and a second call completes', async () => {
    await fill(store, old, orderedUserIds(10))
    const signal = new AbortController()
    const first = await rewrapAll({
      store,
      masterKeys: both(),
      batchSize: 3,
      signal: signal.signal,
      onProgress: ({ done }) => done === 6 && signal.abort(),
    })
    // One page is written while the next is unwrapped.
    expect(first.complete).toBe(false)
    expect([6, 9]).toContain(first.changed)
    expect(first.after.find(({ kekId }) => kekId === fresh.id)?.count).toBe(first.changed)

    const second = await rewrapAll({ store, masterKeys: both() })
    expect(second).toMatchObject({ complete: true, changed: 10 - first.changed })
  })

  it('does nothing if its signal was aborted before', async () => {
    await fill(store, old, orderedUserIds(3))
    const report = await rewrapAll({ store, masterKeys: both(), signal: AbortSignal.abort() })
    expect(report).toMatchObject({ complete: false, changed: 0 })
    expect((await rowsOf(store)).map(kekIdOf)).toEqual([old.id, old.id, old.id])
    // It is complete if there is nothing to do.
    await rewrapAll({ store, masterKeys: both() })
    const done = await rewrapAll({ store, masterKeys: both(), signal: AbortSignal.abort() })
    expect(done).toMatchObject({ complete: true, changed: 0 })
    // It is complete too if the signal aborts after the last write.
    await fill(store, old, ['another'])
    const signal = new AbortController()
    const onProgress = ({ done }: Progress) => done > 0 && signal.abort()
    const last = await rewrapAll({ store, masterKeys: both(), signal: signal.signal, onProgress })
    expect(last).toMatchObject({ complete: true, changed: 1 })
  })

  it('ends on a store that refuses every write, and does not report that it is complete', async () => {
    await fill(store, old, orderedUserIds(3))
    const refusing = overriding(store, { replaceWrapped: async () => [] })
    const report = await rewrapAll({ store: refusing, masterKeys: both() })
    expect(report).toMatchObject({ complete: false, changed: 0 })
    expect(report.skipped).toBeGreaterThanOrEqual(3)
  })

  it('throws the error of a write, and a second call completes', async () => {
    await fill(store, old, orderedUserIds(10))
    let writes = 0
    const failing = overriding(store, {
      async replaceWrapped(changes) {
        writes += 1
        if (writes === 2) throw Object.assign(new Error('planned'), { code: 'ERR_STORE', retryable: true })
        return store.replaceWrapped(changes)
      },
    })
    await expect(rewrapAll({ store: failing, masterKeys: both(), batchSize: 3 })).rejects.toThrow('planned')
    expect(await rewrapAll({ store, masterKeys: both() })).toMatchObject({ complete: true, changed: 7 })
  })

  it('run three times at once with traffic writes each row once, and loses no key', {
    timeout: 120_000,
  }, async () => {
    const users = orderedUserIds(300)
    const minting = await test.open({ masterKeys: old })
    const sealed = await sealAll(minting, users)
    const written: KeyRef[] = []
    const runs = await Promise.all(
      [1, 2, 3].map(async () => {
        const own = await test.another()
        const counting = overriding(own, {
          async replaceWrapped(changes) {
            const changed = await own.replaceWrapped(changes)
            written.push(...changed)
            return changed
          },
        })
        return () => rewrapAll({ store: counting, masterKeys: both(), batchSize: 20 })
      }),
    )
    let running = true
    const traffic = Promise.all([0, 1].map((which) => talk(which)))
    const reports = await Promise.all(runs.map((run) => run()))
    running = false
    const said = (await traffic).flat()

    expect(reports.every(({ complete, failedCount }) => complete && failedCount === 0)).toBe(true)
    expect(reports.reduce((sum, { changed }) => sum + changed, 0)).toBe(written.length)
    expect(new Set(written.map(refKey)).size).toBe(written.length)
    expect(written.length).toBeGreaterThanOrEqual(300)
    // Old processes may have minted after the last pass of the last run.
    await rewrapAll({ store, masterKeys: both() })
    const rows = await rowsOf(store)
    expect(new Set(rows.map(kekIdOf))).toEqual(new Set([fresh.id]))
    const reader = await test.open({ masterKeys: fresh })
    await expectAllOpen(reader, [...sealed, ...said])

    /** Mints, encrypts and decrypts as a process without a cache, which has the old primary or the new one. */
    async function talk(which: number): Promise<Sealed[]> {
      const masterKeys =
        which === 0
          ? masterKeyring({ primary: old, previous: [fresh] })
          : masterKeyring({ primary: fresh, previous: [old] })
      const envelope = await test.open({ store: await test.another(), masterKeys, cache: false })
      const tokens: Sealed[] = []
      for (let round = 0; running; round += 1) {
        const known = users[(round * 7) % users.length] ?? ''
        // Ends the minting: a rewrap never completes while a process with the old primary mints.
        const minted = round < 20 ? [`new-${which}-${round}`] : []
        const some = await sealAll(envelope, [known, ...minted])
        await expectAllOpen(envelope, some)
        tokens.push(...some)
        await new Promise((resolve) => setImmediate(resolve))
      }
      return tokens
    }
  })
})

describe('rewrapAll in memory', () => {
  it('holds a bounded number of pages, however many rows there are', { timeout: 120_000 }, async () => {
    setFlagsFromString('--expose-gc')
    const collectGarbage = runInNewContext('gc') as () => void
    const test = await freshStore('memory')
    const old = localMasterKey(randomBytes(32))
    const fresh = localMasterKey(randomBytes(32))
    const row = await mintedRow(old, 'x')
    // The 20,000 rows are made when they are listed, so that pages alone are in memory; each page is watched.
    const total = 20_000
    const alive = new Set<WeakRef<object>>()
    let most = 0
    let written = 0
    const endless = overriding(test.store, {
      census: async () => [{ kekId: old.id, version: 1, shredded: false, count: total - written }],
      async list({ after, limit }) {
        const from = after === undefined ? 0 : Number(after.userId.slice(5)) + 1
        const users = orderedUserIds(total).slice(from, from + limit)
        const page = written > 0 && from === 0 ? [] : users.map((userId) => ({ ...row, userId }))
        alive.add(new WeakRef(page))
        return page
      },
      async replaceWrapped(changes) {
        written += changes.length
        collectGarbage()
        most = Math.max(most, [...alive].filter((page) => page.deref() !== undefined).length)
        return changes.map(({ userId, version }) => ({ userId, version }))
      },
    })
    const unwrapped = masterKeyring({
      primary: fresh,
      // The wrap of each row is another user's, so a key service that opens anything is needed.
      previous: [{ id: old.id, wrap: () => new Uint8Array(), unwrap: () => randomBytes(32) }],
    })
    const report = await rewrapAll({ store: endless, masterKeys: unwrapped, batchSize: 500 })
    expect(report).toMatchObject({ complete: true, changed: total })
    expect(most).toBeGreaterThan(0)
    // The current page, one being written, one read ahead, and what the collector has not yet seen.
    expect(most).toBeLessThanOrEqual(5)
    await test.remove()
  })
})
