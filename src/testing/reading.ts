/** Conformance: what is read, and whose bytes it is. */
import assert from 'node:assert/strict'
import {
  changeOf,
  copy,
  type DefineTest,
  manyRecords,
  ODD_IDS,
  pick,
  record,
  same,
  sameInAnyOrder,
  shuffled,
  spoil,
  versions,
} from './fixture.js'

export function readingTests(test: DefineTest): void {
  test('gives a row back as it was stored, to the millisecond', async ({ store }) => {
    const everyByte = Uint8Array.from({ length: 256 }, (_, byte) => byte)
    const rows = [
      record('a', { createdAt: new Date('1999-12-31T23:59:59.999Z'), kekId: null }),
      record('b', { encryptedKey: everyByte, wrappedAt: new Date('2026-03-29T01:30:00.001Z') }),
      record('c', { createdAt: new Date('2099-10-25T00:30:00.120Z'), kekId: "k'%é\u{1f600}" }),
    ]
    const ids = ['a', 'b', 'c']
    same(await store.insertIfAbsent(rows), rows)
    same(await store.list({ limit: 3 }), rows)
    sameInAnyOrder([...(await store.getAll(ids)).values()].flat(), rows)
    sameInAnyOrder([...(await store.getActive(ids)).values()], rows)
    sameInAnyOrder(await store.sampleByKek(1), rows)
  })

  test('leaves out users without a row', async ({ store }) => {
    assert.equal((await store.getAll(['nobody'])).size, 0)
    assert.equal((await store.getActive(['nobody'])).size, 0)
    await store.insertIfAbsent([record('a')])
    assert.deepEqual([...(await store.getAll(['nobody', 'a'])).keys()], ['a'])
    assert.deepEqual([...(await store.getActive(['nobody', 'a'])).keys()], ['a'])
  })

  test('answers with nothing when asked for nothing, or when there is nothing', async ({ store }) => {
    assert.equal((await store.getAll([])).size, 0)
    assert.equal((await store.getActive([])).size, 0)
    assert.deepEqual(await store.insertIfAbsent([]), [])
    assert.deepEqual(await store.replaceWrapped([]), [])
    assert.equal(await store.remove([]), 0)
    assert.deepEqual(await store.list({ limit: 1 }), [])
    assert.deepEqual(await store.sampleByKek(1), [])
    assert.deepEqual(await store.census(), [])
  })

  test('gives a user once who is asked for twice', async ({ store, rowsOf }) => {
    await store.insertIfAbsent([record('a')])
    const rows = await rowsOf('a')
    assert.equal(rows.length, 1)
    same((await store.getAll(['a', 'b', 'a'])).get('a') ?? [], rows)
    same([(await store.getActive(['a', 'a'])).get('a')], rows)
  })

  test('keeps odd ids exact and apart', async ({ store, rawRows }) => {
    const rows = ODD_IDS.map((userId) => record(userId))
    same(await store.insertIfAbsent(rows), rows)
    const found = await store.getAll(ODD_IDS)
    const active = await store.getActive(ODD_IDS)
    for (const row of rows) {
      same(found.get(row.userId) ?? [], [row])
      same([active.get(row.userId)], [row])
      same((await store.getAll([row.userId])).get(row.userId) ?? [], [row])
    }
    if (rawRows) assert.deepEqual(new Set((await rawRows()).map(({ userId }) => userId)), new Set(ODD_IDS))
  })

  test('finds 2,000 users at once', async ({ store }) => {
    const rows = manyRecords(2000)
    await store.insertIfAbsent(rows)
    const ids = shuffled(rows).map(({ userId }) => userId)
    const found = await store.getAll(ids)
    same(
      rows.map(({ userId }) => found.get(userId)?.[0]),
      rows,
    )
    const active = await store.getActive(ids)
    same(
      rows.map(({ userId }) => active.get(userId)),
      rows,
    )
  })

  test('gives all versions ascending, the highest as the active one', async ({ store, rowsOf }) => {
    const rows = versions('a', 12)
    await store.insertIfAbsent(rows)
    same(await rowsOf('a'), rows)
    same([(await store.getActive(['a'])).get('a')], rows.slice(-1))
  })

  test('gives a tombstone as the active row, whatever version it has', async ({ store }) => {
    const tombstone = { encryptedKey: new Uint8Array(0), shreddedAt: new Date() }
    await store.insertIfAbsent([record('high'), record('high', { version: 2, ...tombstone })])
    // A tombstone below a live row: what is left after a copy or a repair by hand.
    await store.insertIfAbsent(versions('low', 3))
    await store.remove([{ userId: 'low', version: 1 }])
    await store.insertIfAbsent([record('low', tombstone)])
    const active = await store.getActive(['high', 'low'])
    assert.deepEqual([active.get('high')?.version, active.get('low')?.version], [2, 1])
    assert.deepEqual(active.get('low')?.shreddedAt, tombstone.shreddedAt)
  })

  test('keeps nothing of what it was given', async ({ store, everyRow }) => {
    const given = record('a', { encryptedKey: new Uint8Array(80).fill(7).subarray(10, 70) })
    const wanted = copy(given)
    await store.insertIfAbsent([given])
    spoil([given])
    same(await everyRow(), [wanted])

    const change = changeOf(wanted)
    const changed = copy({ ...wanted, ...pick(change) })
    await store.replaceWrapped([change])
    change.encryptedKey.fill(0xff)
    change.from.fill(0xff)
    change.wrappedAt.setTime(0)
    same(await everyRow(), [changed])
  })

  test('gives bytes and dates that are the caller’s own', async ({ store, everyRow }) => {
    const rows = [...versions('a', 2), record('b')]
    const wanted = rows.map(copy)
    const ids = ['a', 'b']
    spoil(await store.insertIfAbsent(rows.map(copy)))
    same(await everyRow(), wanted)
    const reads = [
      async () => [...(await store.getAll(ids)).values()].flat(),
      async () => [...(await store.getActive(ids)).values()],
      () => store.list({ limit: 9 }),
      () => store.sampleByKek(9),
      () => store.insertIfAbsent(rows.map(copy)),
    ]
    for (const read of reads) {
      const [first, ...rest] = await read()
      const neighbours = rest.map(copy)
      spoil([first])
      same(rest, neighbours)
      spoil(rest)
      same(await everyRow(), wanted)
    }
  })
}
