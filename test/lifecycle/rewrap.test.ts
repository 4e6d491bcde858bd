/** rewrapAll: every row gets under the new master key, every token still opens, and the report is true. */
import { randomBytes } from 'node:crypto'
import { beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import {
  census,
  type LocalMasterKey,
  localMasterKey,
  type MasterKey,
  masterKeyring,
  type Progress,
  rewrapAll,
} from '../../src/index.js'
import { itIf } from '../support/conditional.js'
import { type Dialect, temporaryFolder } from '../support/databases.js'
import { backends, freshStoreOfEachTest } from '../support/fresh-store.js'
import { copyReference, reference } from '../support/reference-file.js'
import { alterRow, corrupted, fill, rowsOf, spoilTime, v2Row } from '../support/rows.js'
import { countedStore, overriding, remoteMasterKey } from '../support/store-doubles.js'
import { expectAllOpen, sealAll } from '../support/tokens.js'
import { orderedUserIds } from '../support/users.js'

const newKey = () => localMasterKey(randomBytes(32))

describe.each(backends)('rewrapAll on %s', (backend) => {
  const { test, store } = freshStoreOfEachTest(backend)
  let old: LocalMasterKey
  let fresh: LocalMasterKey
  beforeEach(() => {
    old = newKey()
    fresh = newKey()
  })

  const both = () => masterKeyring({ primary: fresh, previous: [old] })
  const open = (masterKeys: MasterKey) => test.open({ masterKeys, accept: { tokens: ['v2'] } })

  it('brings every row under the new master key, and every token still opens', async () => {
    const sealed = await sealAll(await open(old), orderedUserIds(50))
    const rotated = await open(old)
    await rotated.rotateUserKey('user-000003')
    sealed.push(...(await sealAll(rotated, ['user-000003'])))
    await store.shred('gone', { forget: false })
    const before = await rowsOf(store)

    const report = await rewrapAll({ store, masterKeys: both(), batchSize: 7 })
    expect(report).toMatchObject({
      complete: true,
      dryRun: false,
      kekId: fresh.id,
      changed: 51,
      skipped: 0,
      failed: [],
      failedCount: 0,
    })
    const after = await rowsOf(store)
    for (const [index, row] of after.entries()) {
      const was = before[index]
      if (row.userId === 'gone') expect(row).toEqual(was)
      else {
        expect(row).toMatchObject({ userId: was?.userId, version: was?.version, createdAt: was?.createdAt })
        expect(row.kekId).toBe(fresh.id)
        expect(row.encryptedKey).not.toEqual(was?.encryptedKey)
        expect(row.wrappedAt?.getTime()).toBeGreaterThanOrEqual(was?.createdAt.getTime() ?? Number.NaN)
      }
    }
    await expectAllOpen(await open(fresh), sealed)
    // A further run finds nothing to do.
    expect(await rewrapAll({ store, masterKeys: both() })).toMatchObject({ complete: true, changed: 0 })
    expect(await rowsOf(store)).toEqual(after)
  })

  it('reports a census before and after, and for each master key whether any row needs it', async () => {
    const stranger = newKey()
    const unused = newKey()
    await fill(store, old, orderedUserIds(5))
    await fill(store, stranger, ['x', 'y'])
    await store.insertIfAbsent([v2Row(old, { userId: 'of the reference' }, { kekId: null })])
    await store.insertIfAbsent([v2Row(unused, { userId: 'v2 of ours' })])
    const masterKeys = masterKeyring({ primary: fresh, previous: [old, unused] })

    const first = await rewrapAll({ store, masterKeys })
    expect(first.before).toEqual([
      { kekId: null, version: 1, shredded: false, count: 1 },
      ...[
        { kekId: old.id, version: 1, shredded: false, count: 5 },
        { kekId: unused.v2Id, version: 1, shredded: false, count: 1 },
        { kekId: stranger.id, version: 1, shredded: false, count: 2 },
      ].sort((a, b) => (a.kekId < b.kekId ? -1 : 1)),
    ])
    expect(first.after).toEqual(await census({ store }))
    expect(first.masterKeys).toEqual([
      // A row without a KEK id may be under any local key.
      { kekId: fresh.id, primary: true, rows: 5, noRowNeedsIt: false },
      { kekId: old.id, primary: false, rows: 0, noRowNeedsIt: false },
      { kekId: unused.id, primary: false, rows: 1, noRowNeedsIt: false },
      { kekId: null, primary: false, rows: 1, noRowNeedsIt: false },
      { kekId: stranger.id, primary: false, rows: 2, noRowNeedsIt: false },
    ])
    expect(first.failed.map(({ userId, kekId, code }) => [userId, kekId, code])).toEqual([
      ['of the reference', null, 'ERR_FORMAT_NOT_ACCEPTED'],
      ['v2 of ours', unused.v2Id, 'ERR_FORMAT_NOT_ACCEPTED'],
      ['x', stranger.id, 'ERR_UNKNOWN_MASTER_KEY'],
      ['y', stranger.id, 'ERR_UNKNOWN_MASTER_KEY'],
    ])
    expect(first.warnings.join('\n')).toMatch(/Pool tokens of format v2[\s\S]*Backups/)

    const second = await rewrapAll({ store, masterKeys, accept: ['v2'] })
    expect(second).toMatchObject({ changed: 2, failedCount: 2 })
    expect(second.masterKeys.map(({ noRowNeedsIt }) => noRowNeedsIt)).toEqual([false, true, true, false])
  })

  it('reports one undecryptable row and one whose time cannot be read, and does the rest', async () => {
    await fill(store, old, orderedUserIds(40))
    await alterRow(store, { userId: 'user-000011', version: 1 }, ({ encryptedKey }) => ({
      encryptedKey: corrupted(encryptedKey),
    }))
    // A store in memory has no unreadable times.
    const unreadable = backend === 'memory' ? [] : ['user-000020', 'user-000021']
    if (backend !== 'memory')
      for (const userId of unreadable) await spoilTime(backend, test.url ?? '', userId)

    const report = await rewrapAll({ store, masterKeys: both(), batchSize: 16 })
    expect(report.failed.map(({ userId, code }) => [userId, code])).toEqual([
      ['user-000011', 'ERR_UNWRAP_FAILED'],
      ...unreadable.map((userId) => [userId, 'ERR_STORE']),
    ])
    expect(report).toMatchObject({
      complete: true,
      changed: 39 - unreadable.length,
      failedCount: 1 + unreadable.length,
    })
    // A row whose time cannot be read still needs its master key.
    expect(report.masterKeys[1]).toMatchObject({ rows: 1 + unreadable.length, noRowNeedsIt: false })
  })

  itIf(backend !== 'memory', 'in memory every time is a Date')(
    'finds a row that cannot be read by halving pages: one of 1,000 costs some ten more queries',
    async () => {
      await fill(store, old, orderedUserIds(1000))
      await spoilTime(backend as Dialect, test.url ?? '', 'user-000700')
      const counted = countedStore(store)
      expect(await rewrapAll({ store: counted.store, masterKeys: both() })).toMatchObject({
        changed: 999,
        failedCount: 1,
      })
      // Two passes: one that rewraps all other rows, and one that finds nothing more to do.
      expect(counted.calls.list).toBeLessThan(60)
    },
  )

  it('wraps in the reference’s format with format: "v2", and back', async () => {
    const sealed = await sealAll(await open(old), orderedUserIds(5))
    const down = await rewrapAll({ store, masterKeys: both(), format: 'v2', accept: ['v3'] })
    expect(down).toMatchObject({ kekId: fresh.v2Id, changed: 5, failed: [] })
    expect((await rowsOf(store)).map(({ encryptedKey }) => encryptedKey.length)).toEqual([60, 60, 60, 60, 60])
    const reader = await test.openV2({ masterKeys: fresh, accept: { tokens: ['v3'] } })
    await expectAllOpen(reader, sealed)

    const up = await rewrapAll({ store, masterKeys: fresh, accept: ['v2'] })
    expect(up).toMatchObject({ kekId: fresh.id, changed: 5, failed: [] })
    await expectAllOpen(await open(fresh), sealed)
  })

  it('takes a key service for the primary, and for a previous one', async () => {
    const service = remoteMasterKey({ id: 'service' })
    const sealed = await sealAll(await open(old), orderedUserIds(40))
    const there = await rewrapAll({ store, masterKeys: masterKeyring({ primary: service, previous: [old] }) })
    expect(there).toMatchObject({ changed: 40, failed: [], kekId: 'service' })
    expect(there.masterKeys.map(({ noRowNeedsIt }) => noRowNeedsIt)).toEqual([false, true])
    await expectAllOpen(await open(service), sealed)

    const back = await rewrapAll({
      store,
      masterKeys: masterKeyring({ primary: fresh, previous: [service] }),
    })
    expect(back).toMatchObject({ changed: 40, failed: [] })
    await expectAllOpen(await open(fresh), sealed)
  })

  it.each([
    ['other bytes', remoteMasterKey({ id: 'liar', wrap: () => randomBytes(105) })],
    [
      'another key',
      (() => {
        const honest = remoteMasterKey({ id: 'liar' })
        const wrap: MasterKey['wrap'] = (_key, aad, owner) => honest.wrap(randomBytes(32), aad, owner)
        return { ...honest, wrap }
      })(),
    ],
  ])('writes no wrap that does not open to the same key again: %s', async (_, liar) => {
    await fill(store, old, orderedUserIds(3))
    const before = await rowsOf(store)
    const report = await rewrapAll({ store, masterKeys: masterKeyring({ primary: liar, previous: [old] }) })
    expect(report).toMatchObject({ changed: 0, failedCount: 3, complete: true })
    expect(report.failed[0]).toMatchObject({
      code: 'ERR_UNWRAP_FAILED',
      reason: expect.stringContaining('The new wrap'),
    })
    expect(await rowsOf(store)).toEqual(before)
  })

  it('writes nothing in a dry run, and says what it would', async () => {
    await fill(store, old, orderedUserIds(10))
    const before = await rowsOf(store)
    let written = 0
    const watched = overriding(store, {
      replaceWrapped: async () => {
        written += 1
        return []
      },
    })
    const report = await rewrapAll({ store: watched, masterKeys: both(), dryRun: true, batchSize: 3 })
    expect(report).toMatchObject({ complete: true, dryRun: true, changed: 10, skipped: 0 })
    expect(report.after).toEqual(report.before)
    expect(await rowsOf(store)).toEqual(before)
    expect(written).toBe(0)
  })

  it('reports its progress', async () => {
    await fill(store, old, orderedUserIds(10))
    const told: Progress[] = []
    await rewrapAll({
      store,
      masterKeys: both(),
      batchSize: 4,
      onProgress: (progress) => told.push(progress),
    })
    expect(told.map(({ phase, done, total }) => [phase, done, total])).toEqual([
      ['counting', 0, 0],
      ['rewrapping', 0, 10],
      ['rewrapping', 4, 10],
      ['rewrapping', 8, 10],
      ['rewrapping', 10, 10],
      ['counting', 0, 0],
    ])
    const pages = told.filter(({ done }) => done > 0)
    for (const { rate } of pages) expect(rate).toBeGreaterThan(0)
    expect(pages.at(-1)?.etaMs).toBe(0)
    expect(pages[0]?.etaMs).toBeGreaterThan(0)
  })

  it('counts as done what another process did meanwhile', async () => {
    await fill(store, old, orderedUserIds(10))
    // Another process is done with everything once this one has its first page.
    let pages = 0
    const watched = overriding(store, {
      list: async (page) => {
        pages += 1
        if (pages === 2) await rewrapAll({ store, masterKeys: both() })
        return store.list(page)
      },
    })
    const told: Progress[] = []
    const report = await rewrapAll({
      store: watched,
      masterKeys: both(),
      batchSize: 4,
      onProgress: (progress) => told.push(progress),
    })
    expect(report).toMatchObject({ complete: true, failedCount: 0 })
    expect(report.changed).toBeLessThan(10)
    const last = told.findLast(({ phase }) => phase === 'rewrapping')
    expect(last).toMatchObject({ done: 10, total: 10 })
  })

  it('refuses wrong arguments', async () => {
    const wrong: unknown[] = [
      undefined,
      { masterKeys: fresh },
      { store, masterKeys: 'text' },
      { store, masterKeys: fresh, format: 'v4' },
      { store, masterKeys: fresh, accept: 'v2' },
      { store, masterKeys: fresh, batchSize: 0 },
      { store, masterKeys: fresh, batchSize: 5001 },
      { store, masterKeys: fresh, signal: {} },
      { store, masterKeys: fresh, onProgress: true },
      { store, masterKeys: fresh, onEvent: 'x' },
      { store, masterKeys: remoteMasterKey(), format: 'v2' },
    ]
    for (const options of wrong) {
      const run = rewrapAll(options as Parameters<typeof rewrapAll>[0])
      await expect(run, JSON.stringify(options)).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    }
    const message = await rewrapAll({ store, masterKeys: fresh, accept: ['v1'] as never }).catch(String)
    expect(message).toContain("accept must be an array of 'v3' and 'v2'")
  })

  it('upgrades the reference’s own rows, and every token of the vectors still opens', async () => {
    const folder = temporaryFolder()
    try {
      const adopted = await openKeyStore(copyReference(folder.path), { adopt: true })
      const rows = await rowsOf(adopted)
      await adopted.close()
      await store.insertIfAbsent(rows)
      const master = localMasterKey(reference.master_key_b64)

      const report = await rewrapAll({ store, masterKeys: master, accept: ['v2'] })
      expect(report).toMatchObject({ changed: rows.length, failed: [], kekId: master.id })
      for (const row of await rowsOf(store)) expect(row.encryptedKey).toHaveLength(105)
      const envelope = await open(master)
      for (const { user_id, key_hex, tokens } of reference.users) {
        expect(Buffer.from(await envelope.getOrCreateUserKey(user_id)).toString('hex')).toBe(key_hex)
        for (const { plaintext, token } of tokens)
          expect(await envelope.decrypt(user_id, token)).toBe(plaintext)
      }
    } finally {
      folder.remove()
    }
  })
})
