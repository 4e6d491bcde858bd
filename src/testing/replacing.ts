/** Conformance: `replaceWrapped`, the compare-and-set. */
import assert from 'node:assert/strict'
import {
  assertSameRefs,
  assertSameRows,
  type DefineTest,
  itemAt,
  makeChange,
  makeRecord,
  makeRecords,
  makeVersions,
  makeWrappedKey,
  reordered,
  writtenFields,
} from './fixture.js'

export function replaceTests(test: DefineTest): void {
  test('replaces wrapped key, KEK id and wrappedAt, and nothing else', async ({ store, everyRow }) => {
    const [a1, a2, b] = [makeRecord('a'), makeRecord('a', { version: 2 }), makeRecord('b', { kekId: null })]
    await store.insertIfAbsent([a1, a2, b])
    const changes = [makeChange(b), makeChange(a2, { kekId: null })]
    assertSameRefs(await store.replaceWrapped(changes), [a2, b])
    assertSameRows(await everyRow(), [
      a1,
      { ...a2, ...writtenFields(itemAt(changes, 1)) },
      { ...b, ...writtenFields(itemAt(changes, 0)) },
    ])
  })

  test('changes only live rows that still hold the bytes that were read', async ({ store, everyRow }) => {
    const [lost, won, shredded] = [makeRecord('a'), makeRecord('b'), makeRecord('c')]
    await store.insertIfAbsent([lost, won, shredded])
    await store.shred('c', { forget: false })
    const before = await everyRow()
    const changes = [
      makeChange({ ...lost, encryptedKey: makeWrappedKey() }),
      makeChange(won),
      makeChange(shredded),
      makeChange(makeRecord('nobody')),
      makeChange({ ...won, version: 2 }),
    ]
    assertSameRefs(await store.replaceWrapped(changes), [won])
    assertSameRows(await everyRow(), [before[0], { ...won, ...writtenFields(itemAt(changes, 1)) }, before[2]])
    // Everybody knows that a tombstone holds no bytes: a change from no bytes must not revive it.
    assert.deepEqual(
      await store.replaceWrapped([makeChange({ ...shredded, encryptedKey: new Uint8Array(0) })]),
      [],
    )
    assertSameRows((await everyRow()).slice(2), before.slice(2))
  })

  test('a change that is made again counts again: its first answer may have been lost', async ({
    store,
    everyRow,
  }) => {
    const row = makeRecord('a')
    await store.insertIfAbsent([row])
    const change = makeChange(row)
    assertSameRefs(await store.replaceWrapped([change]), [row])
    assertSameRefs(await store.replaceWrapped([change]), [row])
    assertSameRows(await everyRow(), [{ ...row, ...writtenFields(change) }])
    // Another change from the same bytes has lost.
    assert.deepEqual(await store.replaceWrapped([makeChange(row)]), [])
  })

  test('changes a row only while another one is live, if it is to be', async ({ store, everyRow }) => {
    const tenant = (id: string) => `\u0001tenant:${id}`
    const tenants = [
      ...makeVersions(tenant('live'), 2),
      makeRecord(tenant('shredded')),
      makeRecord(tenant('gone')),
    ]
    const users = ['a', 'b', 'c', 'd', 'e', 'f', 'g'].map((id) => makeRecord(id))
    await store.insertIfAbsent([...tenants, ...users])
    await store.shred(tenant('shredded'), { forget: false })
    await store.shred(tenant('gone'), { forget: true })
    const { createdAt } = itemAt(tenants, 0)
    const whileLive = [
      { userId: tenant('live'), version: 2, createdAt },
      { userId: tenant('live'), version: 3, createdAt },
      { userId: tenant('shredded'), version: 1, createdAt },
      { userId: tenant('gone'), version: 1, createdAt },
      undefined,
      { userId: tenant('live'), version: 1, createdAt },
      { userId: tenant('live'), version: 1, createdAt: new Date(createdAt.getTime() + 1) },
    ]
    const before = await everyRow()
    const changes = users.map((user, i) => makeChange(user, { whileLive: whileLive[i] }))
    assertSameRefs(await store.replaceWrapped(changes), [
      itemAt(users, 0),
      itemAt(users, 4),
      itemAt(users, 5),
    ])
    const changed = new Map(changes.map((change) => [change.userId, change]))
    assertSameRows(
      await everyRow(),
      before.map((row) =>
        /^[aef]$/.test(row.userId) ? { ...row, ...writtenFields(changed.get(row.userId)) } : row,
      ),
    )
  })

  test('after a shred has ended, no change that waited for its row is made', async ({
    store,
    severalStores,
  }) => {
    const stores = await severalStores()
    const userId = '\u0001tenant:a'
    for (let round = 0; round < 20; round++) {
      const [tenant, users] = [makeRecord(userId), makeRecords(5, {}, `r${round}-`)]
      await store.insertIfAbsent([tenant, ...users])
      const changes = users.map((user) => makeChange(user, { whileLive: tenant }))
      let isShredded = false
      const shredding = itemAt(stores, 1)
        .shred(userId, { forget: round % 2 === 0 })
        .then(() => {
          isShredded = true
        })
      await Promise.all([
        shredding,
        ...changes.map((change, i) => itemAt(stores, i).replaceWrapped([change])),
      ])
      assert.ok(isShredded)
      assert.deepEqual(
        await store.replaceWrapped(changes.map((change) => ({ ...change, encryptedKey: makeWrappedKey() }))),
        [],
      )
      await store.shred(userId, { forget: true })
    }
  })

  test('lets exactly one of several concurrent changes win', async ({ store, severalStores, rowsOf }) => {
    const stores = await severalStores()
    const row = makeRecord('a')
    await store.insertIfAbsent([row])
    const changes = Array.from({ length: 20 }, () => makeChange(row))
    const answers = await Promise.all(changes.map((change, i) => itemAt(stores, i).replaceWrapped([change])))
    const winners = changes.filter((_, i) => answers[i]?.length === 1)
    assert.equal(winners.length, 1)
    assertSameRows(await rowsOf('a'), [{ ...row, ...writtenFields(itemAt(winners, 0)) }])
  })

  test('changes each of 2,000 rows once for several writers that send them in different orders', async (fixture) => {
    const stores = await fixture.severalStores()
    const rows = makeRecords(2000)
    await fixture.store.insertIfAbsent(rows)
    const batches = Array.from({ length: 4 }, (_, i) =>
      reordered(
        rows.map((row) => makeChange(row)),
        i,
      ),
    )
    const answers = await Promise.all(batches.map((batch, i) => itemAt(stores, i).replaceWrapped(batch)))
    assertSameRefs(answers.flat(), rows)
    const written = new Map(
      batches.flatMap((batch, i) => {
        const won = new Set(answers[i]?.map(({ userId }) => userId))
        return batch.filter(({ userId }) => won.has(userId)).map((change) => [change.userId, change] as const)
      }),
    )
    assertSameRows(
      await fixture.everyRow(),
      rows.map((row) => ({ ...row, ...writtenFields(written.get(row.userId)) })),
    )
  })
}
