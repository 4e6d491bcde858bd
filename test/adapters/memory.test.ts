/** The store in memory reads a page without looking at all rows. */
import { randomBytes } from 'node:crypto'
import { expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { SortedIds } from '../../src/adapters/sorted-ids.js'
import { copyKeys, type KeyStore } from '../../src/index.js'
import { compareUtf8 } from '../../src/table.js'
import { randomRecord, rowsOf } from '../support/rows.js'

async function filled(users: number): Promise<KeyStore> {
  const store = memoryKeyStore()
  await store.insertIfAbsent(
    Array.from({ length: users }, () => randomRecord(randomBytes(8).toString('hex'))),
  )
  return store
}

/** Counts the characters that are compared to put ids in order. */
async function comparedIn(work: () => Promise<unknown>): Promise<number> {
  const original = String.prototype.charCodeAt
  let calls = 0
  String.prototype.charCodeAt = function (this: string, index: number) {
    calls += 1
    return original.call(this, index)
  }
  try {
    await work()
  } finally {
    String.prototype.charCodeAt = original
  }
  return calls
}

it('a page costs as much as it has rows, wherever it begins', async () => {
  const store = await filled(5000)
  for (const userId of ['', '8', 'f'])
    expect(await comparedIn(() => store.list({ after: { userId, version: 1 }, limit: 10 }))).toBeLessThan(500)
})

it('a copy of twice as many rows costs about twice as much', async () => {
  const costOf = async (users: number) => {
    const from = await filled(users)
    return comparedIn(() => copyKeys({ from, to: memoryKeyStore(), batchSize: 20 }))
  }
  expect((await costOf(2000)) / (await costOf(1000))).toBeLessThan(3)
})

it('rows that are removed leave the pages, and come back in order', async () => {
  const store = await filled(3000)
  const before = await rowsOf(store)
  const gone = before.filter((_, index) => index % 3 !== 0)
  expect(await store.remove(gone.slice(1))).toBe(gone.length - 1)
  await store.shred(gone[0]?.userId ?? '', { forget: true })
  expect(await rowsOf(store)).toEqual(before.filter((_, index) => index % 3 === 0))
  await store.insertIfAbsent(gone.toReversed())
  expect(await rowsOf(store)).toEqual(before)
})

it('ids are in the order of their UTF-8 bytes', () => {
  const ids = new SortedIds()
  const all = Array.from({ length: 2000 }, () =>
    String.fromCodePoint(0xd000 + (randomBytes(2).readUInt16BE() % 2048)),
  )
    .concat('', '\uffff', '\u{10ffff}', '\u{10000}')
    .filter((id, index, all) => all.indexOf(id) === index && id.isWellFormed())
  for (const id of all) ids.add(id)
  expect([...ids.from('')]).toEqual(all.toSorted(compareUtf8))
  const [middle] = all as [string]
  expect([...ids.from(middle)]).toEqual(
    all.toSorted(compareUtf8).filter((id) => compareUtf8(id, middle) >= 0),
  )
  for (const id of all) ids.delete(id)
  expect([...ids.from('')]).toEqual([])
})
