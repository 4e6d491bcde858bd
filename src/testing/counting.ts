/** Conformance: `sampleByKek` and `census`. */
import assert from 'node:assert/strict'
import type { SampledRef } from '../store.js'
import { compareRefs } from '../table.js'
import {
  assertSameRows,
  assertSameRowsInAnyOrder,
  type DefineTest,
  makeRecord,
  makeRecords,
  makeVersions,
} from './fixture.js'

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

  test('samples the same for who knows some of the KEK ids, or leaves out what it names', async ({
    store,
  }) => {
    const rows = kekIds.flatMap((kekId, i) => makeRecords(i + 1, { kekId }, `${i}-`))
    await store.insertIfAbsent(rows)
    const samples = await store.sampleByKek(2)
    const known = ['k', 'unknown', "'%"]
    assertSameRowsInAnyOrder(await store.sampleByKek(2, { kekIds: known }), samples)
    const unsearched: unknown[] = []
    const onUnsearched = (part: unknown) => void unsearched.push(part)
    const found = await store.sampleByKek(2, { kekIds: known, onUnsearched })
    if (unsearched.length === 0) assertSameRowsInAnyOrder(found, samples)
    for (const row of found) assert.ok(rows.some(({ userId }) => userId === row.userId))
  })

  test('samples refs that are stored, in order, none of them twice', async ({ store }) => {
    const { maintenance } = store
    if (maintenance?.sampleRefs === undefined) return
    assert.deepEqual(await maintenance.sampleRefs(10, 0), [])
    const live = kekIds.flatMap((kekId, i) => makeRecords(100, { kekId }, `${i}-`))
    const shredded = makeRecords(20, {}, 'shredded-')
    await store.insertIfAbsent([...live, ...shredded])
    for (const { userId } of shredded) await store.shred(userId, { forget: false })
    const stored = new Map(live.map((row) => [row.userId, row.kekId]))
    for (const limit of [1, 30, 1000]) {
      const refs: readonly SampledRef[] = await maintenance.sampleRefs(limit, live.length + shredded.length)
      // A random sample may have any number, but not all at once where few are wanted, nor none where there are many.
      assert.ok(refs.length <= 4 * limit + 1, `${refs.length} of ${limit}`)
      if (limit >= 30) assert.ok(refs.length >= 8, `${refs.length} of ${limit}`)
      for (const { userId, kekId } of refs) assert.equal(kekId, stored.get(userId) ?? null)
      for (const [i, ref] of refs.entries()) {
        assert.ok(stored.has(ref.userId) && ref.version === 1)
        const before = refs[i - 1]
        if (before !== undefined) assert.ok(compareRefs(before, ref) < 0)
      }
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
