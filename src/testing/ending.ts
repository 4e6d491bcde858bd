/** Conformance: `close`, outages, and what is durable. */
import assert from 'node:assert/strict'
import type { KeyStore } from '../store.js'
import {
  assertFailsWith,
  assertSameRows,
  type DefineTest,
  itemAt,
  makeChange,
  makeRecord,
  writtenFields,
} from './fixture.js'

type Calls = Record<string, () => Promise<unknown>>

export function endTests(test: DefineTest): void {
  const calls = (store: KeyStore, { maintenance } = store): Calls => ({
    getActive: () => store.getActive(['a']),
    getAll: () => store.getAll(['a']),
    insertIfAbsent: () => store.insertIfAbsent([makeRecord('b')]),
    replaceWrapped: () => store.replaceWrapped([makeChange(makeRecord('a'))]),
    list: () => store.list({ limit: 1 }),
    'list with notKekId': () => store.list({ limit: 1, notKekId: 'x' }),
    'list with kekId': () => store.list({ limit: 1, kekId: 'x' }),
    'list without KEK id': () => store.list({ limit: 1, kekId: null }),
    shred: () => store.shred('a', { forget: false }),
    forget: () => store.shred('a', { forget: true }),
    remove: () => store.remove([{ userId: 'a', version: 1 }]),
    sampleByKek: () => store.sampleByKek(1),
    census: () => store.census(),
    ...(maintenance && {
      restore: () => maintenance.restore([makeRecord('b')]),
      datedCensus: () => maintenance.datedCensus(),
      countUnder: () => maintenance.countUnder(['x']),
    }),
  })
  /** Calls that may report an outage as a finding instead of throwing. */
  const inspectingCalls = (store: KeyStore, { maintenance } = store): Calls => ({
    ...(maintenance && {
      inspect: () => maintenance.inspect(),
      finishErasure: () => maintenance.finishErasure(),
    }),
    ...(store.changes && { changes: async () => store.changes?.(() => undefined) }),
  })

  test('close is final, and may be called twice', async ({ store }) => {
    assert.equal(typeof store.transactional, 'boolean')
    await store.insertIfAbsent([makeRecord('a')])
    await store.close()
    await store.close()
    for (const [name, call] of Object.entries({ ...calls(store), ...inspectingCalls(store) })) {
      await assertFailsWith('ERR_CLOSED', name, call)
    }
  })

  test('an outage is an error, and never "no such key"', async ({ store, breakDown }) => {
    if (!breakDown) return
    await store.insertIfAbsent([makeRecord('a')])
    await breakDown()
    for (const [name, call] of Object.entries(calls(store))) await assertFailsWith('ERR_STORE', name, call)
  })

  test('another store finds what a call has confirmed', async ({ store, reopen }) => {
    if (!reopen) return
    const rows = [makeRecord('a'), makeRecord('b'), makeRecord('c')]
    await store.insertIfAbsent(rows)
    const change = makeChange(itemAt(rows, 1))
    await store.replaceWrapped([change])
    await store.shred('c', { forget: true })
    const other = await reopen()
    try {
      const wanted = [itemAt(rows, 0), { ...itemAt(rows, 1), ...writtenFields(change) }]
      assertSameRows(await other.list({ limit: 9 }), wanted)
      await store.close()
      assertSameRows(await other.list({ limit: 9 }), wanted)
    } finally {
      await other.close()
    }
  })
}
