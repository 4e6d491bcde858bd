/** Conformance: `maintenance`, if a store offers it. */
import assert from 'node:assert/strict'
import type { StoreMaintenance } from '../store.js'
import type { KeyRecord } from '../table.js'
import {
  assertSameRows,
  cloneRecord,
  type DefineTest,
  type Fixture,
  itemAt,
  makeRecord,
  makeRecords,
  makeVersions,
  ODD_IDS,
  overwrite,
  reordered,
  shuffled,
} from './fixture.js'

type DefineMaintenanceTest = (
  name: string,
  body: (maintenance: StoreMaintenance, fixture: Fixture) => Promise<void>,
) => void

export function maintenanceTests(test: DefineTest): void {
  const whereOffered: DefineMaintenanceTest = (name, body) =>
    test(name, async (fixture) => {
      const { maintenance } = fixture.store
      if (maintenance !== undefined) await body(maintenance, fixture)
    })
  restoreTests(whereOffered)
  inspectionTests(whereOffered)
}

function restoreTests(whereOffered: DefineMaintenanceTest): void {
  whereOffered('restores rows as they are, with whatever versions', async (maintenance, { everyRow }) => {
    const rows = [
      makeRecord('a', { version: 3, wrappedAt: new Date('2026-03-29T01:30:00.001Z') }),
      makeRecord('a', { version: 7, kekId: null }),
      tombstone('b', 1),
      tombstone('b', 2),
      tombstone('c', 5),
    ]
    const given = shuffled(rows)
    assertSameRows(await maintenance.restore(given), given)
    assertSameRows(await everyRow(), rows)
    assertSameRows(await maintenance.restore(given), given)
    assertSameRows(await everyRow(), rows)
    assert.deepEqual(await maintenance.restore([]), [])
  })

  whereOffered(
    'restores over no stored row, and returns the stored one',
    async (maintenance, { store, everyRow }) => {
      await store.insertIfAbsent([makeRecord('a'), ...makeVersions('b', 2)])
      await store.shred('b', { forget: false })
      const standing = await everyRow()
      const [a, b1, b2] = standing
      assertSameRows(
        await maintenance.restore([
          makeRecord('b', { version: 2 }),
          tombstone('a', 1),
          makeRecord('b'),
          makeRecord('a'),
        ]),
        [b2, a, b1, a],
      )
      assertSameRows(await everyRow(), standing)
    },
  )

  whereOffered('restores no live row of a user with a tombstone', async (maintenance, { store, rowsOf }) => {
    await store.shred('shredded', { forget: false })
    const stored = itemAt(await rowsOf('shredded'), 0)
    assertSameRows(await maintenance.restore([makeRecord('shredded', { version: 2 })]), [stored])
    // A tombstone of the same call counts too, wherever it is in the list.
    const [a2, b1] = [tombstone('a', 2), tombstone('b', 1)]
    assertSameRows(await maintenance.restore([makeRecord('a'), a2, b1, makeRecord('b', { version: 2 })]), [
      a2,
      a2,
      b1,
      b1,
    ])
    const c1 = tombstone('c', 1)
    assertSameRows(await maintenance.restore([makeRecord('c'), c1]), [c1, c1])
    for (const userId of ['shredded', 'a', 'b', 'c']) assert.equal((await rowsOf(userId)).length, 1)
    // A tombstone is inserted next to live rows, which stay.
    const live = makeRecord('d')
    await store.insertIfAbsent([live])
    const d2 = tombstone('d', 2)
    assertSameRows(await maintenance.restore([d2]), [d2])
    assertSameRows(await rowsOf('d'), [live, d2])
  })

  whereOffered(
    'stores 2,000 rows of several writers that send them in different orders',
    async (_, fixture) => {
      const stores = await fixture.severalStores()
      const batches = Array.from({ length: 4 }, (_, i) =>
        reordered([...makeRecords(1998), makeRecord('', { version: 2 }), tombstone('~', 4)], i),
      )
      const answers = await Promise.all(
        batches.map(async (batch, i) => (await itemAt(stores, i).maintenance?.restore(batch)) ?? []),
      )
      const stored = new Map((await fixture.everyRow()).map((row) => [row.userId, row]))
      assert.equal(stored.size, 2000)
      batches.forEach((batch, i) => {
        assertSameRows(
          itemAt(answers, i),
          batch.map(({ userId }) => stored.get(userId)),
        )
      })
    },
  )

  whereOffered('no live row that is restored during a shred survives it', async (_, fixture) => {
    const { store, rowsOf } = fixture
    const stores = await fixture.severalStores()
    const userIds = Array.from({ length: 60 }, (_, i) => `user ${i}`)
    await store.insertIfAbsent(userIds.slice(40).map((userId) => makeRecord(userId)))
    await Promise.all(
      userIds.flatMap((userId, i) => [
        // Without a first version there is no row that both a shred and this call would lock.
        itemAt(stores, i).maintenance?.restore([
          makeRecord(userId, { version: 2 }),
          makeRecord(userId, { version: 5 }),
        ]),
        itemAt(stores, i + 1).shred(userId, { forget: false }),
        itemAt(stores, i + 2).maintenance?.restore(
          i % 2 === 0 ? makeVersions(userId, 3) : [makeRecord(userId, { version: 3 })],
        ),
      ]),
    )
    for (const userId of userIds) {
      const rows = await rowsOf(userId)
      assert.ok(rows.length > 0)
      for (const row of rows) assert.ok(row.shreddedAt !== null && row.encryptedKey.length === 0)
    }
  })

  whereOffered('does not keep arrays and dates that it restores', async (maintenance, { everyRow }) => {
    const given = [makeRecord('a'), tombstone('b', 1)]
    const wanted = given.map(cloneRecord)
    const answer = await maintenance.restore(given)
    overwrite(given)
    assertSameRows(await everyRow(), wanted)
    overwrite(answer)
    assertSameRows(await everyRow(), wanted)
  })

  whereOffered('keeps unusual ids exact and distinct', async (maintenance, { everyRow }) => {
    const rows = ODD_IDS.map((userId) => makeRecord(userId))
    assertSameRows(await maintenance.restore(shuffled(rows)), shuffled(rows))
    assertSameRows(await everyRow(), rows)
  })
}

function inspectionTests(whereOffered: DefineMaintenanceTest): void {
  whereOffered('inspect finds no error in an intact store', async (maintenance) => {
    for (const { severity, kind, reason } of await maintenance.inspect()) {
      assert.notEqual(severity, 'error', reason)
      assert.ok(['schemaVersion', 'fileMode', 'setting', 'damage'].includes(kind))
      assert.ok(reason.length > 10)
    }
  })

  whereOffered(
    'finishErasure finishes an erasure, or says why not',
    async (maintenance, { store, everyRow }) => {
      await store.insertIfAbsent(makeVersions('a', 2))
      await store.insertIfAbsent([makeRecord('b')])
      await store.shred('a', { forget: false })
      const before = await everyRow()
      const { erased, pending } = await maintenance.finishErasure()
      if (erased === 'file') assert.equal(pending, null)
      else assert.ok(erased === 'pending' && typeof pending === 'string' && pending.length > 10)
      assertSameRows(await everyRow(), before)
    },
  )

  whereOffered('datedCensus counts what census counts, with ages', async (maintenance, { store }) => {
    assert.deepEqual(await maintenance.datedCensus(), [])
    const day = (number: number) => new Date(Date.UTC(2026, 0, number, 1, 2, 3, 4))
    await store.insertIfAbsent([
      makeRecord('a', { createdAt: day(3) }),
      makeRecord('b', { createdAt: day(1) }),
      makeRecord('c', { createdAt: day(2) }),
      makeRecord('d', { createdAt: day(9), kekId: null }),
      makeRecord('shredded', { createdAt: day(7) }),
    ])
    await store.insertIfAbsent([makeRecord('a', { version: 2, createdAt: day(8) })])
    await store.shred('shredded', { forget: false })
    const text = (row: { kekId: string | null; version: number; shredded: boolean; count: number }) =>
      `${row.kekId} ${row.version} ${row.shredded} ${row.count}`
    const dated = await maintenance.datedCensus()
    assert.deepEqual(dated.map(text).sort(), (await store.census()).map(text).sort())
    const ages = new Map(dated.map((row) => [text(row), [row.oldest, row.newest]]))
    assert.deepEqual(ages.get('k 1 false 3'), [day(1), day(3)])
    assert.deepEqual(ages.get('k 2 false 1'), [day(8), day(8)])
    assert.deepEqual(ages.get('null 1 false 1'), [day(9), day(9)])
    assert.deepEqual(ages.get('k 1 true 1'), [day(7), day(7)])
  })
}

function tombstone(userId: string, version: number): KeyRecord {
  const shreddedAt = new Date('2026-11-24T05:06:07.008Z')
  return makeRecord(userId, { version, encryptedKey: new Uint8Array(0), shreddedAt })
}
