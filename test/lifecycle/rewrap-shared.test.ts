/** rewrapAll and verifyAll find data keys that were copied from one user's row to another's, which v2 wraps do not prevent. */
import { randomBytes } from 'node:crypto'
import { beforeEach, describe, expect, it } from 'vitest'
import {
  type KeyRecord,
  type LocalMasterKey,
  localMasterKey,
  masterKeyring,
  rewrapAll,
  verifyAll,
} from '../../src/index.js'
import { itIf } from '../support/conditional.js'
import { backends, freshStoreOfEachTest } from '../support/fresh-store.js'
import { alterRow, fill, rowsOf, rowsOfUser, v2Row } from '../support/rows.js'
import { countedStore, overriding, remoteMasterKey } from '../support/store-doubles.js'
import { orderedUserIds } from '../support/users.js'

describe.each(backends)('a copied data key on %s', (backend) => {
  const { store } = freshStoreOfEachTest(backend)
  let master: LocalMasterKey
  beforeEach(async () => {
    master = localMasterKey(randomBytes(32))
    const users = [...orderedUserIds(20), 'alice', 'bob']
    await store.insertIfAbsent(users.map((userId) => v2Row(master, { userId }, { kekId: null })))
  })

  const rowOf = async (userId: string) => (await rowsOfUser(store, userId))[0] as KeyRecord
  const upgrade = () => rewrapAll({ store, masterKeys: master, accept: ['v2'], batchSize: 6 })

  async function copyAlicesInto(userId: string): Promise<void> {
    const { encryptedKey } = await rowOf('alice')
    await alterRow(store, { userId, version: 1 }, () => ({ encryptedKey }))
  }

  it('is upgraded in neither row, both are reported, and all others are upgraded', async () => {
    await copyAlicesInto('bob')
    const report = await upgrade()
    expect(report).toMatchObject({ complete: true, changed: 20, failedCount: 2 })
    expect(report.failed.map(({ userId, code }) => [userId, code])).toEqual([
      ['alice', 'ERR_UNWRAP_FAILED'],
      ['bob', 'ERR_UNWRAP_FAILED'],
    ])
    expect(report.failed[0]?.reason).toContain('also the key of user "bob", version 1')
    expect(report.failed[1]?.reason).toContain('also the key of user "alice", version 1')
    const lengths = (await rowsOf(store)).map(({ userId, encryptedKey }) => [userId, encryptedKey.length])
    expect(lengths.filter(([, length]) => length !== 105)).toEqual([
      ['alice', 60],
      ['bob', 60],
    ])
    // verifyAll reports both as errors too.
    const { findings, counts } = await verifyAll({ store, masterKeys: master })
    expect(counts.sharedKey).toBe(2)
    expect(findings.filter(({ kind }) => kind === 'sharedKey').map(({ userId }) => userId)).toEqual([
      'alice',
      'bob',
    ])
    // Once the copy is removed, the other row is upgraded.
    await store.remove([{ userId: 'bob', version: 1 }])
    expect(await upgrade()).toMatchObject({ complete: true, changed: 1, failedCount: 0 })
  })

  it('is not upgraded under the second user when the first is v3 already', async () => {
    const wrapped = await rowOf('alice')
    await upgrade()
    await alterRow(store, { userId: 'bob', version: 1 }, () => ({
      encryptedKey: wrapped.encryptedKey,
      kekId: null,
      wrappedAt: null,
    }))
    const report = await upgrade()
    expect(report).toMatchObject({ complete: true, changed: 0, failedCount: 1 })
    expect(report.failed[0]).toMatchObject({
      userId: 'bob',
      reason: expect.stringContaining('user "alice", version 1'),
    })
    expect((await rowOf('bob')).encryptedKey).toEqual(wrapped.encryptedKey)
    expect((await rowOf('alice')).encryptedKey).toHaveLength(105)
  })

  it('is found though the first is v3 under a previous master key', async () => {
    const wrapped = await rowOf('alice')
    await upgrade()
    await alterRow(store, { userId: 'bob', version: 1 }, () => ({
      encryptedKey: wrapped.encryptedKey,
      kekId: master.v2Id,
      wrappedAt: null,
    }))
    const fresh = localMasterKey(randomBytes(32))
    const report = await rewrapAll({
      store,
      masterKeys: masterKeyring({ primary: fresh, previous: [master] }),
      accept: ['v2'],
    })
    // Alice's key is bound to her already, and is rewrapped under the new master key.
    expect(report).toMatchObject({ changed: 21, failedCount: 1 })
    expect(report.failed[0]?.userId).toBe('bob')
  })

  it('is not upgraded if its row has a KEK id of v3, even when no other v2 row is left', async () => {
    const wrapped = await rowOf('alice')
    await upgrade()
    await alterRow(store, { userId: 'bob', version: 1 }, () => ({
      encryptedKey: wrapped.encryptedKey,
      kekId: master.id,
      wrappedAt: null,
    }))
    const fresh = localMasterKey(randomBytes(32))
    const masterKeys = masterKeyring({ primary: fresh, previous: [master] })
    const report = await rewrapAll({ store, masterKeys, accept: ['v2'] })
    expect(report).toMatchObject({ changed: 21, failedCount: 1 })
    expect(report.failed[0]).toMatchObject({
      userId: 'bob',
      code: 'ERR_UNWRAP_FAILED',
      reason: expect.stringContaining('it was exchanged'),
    })
    expect((await rowOf('bob')).encryptedKey).toEqual(wrapped.encryptedKey)
  })

  it('is found though the first is under a key service already, after an interrupted rewrap', async () => {
    const service = remoteMasterKey({ id: 'service' })
    const wrapped = await rowOf('alice')
    const signal = new AbortController()
    const cut = overriding(store, {
      replaceWrapped(changes) {
        signal.abort()
        return store.replaceWrapped(changes)
      },
    })
    const masterKeys = masterKeyring({ primary: service, previous: [master] })
    const first = await rewrapAll({
      store: cut,
      masterKeys,
      accept: ['v2'],
      batchSize: 1,
      signal: signal.signal,
    })
    expect(first).toMatchObject({ complete: false, failedCount: 0 })
    expect((await rowOf('alice')).kekId).toBe('service')
    await alterRow(store, { userId: 'bob', version: 1 }, () => ({ ...wrapped, userId: 'bob' }))
    const report = await rewrapAll({ store, masterKeys, accept: ['v2'] })
    expect(report).toMatchObject({ complete: true, failedCount: 1 })
    expect(report.failed[0]).toMatchObject({
      userId: 'bob',
      reason: expect.stringContaining('user "alice", version 1'),
    })
    expect((await verifyAll({ store, masterKeys })).counts.sharedKey).toBe(2)
  })

  it('of many users is reported for each, with a message that names a few', async () => {
    const users = orderedUserIds(20)
    for (const userId of users) await copyAlicesInto(userId)
    const report = await upgrade()
    expect(report).toMatchObject({ changed: 1, failedCount: 21 })
    for (const { reason } of report.failed) {
      expect(reason).toContain('; and 15 more: one of them was copied')
      expect(reason.match(/user "/g)).toHaveLength(6)
    }
    const names = report.failed[3]?.reason.match(/user "[^"]*"/g) ?? []
    expect(new Set(names).size).toBe(6)
  })

  itIf(backend === 'memory', 'the comparison is the same on every store: in memory alone')(
    'of 10,000 rows costs no more than each of them',
    async () => {
      const users = orderedUserIds(10_000, 'copy')
      const { encryptedKey } = await rowOf('alice')
      await store.insertIfAbsent(
        users.map((userId) => v2Row(master, { userId }, { encryptedKey, kekId: null })),
      )
      // Pages from an array, so that the store's time does not count.
      const rows = await rowsOf(store)
      const inOrder = overriding(store, {
        list: async ({ after, limit }) => {
          const from = after === undefined ? 0 : rows.findIndex(({ userId }) => userId === after.userId) + 1
          return rows.slice(from, from + limit)
        },
      })
      const start = performance.now()
      const report = await rewrapAll({ store: inOrder, masterKeys: master, accept: ['v2'], dryRun: true })
      expect(report).toMatchObject({ changed: 21, failedCount: 10_001 })
      expect(report.failed).toHaveLength(1000)
      // It takes 0.5 s. A list of all other rows for each row would be 100,000,000 refs.
      expect(performance.now() - start).toBeLessThan(10_000)
    },
  )

  it('is not searched for if no v2 wrap is upgraded', async () => {
    await upgrade()
    await fill(store, master, ['carol'])
    const counted = countedStore(store)
    const fresh = masterKeyring({ primary: localMasterKey(randomBytes(32)), previous: [master] })
    await rewrapAll({ store: counted.store, masterKeys: fresh, accept: ['v2'] })
    // One page, and the empty one behind it.
    expect(counted.calls.list).toBe(2)
  })
})
