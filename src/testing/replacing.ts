/** Conformance: replaceWrapped, the compare-and-set. */
import assert from 'node:assert/strict'
import {
  at,
  changeOf,
  type DefineTest,
  inSomeOrder,
  manyRecords,
  newKey,
  pick,
  record,
  same,
  sameRefs,
} from './fixture.js'

export function replaceTests(test: DefineTest): void {
  test('replaces wrapped key, KEK id and wrappedAt, and nothing else', async ({ store, everyRow }) => {
    const [a1, a2, b] = [record('a'), record('a', { version: 2 }), record('b', { kekId: null })]
    await store.insertIfAbsent([a1, a2, b])
    const changes = [changeOf(b), changeOf(a2, { kekId: null })]
    sameRefs(await store.replaceWrapped(changes), [a2, b])
    same(await everyRow(), [a1, { ...a2, ...pick(at(changes, 1)) }, { ...b, ...pick(at(changes, 0)) }])
  })

  test('changes only live rows that still hold the bytes that were read', async ({ store, everyRow }) => {
    const [lost, won, dead] = [record('a'), record('b'), record('c')]
    await store.insertIfAbsent([lost, won, dead])
    await store.shred('c', { forget: false })
    const before = await everyRow()
    const changes = [
      changeOf({ ...lost, encryptedKey: newKey() }),
      changeOf(won),
      changeOf(dead),
      changeOf(record('nobody')),
      changeOf({ ...won, version: 2 }),
    ]
    sameRefs(await store.replaceWrapped(changes), [won])
    same(await everyRow(), [before[0], { ...won, ...pick(at(changes, 1)) }, before[2]])
    // What a tombstone holds is known: that must not open a way.
    assert.deepEqual(await store.replaceWrapped([changeOf({ ...dead, encryptedKey: new Uint8Array(0) })]), [])
    same((await everyRow()).slice(2), before.slice(2))
  })

  test('has exactly one winner of concurrent changes', async ({ store, severalStores, rowsOf }) => {
    const stores = await severalStores()
    const row = record('a')
    await store.insertIfAbsent([row])
    const changes = Array.from({ length: 20 }, () => changeOf(row))
    const answers = await Promise.all(changes.map((change, i) => at(stores, i).replaceWrapped([change])))
    const winners = changes.filter((_, i) => answers[i]?.length === 1)
    assert.equal(winners.length, 1)
    same(await rowsOf('a'), [{ ...row, ...pick(at(winners, 0)) }])
  })

  test('changes each of 2,000 rows once for several writers in differing order', async (fixture) => {
    const stores = await fixture.severalStores()
    const rows = manyRecords(2000)
    await fixture.store.insertIfAbsent(rows)
    const batches = Array.from({ length: 4 }, (_, i) =>
      inSomeOrder(
        rows.map((row) => changeOf(row)),
        i,
      ),
    )
    const answers = await Promise.all(batches.map((batch, i) => at(stores, i).replaceWrapped(batch)))
    sameRefs(answers.flat(), rows)
    const written = new Map(
      batches.flatMap((batch, i) => {
        const won = new Set(answers[i]?.map(({ userId }) => userId))
        return batch.filter(({ userId }) => won.has(userId)).map((change) => [change.userId, change] as const)
      }),
    )
    same(
      await fixture.everyRow(),
      rows.map((row) => ({ ...row, ...pick(written.get(row.userId)) })),
    )
  })
}
