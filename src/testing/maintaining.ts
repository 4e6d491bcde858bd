/** Conformance: maintenance, where a store offers it. */
import assert from 'node:assert/strict'
import type { StoreMaintenance } from '../store.js'
import type { KeyRecord } from '../table.js'
import {
  at,
  copy,
  type DefineTest,
  type Fixture,
  inSomeOrder,
  manyRecords,
  ODD_IDS,
  record,
  same,
  shuffled,
  spoil,
  versions,
} from './fixture.js'

export function maintenanceTests(test: DefineTest): void {
  const whereOffered = (
    name: string,
    body: (maintenance: StoreMaintenance, fixture: Fixture) => Promise<void>,
  ) =>
    test(name, async (fixture) => {
      const { maintenance } = fixture.store
      if (maintenance !== undefined) await body(maintenance, fixture)
    })

  whereOffered(
    'restores rows as they are, whichever versions there are',
    async (maintenance, { everyRow }) => {
      const rows = [
        record('a', { version: 3, wrappedAt: new Date('2026-03-29T01:30:00.001Z') }),
        record('a', { version: 7, kekId: null }),
        tombstone('b', 1),
        tombstone('b', 2),
        tombstone('c', 5),
      ]
      const given = shuffled(rows)
      same(await maintenance.restore(given), given)
      same(await everyRow(), rows)
      same(await maintenance.restore(given), given)
      same(await everyRow(), rows)
      assert.deepEqual(await maintenance.restore([]), [])
    },
  )

  whereOffered(
    'restores over no row that stands, and gives that',
    async (maintenance, { store, everyRow }) => {
      await store.insertIfAbsent([record('a'), ...versions('b', 2)])
      await store.shred('b', { forget: false })
      const standing = await everyRow()
      const [a, b1, b2] = standing
      same(
        await maintenance.restore([record('b', { version: 2 }), tombstone('a', 1), record('b'), record('a')]),
        [b2, a, b1, a],
      )
      same(await everyRow(), standing)
    },
  )

  whereOffered('restores no live row beside a tombstone', async (maintenance, { store, rowsOf }) => {
    await store.shred('dead', { forget: false })
    const dead = at(await rowsOf('dead'), 0)
    same(await maintenance.restore([record('dead', { version: 2 })]), [dead])
    // One that comes in the same call counts, wherever it stands there.
    const [a2, b1] = [tombstone('a', 2), tombstone('b', 1)]
    same(await maintenance.restore([record('a'), a2, b1, record('b', { version: 2 })]), [a2, a2, b1, b1])
    const same1 = tombstone('c', 1)
    same(await maintenance.restore([record('c'), same1]), [same1, same1])
    for (const userId of ['dead', 'a', 'b', 'c']) assert.equal((await rowsOf(userId)).length, 1)
    // A tombstone goes in beside live rows, which stay.
    const live = record('d')
    await store.insertIfAbsent([live])
    const d2 = tombstone('d', 2)
    same(await maintenance.restore([d2]), [d2])
    same(await rowsOf('d'), [live, d2])
  })

  whereOffered('takes 2,000 rows from several writers in differing order', async (_, fixture) => {
    const stores = await fixture.severalStores()
    const batches = Array.from({ length: 4 }, (_, i) =>
      inSomeOrder([...manyRecords(1998), record('', { version: 2 }), tombstone('~', 4)], i),
    )
    const answers = await Promise.all(
      batches.map(async (batch, i) => (await at(stores, i).maintenance?.restore(batch)) ?? []),
    )
    const stored = new Map((await fixture.everyRow()).map((row) => [row.userId, row]))
    assert.equal(stored.size, 2000)
    batches.forEach((batch, i) => {
      same(
        at(answers, i),
        batch.map(({ userId }) => stored.get(userId)),
      )
    })
  })

  whereOffered('no row that is restored while its user is shredded survives', async (_, fixture) => {
    const { store, rowsOf } = fixture
    const stores = await fixture.severalStores()
    const userIds = Array.from({ length: 60 }, (_, i) => `user ${i}`)
    await store.insertIfAbsent(userIds.slice(40).map((userId) => record(userId)))
    await Promise.all(
      userIds.flatMap((userId, i) => [
        // A user without a first version has no row that a shred and this could meet at.
        at(stores, i).maintenance?.restore([record(userId, { version: 2 }), record(userId, { version: 5 })]),
        at(stores, i + 1).shred(userId, { forget: false }),
        at(stores, i + 2).maintenance?.restore(
          i % 2 === 0 ? versions(userId, 3) : [record(userId, { version: 3 })],
        ),
      ]),
    )
    for (const userId of userIds) {
      const rows = await rowsOf(userId)
      assert.ok(rows.length > 0)
      for (const row of rows) assert.ok(row.shreddedAt !== null && row.encryptedKey.length === 0)
    }
  })

  whereOffered('keeps nothing of what it restores', async (maintenance, { everyRow }) => {
    const given = [record('a'), tombstone('b', 1)]
    const wanted = given.map(copy)
    const answer = await maintenance.restore(given)
    spoil(given)
    same(await everyRow(), wanted)
    spoil(answer)
    same(await everyRow(), wanted)
  })

  whereOffered('keeps odd ids exact and apart', async (maintenance, { everyRow }) => {
    const rows = ODD_IDS.map((userId) => record(userId))
    same(await maintenance.restore(shuffled(rows)), shuffled(rows))
    same(await everyRow(), rows)
  })

  whereOffered('finds no error in a store that is as it should be', async (maintenance) => {
    for (const { severity, kind, reason } of await maintenance.inspect()) {
      assert.equal(severity, 'warning', reason)
      assert.ok(['schemaVersion', 'fileMode', 'setting', 'damage'].includes(kind))
      assert.ok(reason.length > 10)
    }
  })

  whereOffered('finishes an erasure, or says why not', async (maintenance, { store, everyRow }) => {
    await store.insertIfAbsent(versions('a', 2))
    await store.insertIfAbsent([record('b')])
    await store.shred('a', { forget: false })
    const before = await everyRow()
    const { erased, pending } = await maintenance.finishErasure()
    if (erased === 'file') assert.equal(pending, null)
    else assert.ok(erased === 'pending' && typeof pending === 'string' && pending.length > 10)
    same(await everyRow(), before)
  })

  whereOffered('counts with ages what census counts', async (maintenance, { store }) => {
    assert.deepEqual(await maintenance.datedCensus(), [])
    const day = (number: number) => new Date(Date.UTC(2026, 0, number, 1, 2, 3, 4))
    await store.insertIfAbsent([
      record('a', { createdAt: day(3) }),
      record('b', { createdAt: day(1) }),
      record('c', { createdAt: day(2) }),
      record('d', { createdAt: day(9), kekId: null }),
      record('dead', { createdAt: day(7) }),
    ])
    await store.insertIfAbsent([record('a', { version: 2, createdAt: day(8) })])
    await store.shred('dead', { forget: false })
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
  return record(userId, { version, encryptedKey: new Uint8Array(0), shreddedAt })
}
