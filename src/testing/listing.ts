/** Conformance: `list`, its pages and their order. */
import assert from 'node:assert/strict'
import {
  assertSameRows,
  type DefineTest,
  listAll,
  makeRecord,
  makeVersions,
  ODD_IDS,
  shuffled,
} from './fixture.js'

export function listTests(test: DefineTest): void {
  test('sorts by the UTF-8 bytes of the id, then by version as a number', async ({ store }) => {
    const rows = ODD_IDS.flatMap((userId) => makeVersions(userId, userId === 'a' ? 11 : 2))
    await store.insertIfAbsent(shuffled(rows))
    for (const limit of [1, 3, 1000]) assertSameRows(await listAll(store, { limit }), rows)
    assert.ok(ODD_IDS.indexOf('\uff5e') < ODD_IDS.indexOf('\u{1f600}'))
  })

  test('continues after a ref whose row was removed', async ({ store }) => {
    const [a, b, c] = [makeRecord('a'), makeRecord('b'), makeRecord('c')]
    await store.insertIfAbsent([a, b, c])
    await store.remove([b])
    assertSameRows(await store.list({ after: b, limit: 5 }), [c])
    assertSameRows(await store.list({ after: { userId: 'a', version: 9 }, limit: 5 }), [c])
    assert.deepEqual(await store.list({ after: c, limit: 5 }), [])
  })

  test('lists tombstones, except with notKekId, which takes null for another id', async ({ store }) => {
    const rows = ['k', null, 'other', 'k', 'K', null, 'shredded'].map((kekId, i) =>
      makeRecord(`u${i}`, { kekId }),
    )
    await store.insertIfAbsent(rows)
    await store.shred('u6', { forget: false })
    assert.equal((await listAll(store, { limit: 2 })).length, 7)
    const live = rows.slice(0, 6)
    for (const limit of [1, 2, 100]) {
      assertSameRows(
        await listAll(store, { limit, notKekId: 'k' }),
        live.filter(({ kekId }) => kekId !== 'k'),
      )
      assertSameRows(await listAll(store, { limit, notKekId: 'none' }), live)
    }
  })
}
