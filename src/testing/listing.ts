/** Conformance: pages and their order. */
import assert from 'node:assert/strict'
import { type DefineTest, ODD_IDS, pages, record, same, shuffled, versions } from './fixture.js'

export function listTests(test: DefineTest): void {
  test('goes by the UTF-8 bytes of the id, then by version as a number', async ({ store }) => {
    const rows = ODD_IDS.flatMap((userId) => versions(userId, userId === 'a' ? 11 : 2))
    await store.insertIfAbsent(shuffled(rows))
    for (const limit of [1, 3, 1000]) same(await pages(store, { limit }), rows)
    assert.ok(ODD_IDS.indexOf('\uff5e') < ODD_IDS.indexOf('\u{1f600}'))
  })

  test('goes on after a ref that is not there any more', async ({ store }) => {
    const [a, b, c] = [record('a'), record('b'), record('c')]
    await store.insertIfAbsent([a, b, c])
    await store.remove([b])
    same(await store.list({ after: b, limit: 5 }), [c])
    same(await store.list({ after: { userId: 'a', version: 9 }, limit: 5 }), [c])
    assert.deepEqual(await store.list({ after: c, limit: 5 }), [])
  })

  test('lists tombstones, but none with notKekId, for which null is another id', async ({ store }) => {
    const rows = ['k', null, 'other', 'k', 'K', null, 'dead'].map((kekId, i) => record(`u${i}`, { kekId }))
    await store.insertIfAbsent(rows)
    await store.shred('u6', { forget: false })
    assert.equal((await pages(store, { limit: 2 })).length, 7)
    const live = rows.slice(0, 6)
    for (const limit of [1, 2, 100]) {
      same(
        await pages(store, { limit, notKekId: 'k' }),
        live.filter(({ kekId }) => kekId !== 'k'),
      )
      same(await pages(store, { limit, notKekId: 'none' }), live)
    }
  })
}
