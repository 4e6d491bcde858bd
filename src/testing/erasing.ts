/** Conformance: `shred`, with and without `forget`, and `remove`. */
import assert from 'node:assert/strict'
import { assertSameRows, type DefineTest, itemAt, makeRecord, makeVersions, ODD_IDS } from './fixture.js'

export function erasureTests(test: DefineTest): void {
  test('a shred erases every version and reports what it erased', async ({ store, rowsOf, rawRows }) => {
    const rows = makeVersions('a', 4).map((row, i) => ({ ...row, kekId: [null, 'k', null, 'l'][i] ?? null }))
    await store.insertIfAbsent(rows)
    const before = Date.now()
    const result = await store.shred('a', { forget: false })
    assert.ok(result.at.getTime() >= before && result.at.getTime() <= Date.now())
    assert.deepEqual([result.userId, result.versions], ['a', [1, 2, 3, 4]])
    assert.deepEqual(new Set(result.kekIds), new Set([null, 'k', 'l']))
    assert.equal(result.kekIds.length, 3)
    for (const { encryptedKey, shreddedAt } of await rowsOf('a')) {
      assert.equal(encryptedKey.length, 0)
      assert.deepEqual(shreddedAt, result.at)
    }
    assert.deepEqual(
      (await rowsOf('a')).map(({ version }) => version),
      [1, 2, 3, 4],
    )
    for (const { encryptedKey } of (await rawRows?.()) ?? []) assert.equal(encryptedKey.length, 0)
  })

  test('a second shred erases nothing and changes nothing', async ({ store, rowsOf }) => {
    await store.insertIfAbsent(makeVersions('a', 2))
    await store.shred('a', { forget: false })
    const before = await rowsOf('a')
    const { versions: erased, kekIds } = await store.shred('a', { forget: false })
    assert.deepEqual([erased, kekIds], [[], []])
    assertSameRows(await rowsOf('a'), before)
  })

  test('a shred reports only the versions that were live', async ({ store, rowsOf }) => {
    await store.insertIfAbsent(makeVersions('a', 3))
    await store.remove([{ userId: 'a', version: 1 }])
    const shreddedAt = new Date('2026-01-01T00:00:00.000Z')
    await store.insertIfAbsent([makeRecord('a', { encryptedKey: new Uint8Array(0), shreddedAt })])
    assert.deepEqual((await store.shred('a', { forget: false })).versions, [2, 3])
    assert.deepEqual((await rowsOf('a'))[0]?.shreddedAt, shreddedAt)
  })

  test('a shred of a user without rows leaves a tombstone at version 1', async ({ store, rowsOf }) => {
    const result = await store.shred('unknown', { forget: false })
    assert.deepEqual([result.versions, result.kekIds], [[], []])
    const [tombstone, ...rest] = await rowsOf('unknown')
    assert.deepEqual([tombstone?.version, tombstone?.encryptedKey.length, rest], [1, 0, []])
    assert.deepEqual(tombstone?.shreddedAt, result.at)
  })

  test('a shred writes the time that it is given, and changes no tombstone', async ({ store, rowsOf }) => {
    const time = new Date('2026-01-02T03:04:05.006Z')
    await store.insertIfAbsent(makeVersions('a', 2))
    for (const userId of ['a', 'unknown']) {
      const options = { forget: false, at: new Date(time) }
      const result = await store.shred(userId, options)
      options.at.setTime(0)
      assert.deepEqual(result.at, time)
      result.at.setTime(1)
      const rows = await rowsOf(userId)
      assert.equal(rows.length, userId === 'a' ? 2 : 1)
      for (const { shreddedAt } of rows) assert.deepEqual(shreddedAt, time)
    }
    assert.deepEqual((await store.shred('gone', { forget: true, at: time })).at, time)
    // A tombstone keeps its time.
    await store.shred('a', { forget: false, at: new Date() })
    assert.deepEqual((await rowsOf('a'))[0]?.shreddedAt, time)
  })

  test('a shred reports whether the bytes are gone, and if not, why', async ({ store }) => {
    await store.insertIfAbsent(makeVersions('a', 2))
    for (const options of [{ forget: false }, { forget: false }, { forget: true }]) {
      const { erased, pending } = await store.shred('a', options)
      if (erased === 'pending') assert.ok(typeof pending === 'string' && pending.length > 10)
      else assert.equal(pending ?? null, null)
    }
  })

  test('forget removes all rows, tombstones too, and a new mint succeeds', async ({ store, everyRow }) => {
    await store.insertIfAbsent(makeVersions('a', 2))
    assert.deepEqual((await store.shred('a', { forget: true })).versions, [1, 2])
    await store.shred('shredded', { forget: false })
    assert.deepEqual((await store.shred('shredded', { forget: true })).versions, [])
    assert.deepEqual((await store.shred('unknown', { forget: true })).versions, [])
    assert.deepEqual(await everyRow(), [])
    const again = [makeRecord('a'), makeRecord('shredded'), makeRecord('unknown')]
    assertSameRows(await store.insertIfAbsent(again), again)
  })

  test('shred and remove change no other user', async ({ store, everyRow }) => {
    const rows = ODD_IDS.map((userId) => makeRecord(userId))
    await store.insertIfAbsent([...rows, makeRecord('a%', { version: 2 })])
    await store.shred('a%', { forget: true })
    await store.shred('e\u0301', { forget: true })
    assert.equal(await store.remove([makeRecord(' '), makeRecord('A', { version: 2 })]), 1)
    assertSameRows(
      await everyRow(),
      rows.filter(({ userId }) => !['a%', 'e\u0301', ' '].includes(userId)),
    )
  })

  test('no row that is inserted during a shred survives it', async ({ store, severalStores, rowsOf }) => {
    const stores = await severalStores()
    const userIds = Array.from({ length: 30 }, (_, i) => `user ${i}`)
    // Half of the users have rows already, so that shreds race with both first and further versions.
    await store.insertIfAbsent(userIds.slice(15).map((userId) => makeRecord(userId)))
    await Promise.all(
      userIds.flatMap((userId, i) => [
        itemAt(stores, i).insertIfAbsent(makeVersions(userId, 3)),
        itemAt(stores, i + 1).insertIfAbsent([makeRecord(userId), makeRecord(userId, { version: 2 })]),
        itemAt(stores, i + 2).shred(userId, { forget: false }),
        itemAt(stores, i).insertIfAbsent(makeVersions(userId, 4)),
      ]),
    )
    for (const userId of userIds) {
      const rows = await rowsOf(userId)
      assert.ok(rows.length > 0)
      for (const row of rows) assert.ok(row.shreddedAt !== null && row.encryptedKey.length === 0)
    }
  })

  test('remove returns how many rows it removed, tombstones included', async ({ store, everyRow }) => {
    const rows = [...makeVersions('a', 2), makeRecord('b'), makeRecord('c')]
    await store.insertIfAbsent(rows)
    await store.shred('b', { forget: false })
    const refs = [makeRecord('c'), makeRecord('b'), itemAt(rows, 1), itemAt(rows, 1), makeRecord('nobody')]
    assert.equal(await store.remove(refs), 3)
    assertSameRows(await everyRow(), rows.slice(0, 1))
    assert.equal(await store.remove(refs), 0)
  })
}
