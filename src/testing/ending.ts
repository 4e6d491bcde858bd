/** Conformance: close, outages, and what outlives a store. */
import assert from 'node:assert/strict'
import type { KeyStore } from '../store.js'
import { at, changeOf, type DefineTest, failsWith, pick, record, same } from './fixture.js'

type Calls = Record<string, () => Promise<unknown>>

export function endTests(test: DefineTest): void {
  const calls = (store: KeyStore, { maintenance } = store): Calls => ({
    getActive: () => store.getActive(['a']),
    getAll: () => store.getAll(['a']),
    insertIfAbsent: () => store.insertIfAbsent([record('b')]),
    replaceWrapped: () => store.replaceWrapped([changeOf(record('a'))]),
    list: () => store.list({ limit: 1 }),
    'list with notKekId': () => store.list({ limit: 1, notKekId: 'x' }),
    shred: () => store.shred('a', { forget: false }),
    forget: () => store.shred('a', { forget: true }),
    remove: () => store.remove([{ userId: 'a', version: 1 }]),
    sampleByKek: () => store.sampleByKek(1),
    census: () => store.census(),
    ...(maintenance && {
      restore: () => maintenance.restore([record('b')]),
      datedCensus: () => maintenance.datedCensus(),
    }),
  })
  /** Whose answer to an outage may be that this is what they found. */
  const lookingCalls = (store: KeyStore, { maintenance } = store): Calls => ({
    ...(maintenance && {
      inspect: () => maintenance.inspect(),
      finishErasure: () => maintenance.finishErasure(),
    }),
    ...(store.changes && { changes: async () => store.changes?.(() => undefined) }),
  })

  test('is closed once and for all', async ({ store }) => {
    assert.equal(typeof store.transactional, 'boolean')
    await store.insertIfAbsent([record('a')])
    await store.close()
    await store.close()
    for (const [name, call] of Object.entries({ ...calls(store), ...lookingCalls(store) })) {
      await failsWith('ERR_CLOSED', name, call)
    }
  })

  test('an outage is an error, and never "no such key"', async ({ store, breakDown }) => {
    if (!breakDown) return
    await store.insertIfAbsent([record('a')])
    await breakDown()
    for (const [name, call] of Object.entries(calls(store))) await failsWith('ERR_STORE', name, call)
  })

  test('what a promise has confirmed, another store finds', async ({ store, reopen }) => {
    if (!reopen) return
    const rows = [record('a'), record('b'), record('c')]
    await store.insertIfAbsent(rows)
    const change = changeOf(at(rows, 1))
    await store.replaceWrapped([change])
    await store.shred('c', { forget: true })
    const other = await reopen()
    try {
      const wanted = [at(rows, 0), { ...at(rows, 1), ...pick(change) }]
      same(await other.list({ limit: 9 }), wanted)
      await store.close()
      same(await other.list({ limit: 9 }), wanted)
    } finally {
      await other.close()
    }
  })
}
