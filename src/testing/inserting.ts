/** Conformance: `insertIfAbsent`, alone and in races. */
import assert from 'node:assert/strict'
import type { NewKeyRecord } from '../store.js'
import {
  assertSameRows,
  assertSameRowsInAnyOrder,
  type DefineTest,
  itemAt,
  makeRecord,
  makeRecords,
  makeVersions,
  reordered,
  shuffled,
} from './fixture.js'

export function insertTests(test: DefineTest): void {
  test('returns the stored rows in input order, and never overwrites a row', async ({ store, everyRow }) => {
    const first = makeRecords(40).filter((_, index) => index % 3 === 0)
    await store.insertIfAbsent(first)
    const late = shuffled(makeRecords(40, { kekId: 'late' }))
    const winners = await store.insertIfAbsent(late)
    const standing = new Map(first.map((row) => [row.userId, row]))
    const wanted = late.map((row) => standing.get(row.userId) ?? row)
    assertSameRows(winners, wanted)
    assertSameRowsInAnyOrder(await everyRow(), wanted)
  })

  test('inserts one row if a batch has several for the same ref', async ({ store, everyRow }) => {
    const rivals = Array.from({ length: 4 }, () => makeRecord('a'))
    const winners = await store.insertIfAbsent([...rivals, makeRecord('b')])
    const stored = await everyRow()
    assert.equal(stored.length, 2)
    const [winner, other] = stored
    assertSameRows(winners, [winner, winner, winner, winner, other])
    assert.ok(rivals.some((rival) => winner && Buffer.compare(rival.encryptedKey, winner.encryptedKey) === 0))
  })

  test('inserts a row only while another one is live, if it is to be', async ({ store, everyRow }) => {
    const tenant = (id: string) => `\u0001tenant:${id}`
    const tenants = [
      ...makeVersions(tenant('live'), 2),
      makeRecord(tenant('shredded')),
      makeRecord(tenant('gone')),
    ]
    const taken = makeRecord('taken')
    await store.insertIfAbsent([...tenants, taken])
    await store.shred(tenant('shredded'), { forget: false })
    await store.shred(tenant('gone'), { forget: true })
    const before = await everyRow()
    const { createdAt } = itemAt(tenants, 0)
    const live = { userId: tenant('live'), version: 2, createdAt }
    const another = makeRecord('e')
    const rows = [
      { ...makeRecord('a'), whileLive: live },
      { ...makeRecord('b'), whileLive: { ...live, version: 3 } },
      { ...makeRecord('c'), whileLive: { userId: tenant('shredded'), version: 1, createdAt } },
      { ...makeRecord('d'), whileLive: { userId: tenant('gone'), version: 1, createdAt } },
      another,
      { ...makeRecord('f'), whileLive: { ...live, createdAt: new Date(createdAt.getTime() + 1) } },
      // Who is there already is given out.
      { ...makeRecord('taken'), whileLive: { ...live, version: 3 } },
    ]
    const { whileLive: _, ...first } = itemAt(rows, 0) as NewKeyRecord
    assertSameRows(await store.insertIfAbsent(rows), [first, another, taken])
    const later = makeRecord('a', { version: 2 })
    assertSameRows(await store.insertIfAbsent([{ ...later, whileLive: { ...live, version: 3 } }]), [])
    assertSameRows(await store.insertIfAbsent([{ ...later, whileLive: live }]), [later])
    assertSameRowsInAnyOrder(await everyRow(), [...before, first, later, another])
  })

  test('after a removal has ended, no insert that waited for its row is made', async ({
    store,
    severalStores,
  }) => {
    const stores = await severalStores()
    const userId = '\u0001tenant:a'
    for (let round = 0; round < 20; round++) {
      const tenant = makeRecord(userId)
      await store.insertIfAbsent([tenant])
      const users = makeRecords(5, {}, `r${round}-`)
      let stood = new Map<string, unknown>()
      const removing = itemAt(stores, 1)
        .remove([tenant])
        .then(async () => {
          stood = await store.getAll(users.map((user) => user.userId))
        })
      await Promise.all([
        removing,
        ...users.map((user, i) => itemAt(stores, i).insertIfAbsent([{ ...user, whileLive: tenant }])),
      ])
      const standing = await store.getAll(users.map((user) => user.userId))
      assert.deepEqual([...standing.keys()].sort(), [...stood.keys()].sort())
    }
  })

  test('inserts version n only if version n − 1 exists, and leaves out the others', async ({
    store,
    everyRow,
  }) => {
    const a = (version: number) => makeRecord('a', { version })
    const [a1, a2, a3, a4] = [a(1), a(2), a(3), a(4)]
    const b2 = makeRecord('b', { version: 2 })
    const c1 = makeRecord('c')
    assertSameRows(await store.insertIfAbsent([b2, c1, a2]), [c1])
    assertSameRows(await store.insertIfAbsent([a1]), [a1])
    assertSameRows(await store.insertIfAbsent([a3, a2]), [a3, a2])
    assertSameRows(await store.insertIfAbsent([a4, a(6)]), [a4])
    assertSameRows(await everyRow(), [a1, a2, a3, a4, c1])
  })

  test('accepts the versions of a batch in any order', async ({ store, rowsOf }) => {
    const rows = makeVersions('a', 5)
    const mixed = shuffled(rows)
    assertSameRows(await store.insertIfAbsent([makeRecord('a', { version: 9 }), ...mixed]), mixed)
    assertSameRows(await rowsOf('a'), rows)
  })

  test('inserts nothing for a user with a tombstone, and returns the tombstone', async ({
    store,
    rowsOf,
  }) => {
    await store.insertIfAbsent([makeRecord('a')])
    for (const userId of ['a', 'unknown']) {
      await store.shred(userId, { forget: false })
      const [tombstone] = await rowsOf(userId)
      const winners = await store.insertIfAbsent(makeVersions(userId, 3))
      assertSameRows(winners, [tombstone, tombstone, tombstone])
      assertSameRows(await rowsOf(userId), [tombstone])
    }
  })

  test('has exactly one winner when many writers race', async ({ severalStores, rowsOf }) => {
    const stores = await severalStores()
    for (const userId of ['a', 'b', 'c']) {
      const rivals = Array.from({ length: 40 }, () => makeRecord(userId))
      const answers = await Promise.all(
        rivals.map((rival, i) =>
          itemAt(stores, i).insertIfAbsent([rival, makeRecord(userId, { version: 2 })]),
        ),
      )
      const stored = await rowsOf(userId)
      assert.equal(stored.length, 2)
      for (const answer of answers) assertSameRows(answer, stored)
      assert.ok(
        rivals.some((rival) => Buffer.compare(rival.encryptedKey, itemAt(stored, 0).encryptedKey) === 0),
      )
    }
  })

  test('stores 2,000 rows of several writers that send them in different orders', async ({
    severalStores,
    everyRow,
  }) => {
    const stores = await severalStores()
    const batches = Array.from({ length: 4 }, (_, i) => reordered(makeRecords(2000), i))
    const answers = await Promise.all(batches.map((batch, i) => itemAt(stores, i).insertIfAbsent(batch)))
    const stored = new Map((await everyRow()).map((row) => [row.userId, row]))
    assert.equal(stored.size, 2000)
    batches.forEach((batch, i) => {
      assertSameRows(
        itemAt(answers, i),
        batch.map(({ userId }) => stored.get(userId)),
      )
    })
  })
}
