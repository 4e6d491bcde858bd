/** Conformance: insertIfAbsent, alone and in races. */
import assert from 'node:assert/strict'
import {
  at,
  type DefineTest,
  inSomeOrder,
  manyRecords,
  record,
  same,
  sameInAnyOrder,
  shuffled,
  versions,
} from './fixture.js'

export function insertTests(test: DefineTest): void {
  test('gives the stored rows in input order, and never overwrites one', async ({ store, everyRow }) => {
    const first = manyRecords(40).filter((_, index) => index % 3 === 0)
    await store.insertIfAbsent(first)
    const late = shuffled(manyRecords(40, { kekId: 'late' }))
    const winners = await store.insertIfAbsent(late)
    const standing = new Map(first.map((row) => [row.userId, row]))
    const wanted = late.map((row) => standing.get(row.userId) ?? row)
    same(winners, wanted)
    sameInAnyOrder(await everyRow(), wanted)
  })

  test('lets one of equal refs in one batch win', async ({ store, everyRow }) => {
    const rivals = Array.from({ length: 4 }, () => record('a'))
    const winners = await store.insertIfAbsent([...rivals, record('b')])
    const stored = await everyRow()
    assert.equal(stored.length, 2)
    const [winner, other] = stored
    same(winners, [winner, winner, winner, winner, other])
    assert.ok(rivals.some((rival) => winner && Buffer.compare(rival.encryptedKey, winner.encryptedKey) === 0))
  })

  test('inserts version n only where n − 1 stands, and leaves the others out', async ({
    store,
    everyRow,
  }) => {
    const a = (version: number) => record('a', { version })
    const [a1, a2, a3, a4] = [a(1), a(2), a(3), a(4)]
    const b2 = record('b', { version: 2 })
    const c1 = record('c')
    same(await store.insertIfAbsent([b2, c1, a2]), [c1])
    same(await store.insertIfAbsent([a1]), [a1])
    same(await store.insertIfAbsent([a3, a2]), [a3, a2])
    same(await store.insertIfAbsent([a4, a(6)]), [a4])
    same(await everyRow(), [a1, a2, a3, a4, c1])
  })

  test('takes the versions of one batch in any order', async ({ store, rowsOf }) => {
    const rows = versions('a', 5)
    const mixed = shuffled(rows)
    same(await store.insertIfAbsent([record('a', { version: 9 }), ...mixed]), mixed)
    same(await rowsOf('a'), rows)
  })

  test('inserts nothing for a user with a tombstone, which it gives instead', async ({ store, rowsOf }) => {
    await store.insertIfAbsent([record('a')])
    for (const userId of ['a', 'unknown']) {
      await store.shred(userId, { forget: false })
      const [tombstone] = await rowsOf(userId)
      const winners = await store.insertIfAbsent(versions(userId, 3))
      same(winners, [tombstone, tombstone, tombstone])
      same(await rowsOf(userId), [tombstone])
    }
  })

  test('has exactly one winner however many writers race', async ({ severalStores, rowsOf }) => {
    const stores = await severalStores()
    for (const userId of ['a', 'b', 'c']) {
      const rivals = Array.from({ length: 40 }, () => record(userId))
      const answers = await Promise.all(
        rivals.map((rival, i) => at(stores, i).insertIfAbsent([rival, record(userId, { version: 2 })])),
      )
      const stored = await rowsOf(userId)
      assert.equal(stored.length, 2)
      for (const answer of answers) same(answer, stored)
      assert.ok(rivals.some((rival) => Buffer.compare(rival.encryptedKey, at(stored, 0).encryptedKey) === 0))
    }
  })

  test('takes 2,000 rows from several writers in differing order', async ({ severalStores, everyRow }) => {
    const stores = await severalStores()
    const batches = Array.from({ length: 4 }, (_, i) => inSomeOrder(manyRecords(2000), i))
    const answers = await Promise.all(batches.map((batch, i) => at(stores, i).insertIfAbsent(batch)))
    const stored = new Map((await everyRow()).map((row) => [row.userId, row]))
    assert.equal(stored.size, 2000)
    batches.forEach((batch, i) => {
      same(
        at(answers, i),
        batch.map(({ userId }) => stored.get(userId)),
      )
    })
  })
}
