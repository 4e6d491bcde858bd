/** Conformance: `list`, its pages and their order. */
import assert from 'node:assert/strict'
import { compareRefs } from '../table.js'
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

  test('ends a page before a ref, with every filter, whether or not its row is there', async ({ store }) => {
    const rows = ODD_IDS.flatMap((userId, i) =>
      makeVersions(userId, 3).map((row) => ({ ...row, kekId: [null, 'k', 'other'][i % 3] ?? null })),
    )
    await store.insertIfAbsent(rows)
    const filters = [{}, { kekId: 'k' }, { kekId: null }, { notKekId: 'k' }]
    const refs = ['', 'A', 'a', 'a!', '\uff5e', '\u{1f600}', '\u{10ffff}'].flatMap((userId) =>
      [0, 2, 4].map((version) => ({ userId, version })),
    )
    for (const filter of filters) {
      const listed = await listAll(store, { limit: 1000, ...filter })
      assert.ok(listed.length > 0)
      for (const before of refs)
        for (const limit of [1, 4, 1000])
          assertSameRows(
            await listAll(store, { limit, before, ...filter }),
            listed.filter((row) => compareRefs(row, before) < 0),
          )
      const between = { after: { userId: 'a', version: 1 }, before: { userId: '\uff5e', version: 2 } }
      assertSameRows(
        await store.list({ limit: 1000, ...between, ...filter }),
        listed.filter((row) => compareRefs(row, between.after) > 0 && compareRefs(row, between.before) < 0),
      )
    }
  })
}
