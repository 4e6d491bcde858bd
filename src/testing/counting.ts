/** Conformance: `sampleByKek` and `census`. */
import assert from 'node:assert/strict'
import { assertSameRows, type DefineTest, makeRecord, makeRecords, makeVersions } from './fixture.js'

export function countTests(test: DefineTest): void {
  const kekIds = [null, 'k', 'K', 'k~', "'%", '\u00e9', 'e\u0301', '\uff5e', '\u{1f600}']

  test('samples up to limit live rows of each KEK id, null included', async ({ store }) => {
    // One row of the first id, two of the second …
    const rows = kekIds.flatMap((kekId, i) => makeRecords(i + 1, { kekId }, `${i}-`))
    const shreddedOnly = makeRecords(3, { kekId: 'only shredded rows' }, 'shredded-')
    const alsoShredded = makeRecords(2, { kekId: 'k' }, '!')
    await store.insertIfAbsent([...rows, ...shreddedOnly, ...alsoShredded])
    for (const { userId } of [...shreddedOnly, ...alsoShredded]) await store.shred(userId, { forget: false })
    const stored = new Map(rows.map((row) => [row.userId, row]))
    for (const limit of [1, 3, 100]) {
      const samples = await store.sampleByKek(limit)
      assertSameRows(
        samples,
        samples.map(({ userId }) => stored.get(userId)),
      )
      assert.equal(new Set(samples.map(({ userId }) => userId)).size, samples.length)
      const counts = kekIds.map((kekId) => samples.filter((row) => row.kekId === kekId).length)
      assert.deepEqual(
        counts,
        kekIds.map((_, i) => Math.min(limit, i + 1)),
      )
      assert.equal(
        samples.length,
        counts.reduce((sum, count) => sum + count),
      )
    }
  })

  test('samples nothing if all rows are tombstones', async ({ store }) => {
    await store.insertIfAbsent([makeRecord('a'), makeRecord('b', { kekId: null })])
    for (const userId of ['a', 'b', 'unknown']) await store.shred(userId, { forget: false })
    assert.deepEqual(await store.sampleByKek(5), [])
  })

  test('counts by KEK id and version, and tombstones separately', async ({ store }) => {
    const rows = [
      ...makeVersions('a', 2),
      ...makeVersions('b', 2),
      makeRecord('c'),
      makeRecord('d', { kekId: null }),
    ]
    await store.insertIfAbsent([...rows, makeRecord('e', { kekId: null }), makeRecord('f', { kekId: 'K' })])
    await store.shred('b', { forget: false })
    await store.shred('unknown', { forget: false })
    const counted = (await store.census()).map(
      ({ kekId, version, shredded, count }) => `${kekId} ${version} ${shredded} ${count}`,
    )
    const live = ['k 1 false 2', 'k 2 false 1', 'null 1 false 2', 'K 1 false 1']
    const shreddedOfK = ['k 1 true 1', 'k 2 true 1']
    assert.deepEqual(counted.sort(), [...live, ...shreddedOfK, 'null 1 true 1'].sort())
    for (const row of await store.census()) assert.equal(typeof row.count, 'number')
  })
}
