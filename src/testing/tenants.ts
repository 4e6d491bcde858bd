/** Conformance: tenants' own rows, users' rows under tenants' keys, and reading the rows of one KEK id. */
import assert from 'node:assert/strict'
import { MANY_TENANTS } from '../store.js'
import type { KeyRecord } from '../table.js'
import { recordChanges } from './changing.js'
import {
  assertSameRows,
  assertSameRowsInAnyOrder,
  type DefineTest,
  listAll,
  makeChange,
  makeRecord,
  makeRecords,
  makeVersions,
} from './fixture.js'

/** Tenant ids of which some are not in the order of JavaScript's strings, and one looks like another KEK id. */
const TENANTS = ['', ';', 'a', 'b', 'tenant:1:a', '\u00e9', '\uff5e', '\u{1f600}']

/** KEK ids beside those of tenants' keys, in the order of their bytes and in that of a dictionary. */
const NEIGHBOURS = [
  'tenant',
  'tenant-x',
  'tenant;',
  'tenants',
  'Tenant:1:a',
  'tenanu',
  'TENANT',
  'tena',
  ' tenant:1:a',
]

function tenantRow(tenantId: string, given: Partial<KeyRecord> = {}): KeyRecord {
  return makeRecord(`\u0001tenant:${tenantId}`, given)
}

export function tenantTests(test: DefineTest): void {
  test('samples no tenant’s own row and no row under a tenant’s key, and leaves out no other', async ({
    store,
  }) => {
    const others = [...NEIGHBOURS, null].flatMap((kekId, i) => makeRecords(2, { kekId }, `${i}-`))
    await store.insertIfAbsent([
      ...others,
      ...TENANTS.map((id, i) => tenantRow(id, { kekId: `own-root:${i}` })),
      ...TENANTS.flatMap((id, i) => makeRecords(2, { kekId: `tenant:${i + 1}:${id}` }, `of ${i} `)),
    ])
    assertSameRowsInAnyOrder(await store.sampleByKek(5), others)
    assert.equal((await store.sampleByKek(1)).length, NEIGHBOURS.length + 1)
  })

  test('samples nothing where all rows are of tenants', async ({ store }) => {
    await store.insertIfAbsent([tenantRow('a'), makeRecord('u', { kekId: 'tenant:1:a' })])
    assert.deepEqual(await store.sampleByKek(5), [])
  })

  test('counts rows of tenants together, and tenants’ own rows by the KEK ids that are named', async ({
    store,
  }) => {
    await store.insertIfAbsent([
      ...TENANTS.map((id, i) => tenantRow(id, { kekId: `own-root:${i}` })),
      tenantRow('shared', { kekId: 'k' }),
      tenantRow('gone', { kekId: 'k' }),
      makeRecord('u', { kekId: 'k' }),
      makeRecord('gone', { kekId: 'tenant:7:gone' }),
      makeRecord('', { kekId: 'tenant;' }),
      ...TENANTS.flatMap((id, i) => makeRecords(3, { kekId: `tenant:${i + 1}:${id}` }, `of ${i} `)),
    ])
    await store.insertIfAbsent([tenantRow('a', { version: 2, kekId: 'own-root:2' })])
    for (const userId of ['gone', '\u0001tenant:gone']) await store.shred(userId, { forget: false })
    const counted = async (rootIds?: readonly string[]) => {
      const options = rootIds === undefined ? [] : [{ rootIds }]
      const text = (row: Awaited<ReturnType<typeof store.census>>[number]) =>
        `${row.kekId} ${row.version} ${row.shredded} ${row.count}${row.ofTenants === true ? ' of tenants' : ''}`
      const rows = (await store.census(...options)).map(text).sort()
      const dated = await store.maintenance?.datedCensus(...options)
      if (dated !== undefined) assert.deepEqual(dated.map(text).sort(), rows)
      return rows
    }
    const many = TENANTS.length
    const users = [
      'k 1 false 1',
      'tenant; 1 false 1',
      `${MANY_TENANTS} 1 false ${3 * many}`,
      `${MANY_TENANTS} 1 true 1`,
    ]
    assert.deepEqual(
      await counted(),
      [
        ...users,
        `${MANY_TENANTS} 1 false ${many + 1} of tenants`,
        `${MANY_TENANTS} 1 true 1 of tenants`,
        `${MANY_TENANTS} 2 false 1 of tenants`,
      ].sort(),
    )
    assert.deepEqual(
      await counted(['k', 'own-root:2', 'unused', "o'clock", 'tenant:1:a']),
      [
        ...users,
        'k 1 false 1 of tenants',
        'k 1 true 1 of tenants',
        'own-root:2 1 false 1 of tenants',
        'own-root:2 2 false 1 of tenants',
        `${MANY_TENANTS} 1 false ${many - 1} of tenants`,
      ].sort(),
    )
  })

  test('lists exactly users’ live rows of one KEK id, in pages', async ({ store }) => {
    const kekIds = [
      ...NEIGHBOURS,
      'tenant:1:a',
      'tenant:2:a',
      'tenant:10:a',
      "'%",
      '\uff5e',
      '\u{1f600}',
      null,
    ]
    const rows = new Map(
      kekIds.map((kekId, i) => [
        kekId,
        ['z', 'a', '\uff5e', '\u{1f600}', 'A'].flatMap((prefix) =>
          makeVersions(`${prefix}${i}`, 2).map((row) => ({ ...row, kekId })),
        ),
      ]),
    )
    await store.insertIfAbsent([
      ...[...rows.values()].flat(),
      ...kekIds.map((kekId, i) => tenantRow(`t${i}`, { kekId })),
      ...kekIds.map((kekId, i) => makeRecord(`shredded ${i}`, { kekId })),
    ])
    for (const i of kekIds.keys()) await store.shred(`shredded ${i}`, { forget: false })
    for (const [kekId, expected] of rows) {
      expected.sort(
        (a, b) => Buffer.compare(Buffer.from(a.userId), Buffer.from(b.userId)) || a.version - b.version,
      )
      for (const limit of [1, 3, 100]) assertSameRows(await listAll(store, { limit, kekId }), expected)
    }
    assert.deepEqual(await store.list({ limit: 5, kekId: 'unknown' }), [])
    const after = { userId: 'a0', version: 1 }
    assert.ok((await store.list({ limit: 1, kekId: 'tenant', after })).every(({ version }) => version === 2))
  })

  test('counts users’ live rows under KEK ids', async ({ store }) => {
    if (store.maintenance === undefined) return
    await store.insertIfAbsent([
      ...makeRecords(3, { kekId: 'tenant:1:a' }, 'a'),
      ...makeRecords(2, { kekId: 'k' }, 'k'),
      ...makeRecords(2, { kekId: null }, 'n'),
      tenantRow('a', { kekId: 'k' }),
      tenantRow('b', { kekId: 'root' }),
      makeRecord('shredded', { kekId: 'k' }),
    ])
    await store.shred('shredded', { forget: false })
    const counts = await store.maintenance.countUnder(['tenant:1:a', 'k', 'root', 'unknown', 'k', "'"])
    assert.deepEqual([...counts].sort(), [
      ['k', 2],
      ['tenant:1:a', 3],
    ])
    assert.deepEqual([...(await store.maintenance.countUnder([]))], [])
  })

  test('lists tenants’ own rows after the pool’s and before every user’s', async ({ store }) => {
    const tenants = TENANTS.flatMap((id) => makeVersions(`\u0001tenant:${id}`, 2))
    const all = [makeRecord(''), ...tenants, makeRecord('\u0002'), makeRecord(' '), makeRecord('tenant:a')]
    await store.insertIfAbsent([...all].reverse())
    for (const limit of [1, 7, 100]) assertSameRows(await listAll(store, { limit }), all)
    const rest = await store.list({ limit: 100, after: { userId: '\u0001', version: 0 } })
    assertSameRows(rest, all.slice(1))
  })

  test('announces the rewrap of a tenant’s own row, to others too, and of the same bytes with another time', async ({
    store,
    reopen,
  }) => {
    const recorder = await recordChanges(store)
    if (recorder === null) return
    const other = (await reopen?.()) ?? null
    try {
      for (const [index, writer] of [store, other].entries()) {
        if (writer === null) continue
        const row = tenantRow(`t${index}`)
        await writer.insertIfAbsent([row, makeRecord(`user ${index}`)])
        const moved = makeChange(row)
        for (const change of [moved, { ...moved, from: moved.encryptedKey, wrappedAt: new Date() }]) {
          recorder.reset()
          assert.equal((await writer.replaceWrapped([change])).length, 1)
          await recorder.waitFor(row.userId)
          assertSameRows(await store.list({ limit: 1, after: { userId: row.userId, version: 0 } }), [
            { ...row, encryptedKey: change.encryptedKey, kekId: change.kekId, wrappedAt: change.wrappedAt },
          ])
        }
      }
    } finally {
      recorder.end()
      await other?.close()
    }
  })

  test('announces the rewrap of a user who comes under a tenant’s key, or leaves it', async ({ store }) => {
    const recorder = await recordChanges(store)
    if (recorder === null) return
    try {
      const user = makeRecord('u')
      const tenant = tenantRow('a')
      await store.insertIfAbsent([user, tenant])
      const joins = makeChange(user, { kekId: 'tenant:1:a' })
      const leaves = makeChange(
        { ...user, encryptedKey: joins.encryptedKey },
        { kekId: 'k', whileLive: tenant },
      )
      for (const change of [joins, leaves]) {
        recorder.reset()
        assert.equal((await store.replaceWrapped([change])).length, 1)
        await recorder.waitFor('u')
      }
    } finally {
      recorder.end()
    }
  })
}
