/** A copy into an empty store writes all of it, and then compares both stores, whatever has changed meanwhile. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { copyKeys, type KeyPage, type KeyRecord, type KeyStore } from '../../src/index.js'
import { chosenPairs, freshStore, type TestStore } from '../support/fresh-store.js'
import { storeMaintenance } from '../support/maintenance.js'
import { randomRecord, rowsOf } from '../support/rows.js'
import { overriding } from '../support/store-doubles.js'
import { orderedUserIds } from '../support/users.js'

const ROWS = 100
const BATCH = 10

describe.each(
  chosenPairs(['sqlite', 'postgres'], ['postgres', 'sqlite'], ['sqlite', 'sqlite'], ['sqlite', 'memory']),
)('copyKeys from %s into an empty %s', (source, target) => {
  let from: TestStore
  let to: TestStore
  beforeEach(async () => {
    from = await freshStore(source)
    to = await freshStore(target)
    await from.store.insertIfAbsent(orderedUserIds(ROWS).map((userId) => randomRecord(userId, OLD)))
  })
  afterEach(async () => {
    await from.remove()
    await to.remove()
  })

  it('reads each row of the source twice, and of the target once', async () => {
    const [counted, back] = [readingOf(from.store), readingOf(to.store)]
    const report = await copyKeys({ from: counted.store, to: back.store, batchSize: BATCH })
    expect(report).toMatchObject({ copied: ROWS, equal: true, extra: 0 })
    expect(await rowsOf(to.store)).toEqual(await rowsOf(from.store))
    expect(counted.rows()).toBe(2 * ROWS)
    expect(back.rows()).toBe(ROWS)
    const again = await copyKeys({ from: from.store, to: to.store, batchSize: BATCH })
    expect(again).toMatchObject({ copied: 0, equal: true, digest: report.digest })
  })

  it('writes two pages at once, and none any more when it has failed', async () => {
    const { restore } = storeMaintenance(to.store)
    let [writing, most, calls, written] = [0, 0, 0, 0]
    const slowly = async (rows: readonly KeyRecord[], failsAt: number) => {
      calls += 1
      writing += 1
      most = Math.max(most, writing)
      const isFailing = calls === failsAt
      await new Promise((resolve) => setTimeout(resolve, isFailing ? 5 : 20))
      if (!isFailing) await restore.call(to.store.maintenance, rows)
      writing -= 1
      if (isFailing) throw new Error('an outage')
      written += rows.length
      return [...rows]
    }
    const slow = (failsAt: number) =>
      overriding(to.store, {
        maintenance: { ...storeMaintenance(to.store), restore: (rows) => slowly(rows, failsAt) },
      })
    const failing = copyKeys({ from: from.store, to: slow(3), batchSize: BATCH })
    await expect(failing).rejects.toThrow('an outage')
    expect({ writing, most, calls }).toEqual({ writing: 0, most: 2, calls: 4 })
    expect(await rowsOf(to.store)).toHaveLength(written)
    // It goes on from there.
    const missing = ROWS - written
    const report = await copyKeys({ from: from.store, to: slow(Number.NaN), batchSize: BATCH })
    expect(report).toMatchObject({ copied: missing, equal: true })
    expect(most).toBe(2)
  })

  it('refuses another key that is at the target when its page is compared', async () => {
    let isPlanted = false
    const changing = overriding(to.store, {
      async list(page) {
        if (isOfAll(page) && !isPlanted) {
          isPlanted = true
          await to.store.remove([FIFTH])
          await to.store.insertIfAbsent([randomRecord(FIFTH.userId, OLD)])
        }
        return to.store.list(page)
      },
    })
    const copying = copyKeys({ from: from.store, to: changing, batchSize: BATCH })
    const error = await copying.catch((error: unknown) => error)
    expect(error).toMatchObject({ code: 'ERR_CONFLICT', ref: FIFTH })
    expect(String(error)).toContain('what was copied before stays at the target')
    expect(await rowsOf(to.store)).toContainEqual(expect.objectContaining(FIFTH))
  })

  it('copies a row again that is gone from the target after its page was written', async () => {
    const changing = afterRead(from.store, 5, () => to.store.remove([FIFTH]))
    const report = await copyKeys({ from: changing, to: to.store, batchSize: BATCH })
    expect(report).toMatchObject({ copied: ROWS + 1, equal: true, extra: 0 })
    expect(await rowsOf(to.store)).toEqual(await rowsOf(from.store))
  })

  it('counts rows that somebody else mints at the target behind it', async () => {
    const changing = afterRead(from.store, 3, () => to.store.insertIfAbsent([randomRecord('a stranger')]))
    const report = await copyKeys({ from: changing, to: to.store, batchSize: BATCH })
    expect(report).toMatchObject({ copied: ROWS, equal: false, extra: 1 })
  })

  it('says that the stores differ where changes at the source leave all counts as they are', async () => {
    const changing = afterRead(from.store, 3, async () => {
      await from.store.remove([FIFTH])
      await from.store.insertIfAbsent([randomRecord('a new user', OLD)])
    })
    const report = await copyKeys({ from: changing, to: to.store, batchSize: BATCH })
    expect(report).toMatchObject({ copied: ROWS + 1, equal: false, extra: 1 })
    expect(report.digest.from).not.toBe(report.digest.to)
  })

  it('notices at the source, behind it, what is minted, rewrapped and shredded', async () => {
    const minted = afterRead(from.store, 3, () => from.store.insertIfAbsent([randomRecord('a new user')]))
    const report = await copyKeys({ from: minted, to: to.store, batchSize: BATCH })
    expect(report).toMatchObject({ copied: ROWS + 1, equal: true })
    expect(await rowsOf(to.store)).toEqual(await rowsOf(from.store))
    const changes: readonly ((row: KeyRecord) => Promise<unknown>)[] = [
      ({ encryptedKey, ...row }) =>
        from.store.replaceWrapped([
          {
            ...row,
            from: encryptedKey,
            encryptedKey: new Uint8Array(60),
            kekId: 'new',
            wrappedAt: new Date(),
          },
        ]),
      ({ userId }) => from.store.shred(userId, { forget: false }),
    ]
    for (const change of changes) {
      const empty = await freshStore(target)
      try {
        const [row] = (await from.store.getAll([FIFTH.userId])).get(FIFTH.userId) ?? []
        const changing = afterRead(from.store, 3, () => change(row as KeyRecord))
        const copying = copyKeys({ from: changing, to: empty.store, batchSize: BATCH })
        const error = await copying.catch((error: unknown) => error)
        expect(error).toMatchObject({ code: 'ERR_CONFLICT' })
        expect(String(error)).toContain('what was copied before stays at the target')
        expect(String(error)).not.toContain('. Nothing was written')
      } finally {
        await empty.remove()
      }
    }
  })
})

describe.each(chosenPairs(['sqlite', 'sqlite'], ['postgres', 'postgres']))('restore on %s', (backend) => {
  it('inserts what it can of many rows, and says of all what is stored', async () => {
    const { store, remove } = await freshStore(backend)
    try {
      const records = orderedUserIds(70).map((userId) => randomRecord(userId, OLD))
      const rivals = [3, 25, 69].map((at) => randomRecord((records[at] as KeyRecord).userId, OLD))
      await store.insertIfAbsent(rivals)
      await store.shred((records[45] as KeyRecord).userId, { forget: false })
      const dead = orderedUserIds(45, 'dead').map((userId) =>
        randomRecord(userId, { ...OLD, encryptedKey: new Uint8Array(0), shreddedAt: new Date(1e12) }),
      )
      const stored = await storeMaintenance(store).restore([...records, ...dead])
      const rows = await rowsOf(store)
      expect(rows).toHaveLength(70 + 45)
      expect(stored.map(({ userId }) => userId)).toEqual([...records, ...dead].map(({ userId }) => userId))
      for (const row of stored) expect(rows.find(({ userId }) => userId === row.userId)).toEqual(row)
      for (const rival of rivals) expect(stored.find(({ userId }) => userId === rival.userId)).toEqual(rival)
      expect(stored[45]?.shreddedAt).not.toBeNull()
      // Again: all of it is stored.
      expect(await storeMaintenance(store).restore([...records, ...dead])).toEqual(stored)
    } finally {
      await remove()
    }
  })

  it('inserts no live row beside a tombstone of another version, however many come together', async () => {
    const { store, remove } = await freshStore(backend)
    try {
      const ids = orderedUserIds(40)
      const live = ids.map((userId) => randomRecord(userId, OLD))
      const tombstone = { version: 2, encryptedKey: new Uint8Array(0), shreddedAt: new Date(1e12) }
      const dead = ids.slice(10, 30).map((userId) => randomRecord(userId, { ...OLD, ...tombstone }))
      await storeMaintenance(store).restore([...live, ...dead])
      const rows = await rowsOf(store)
      expect(rows.filter(({ shreddedAt }) => shreddedAt === null)).toHaveLength(20)
      expect(rows).toHaveLength(40)
    } finally {
      await remove()
    }
  })
})

const OLD = { kekId: 'old', createdAt: new Date('2026-01-02T03:04:05.678Z') }
const FIFTH = { userId: 'user-000005', version: 1 }

/** Neither the look whether the target is empty, nor that for tenants' rows before a count. */
function isOfAll({ limit, after }: KeyPage): boolean {
  return after === undefined ? limit !== 1 : !after.userId.startsWith('\u0001')
}

/** Counts the rows that pages give. */
function readingOf(store: KeyStore): { readonly store: KeyStore; rows(): number } {
  let rows = 0
  const list = async (page: KeyPage) => {
    const found = await store.list(page)
    if (isOfAll(page)) rows += found.length
    return found
  }
  return { store: overriding(store, { list }), rows: () => rows }
}

/** Does something once so many pages were read. */
function afterRead(store: KeyStore, pages: number, work: () => Promise<unknown>): KeyStore {
  let read = 0
  return overriding(store, {
    async list(page) {
      const found = await store.list(page)
      if (isOfAll(page) && ++read === pages) await work()
      return found
    },
  })
}
