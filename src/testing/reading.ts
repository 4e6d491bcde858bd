/** Conformance: `getActive` and `getAll`, and who owns the bytes of results. */
import assert from 'node:assert/strict'
import {
  assertSameRows,
  assertSameRowsInAnyOrder,
  cloneRecord,
  type DefineTest,
  makeChange,
  makeRecord,
  makeRecords,
  makeVersions,
  ODD_IDS,
  overwrite,
  shuffled,
  writtenFields,
} from './fixture.js'

export function readingTests(test: DefineTest): void {
  test('returns a row as it was stored, to the millisecond', async ({ store }) => {
    const everyByte = Uint8Array.from({ length: 256 }, (_, byte) => byte)
    const rows = [
      makeRecord('a', { createdAt: new Date('1999-12-31T23:59:59.999Z'), kekId: null }),
      makeRecord('b', { encryptedKey: everyByte, wrappedAt: new Date('2026-03-29T01:30:00.001Z') }),
      makeRecord('c', { createdAt: new Date('2099-10-25T00:30:00.120Z'), kekId: "k'%é\u{1f600}" }),
    ]
    const ids = ['a', 'b', 'c']
    assertSameRows(await store.insertIfAbsent(rows), rows)
    assertSameRows(await store.list({ limit: 3 }), rows)
    assertSameRowsInAnyOrder([...(await store.getAll(ids)).values()].flat(), rows)
    assertSameRowsInAnyOrder([...(await store.getActive(ids)).values()], rows)
    assertSameRowsInAnyOrder(await store.sampleByKek(1), rows)
  })

  test('leaves out users without a row', async ({ store }) => {
    assert.equal((await store.getAll(['nobody'])).size, 0)
    assert.equal((await store.getActive(['nobody'])).size, 0)
    await store.insertIfAbsent([makeRecord('a')])
    assert.deepEqual([...(await store.getAll(['nobody', 'a'])).keys()], ['a'])
    assert.deepEqual([...(await store.getActive(['nobody', 'a'])).keys()], ['a'])
  })

  test('returns empty results for empty input, and from an empty store', async ({ store }) => {
    assert.equal((await store.getAll([])).size, 0)
    assert.equal((await store.getActive([])).size, 0)
    assert.deepEqual(await store.insertIfAbsent([]), [])
    assert.deepEqual(await store.replaceWrapped([]), [])
    assert.equal(await store.remove([]), 0)
    assert.deepEqual(await store.list({ limit: 1 }), [])
    assert.deepEqual(await store.sampleByKek(1), [])
    assert.deepEqual(await store.census(), [])
  })

  test('returns a user once if the id is given twice', async ({ store, rowsOf }) => {
    await store.insertIfAbsent([makeRecord('a')])
    const rows = await rowsOf('a')
    assert.equal(rows.length, 1)
    assertSameRows((await store.getAll(['a', 'b', 'a'])).get('a') ?? [], rows)
    assertSameRows([(await store.getActive(['a', 'a'])).get('a')], rows)
  })

  test('keeps unusual ids exact and distinct', async ({ store, rawRows }) => {
    const rows = ODD_IDS.map((userId) => makeRecord(userId))
    assertSameRows(await store.insertIfAbsent(rows), rows)
    const found = await store.getAll(ODD_IDS)
    const active = await store.getActive(ODD_IDS)
    for (const row of rows) {
      assertSameRows(found.get(row.userId) ?? [], [row])
      assertSameRows([active.get(row.userId)], [row])
      assertSameRows((await store.getAll([row.userId])).get(row.userId) ?? [], [row])
    }
    if (rawRows) assert.deepEqual(new Set((await rawRows()).map(({ userId }) => userId)), new Set(ODD_IDS))
  })

  test('finds 2,000 users in one call', async ({ store }) => {
    const rows = makeRecords(2000)
    await store.insertIfAbsent(rows)
    const ids = shuffled(rows).map(({ userId }) => userId)
    const found = await store.getAll(ids)
    assertSameRows(
      rows.map(({ userId }) => found.get(userId)?.[0]),
      rows,
    )
    const active = await store.getActive(ids)
    assertSameRows(
      rows.map(({ userId }) => active.get(userId)),
      rows,
    )
  })

  test('returns all versions in ascending order, and the highest as the active one', async ({
    store,
    rowsOf,
  }) => {
    const rows = makeVersions('a', 12)
    await store.insertIfAbsent(rows)
    assertSameRows(await rowsOf('a'), rows)
    assertSameRows([(await store.getActive(['a'])).get('a')], rows.slice(-1))
  })

  test('returns a tombstone as the active row, whatever its version', async ({ store }) => {
    const tombstone = { encryptedKey: new Uint8Array(0), shreddedAt: new Date() }
    await store.insertIfAbsent([makeRecord('high'), makeRecord('high', { version: 2, ...tombstone })])
    // A tombstone below a live row, as a copy or a repair by hand may leave it.
    await store.insertIfAbsent(makeVersions('low', 3))
    await store.remove([{ userId: 'low', version: 1 }])
    await store.insertIfAbsent([makeRecord('low', tombstone)])
    const active = await store.getActive(['high', 'low'])
    assert.deepEqual([active.get('high')?.version, active.get('low')?.version], [2, 1])
    assert.deepEqual(active.get('low')?.shreddedAt, tombstone.shreddedAt)
  })

  test('does not keep arrays and dates that it was given', async ({ store, everyRow }) => {
    const given = makeRecord('a', { encryptedKey: new Uint8Array(80).fill(7).subarray(10, 70) })
    const wanted = cloneRecord(given)
    await store.insertIfAbsent([given])
    overwrite([given])
    assertSameRows(await everyRow(), [wanted])

    const change = makeChange(wanted)
    const changed = cloneRecord({ ...wanted, ...writtenFields(change) })
    await store.replaceWrapped([change])
    change.encryptedKey.fill(0xff)
    change.from.fill(0xff)
    change.wrappedAt.setTime(0)
    assertSameRows(await everyRow(), [changed])
  })

  test('returns bytes and dates that the caller may change', async ({ store, everyRow }) => {
    const rows = [...makeVersions('a', 2), makeRecord('b')]
    const wanted = rows.map(cloneRecord)
    const ids = ['a', 'b']
    overwrite(await store.insertIfAbsent(rows.map(cloneRecord)))
    assertSameRows(await everyRow(), wanted)
    const reads = [
      async () => [...(await store.getAll(ids)).values()].flat(),
      async () => [...(await store.getActive(ids)).values()],
      () => store.list({ limit: 9 }),
      () => store.sampleByKek(9),
      () => store.insertIfAbsent(rows.map(cloneRecord)),
    ]
    for (const read of reads) {
      const [first, ...rest] = await read()
      const neighbours = rest.map(cloneRecord)
      overwrite([first])
      assertSameRows(rest, neighbours)
      overwrite(rest)
      assertSameRows(await everyRow(), wanted)
    }
  })
}
