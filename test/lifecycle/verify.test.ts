/** verifyAll: it reports each fault once, and none in a healthy store. */
import { randomBytes } from 'node:crypto'
import { chmodSync } from 'node:fs'
import { beforeEach, describe, expect, it, vi } from 'vitest'
import { LEDGER } from '../../src/adapters/migrator.js'
import {
  census,
  type LocalMasterKey,
  localMasterKey,
  masterKeyring,
  type Progress,
  type VerifyOptions,
  verifyAll,
} from '../../src/index.js'
import { backends, freshStoreOfEachTest } from '../support/fresh-store.js'
import { storeMaintenance } from '../support/maintenance.js'
import { runSql } from '../support/raw-database.js'
import {
  alterRow,
  corrupted,
  fill,
  mintedRow,
  rowsOf,
  rowsOfUser,
  spoilTime,
  v2Row,
} from '../support/rows.js'
import { overriding } from '../support/store-doubles.js'
import { orderedUserIds } from '../support/users.js'

const DAY_MS = 24 * 60 * 60 * 1000

describe.each(backends)('verifyAll on %s', (backend) => {
  const { test, store } = freshStoreOfEachTest(backend)
  let master: LocalMasterKey
  beforeEach(async () => {
    master = localMasterKey(randomBytes(32))
    const envelope = await test.open({ masterKeys: master })
    for (const userId of ['alice', 'bob', 'carol']) await envelope.encrypt(userId, 'x')
    await envelope.pool.encrypt('x')
    await envelope.rotateUserKey('alice')
    await envelope.shredUser('carol')
  })

  /** The server that tests start runs without fsync, which inspect reports. */
  const isOfTheServer = ({ kind, reason }: { kind: string; reason: string }) =>
    backend === 'postgres' && kind === 'setting' && reason.includes('fsync')

  async function verify(options: Partial<VerifyOptions> = {}) {
    const { findings, counts, ...report } = await verifyAll({ store, masterKeys: master, ...options })
    const { setting = 0, ...rest } = counts
    const ofServer = findings.filter(isOfTheServer).length
    return {
      ...report,
      counts: setting > ofServer ? { ...rest, setting: setting - ofServer } : rest,
      findings: findings.filter((finding) => !isOfTheServer(finding)),
    }
  }

  const sql = (text: string) => runSql(backend === 'memory' ? 'sqlite' : backend, test.url ?? '', text)
  const rowsOfKind = async (kind: string, options: Partial<VerifyOptions> = {}) => {
    const { ok, counts, findings } = await verify(options)
    expect(Object.keys(counts)).toEqual([kind])
    expect(findings.every((finding) => finding.kind === kind)).toBe(true)
    expect(counts[kind]).toBe(findings.length)
    const severities = new Set(findings.map(({ severity }) => severity))
    expect(severities.size).toBe(1)
    expect(ok).toBe(severities.has('warning'))
    return findings.map(({ userId, version }) => `${userId}:${version}`)
  }

  it('finds nothing in a healthy store, and changes nothing', async () => {
    const before = await rowsOf(store)
    const report = await verify()
    expect(report).toEqual({
      complete: true,
      ok: true,
      rows: 5,
      census: await census({ store }),
      masterKeys: [{ kekId: master.id, primary: true, rows: 4, noRowNeedsIt: false }],
      findings: [],
      counts: {},
    })
    expect(await rowsOf(store)).toEqual(before)
  })

  it('undecryptable: a damaged wrap, one of another row, one of another format', async () => {
    const [row] = await rowsOfUser(store, 'bob')
    await alterRow(store, { userId: 'alice', version: 2 }, ({ encryptedKey }) => ({
      encryptedKey: corrupted(encryptedKey),
    }))
    await store.insertIfAbsent([
      { ...(await mintedRow(master, 'stolen')), encryptedKey: row?.encryptedKey ?? new Uint8Array() },
    ])
    await store.insertIfAbsent([await mintedRow(master, 'short', { encryptedKey: randomBytes(7) })])
    expect(await rowsOfKind('undecryptable')).toEqual(['alice:2', 'short:1', 'stolen:1'])
    const { findings } = await verify()
    expect(findings[0]).toMatchObject({ kekId: master.id, reason: expect.stringContaining('does not open') })
  })

  it('undecryptable: a v2 wrap under a KEK id of v3', async () => {
    await store.insertIfAbsent([v2Row(master, { userId: 'exchanged' }, { kekId: master.id })])
    expect(await rowsOfKind('undecryptable')).toEqual(['exchanged:1'])
    expect((await verify()).findings[0]?.reason).toContain('exchanged')
  })

  it('unknownMasterKey: a KEK id of no given master key', async () => {
    const stranger = localMasterKey(randomBytes(32))
    await fill(store, stranger, ['x', 'y'])
    expect(await rowsOfKind('unknownMasterKey')).toEqual(['x:1', 'y:1'])
    const { masterKeys, findings } = await verify()
    expect(masterKeys.at(-1)).toEqual({ kekId: stranger.id, primary: false, rows: 2, noRowNeedsIt: false })
    expect(findings[0]?.reason).toContain(stranger.id)
    expect(
      await verify({ masterKeys: masterKeyring({ primary: master, previous: [stranger] }) }),
    ).toMatchObject({
      ok: true,
      findings: [],
    })
  })

  it('v2Wrap: a warning where v2 is accepted, an error where it is not', async () => {
    await store.insertIfAbsent([v2Row(master, { userId: 'x' }, { kekId: null })])
    await store.insertIfAbsent([v2Row(master, { userId: 'y' })])
    expect(await rowsOfKind('v2Wrap')).toEqual(['x:1', 'y:1'])
    expect(await rowsOfKind('undecryptable', { accept: ['v3'] })).toEqual(['x:1', 'y:1'])
  })

  it('sharedKey: one data key in two rows, v2 or v3, of two users or of one', async () => {
    const dataKey = randomBytes(32)
    const copies = [
      v2Row(master, { userId: 'x' }, { encryptedKey: master.wrapV2(dataKey) }),
      v2Row(master, { userId: 'y' }, { encryptedKey: master.wrapV2(dataKey), kekId: null }),
    ]
    await store.insertIfAbsent(copies)
    const { counts, ok, findings } = await verify()
    expect([counts, ok]).toEqual([{ v2Wrap: 2, sharedKey: 2 }, false])
    const found = findings.filter(({ kind }) => kind === 'sharedKey')
    expect(found.map(({ userId, severity }) => [userId, severity])).toEqual([
      ['x', 'error'],
      ['y', 'error'],
    ])
    expect(found[0]?.reason).toContain('user "y", version 1')
  })

  it('withoutFirstVersion: version 1 was pruned', async () => {
    await store.remove([{ userId: 'alice', version: 1 }])
    expect(await rowsOfKind('withoutFirstVersion')).toEqual(['alice:2'])
  })

  it('inTheFuture: a creation time by a wrong clock, with a tolerance of minutes', async () => {
    const times = [4 * 60_000, 6 * 60_000, 400 * DAY_MS].map((ms) => new Date(Date.now() + ms))
    for (const [index, createdAt] of times.entries())
      await store.insertIfAbsent([await mintedRow(master, `x-${index}`, { createdAt })])
    expect(await rowsOfKind('inTheFuture')).toEqual(['x-1:1', 'x-2:1'])
    const { findings } = await verify()
    expect(findings[0]?.reason).toContain('createdAt is in the future')
  })

  it('inTheFuture: not the rows that are minted during a run of hours', async () => {
    vi.useFakeTimers({ toFake: ['Date'] })
    try {
      const slow = overriding(store, {
        async list(page) {
          vi.setSystemTime(Date.now() + 60 * 60_000)
          const users = (await store.list({ limit: 100 })).length
          if (users < 10) await fill(store, master, [`z-${users}`])
          return store.list(page)
        },
      })
      expect(await verify({ store: slow, batchSize: 1 })).toMatchObject({ ok: true, counts: {}, rows: 10 })
    } finally {
      vi.useRealTimers()
    }
  })

  it('counts every row under a wrong master key, and lists a thousand findings of each kind', async () => {
    const createdAt = new Date(Date.now() + DAY_MS)
    await fill(store, master, orderedUserIds(1200), { createdAt })
    const { rows, counts, findings, ok } = await verify({ masterKeys: localMasterKey(randomBytes(32)) })
    expect(rows).toBe(1205)
    expect(counts).toEqual({ unknownMasterKey: 1204, inTheFuture: 1200 })
    expect(ok).toBe(false)
    expect(findings.filter(({ kind }) => kind === 'unknownMasterKey')).toHaveLength(1000)
    expect(findings.filter(({ kind }) => kind === 'inTheFuture')).toHaveLength(1000)
  })

  it('reports its progress, and is not complete when its signal aborts', async () => {
    const told: Progress[] = []
    await verify({ batchSize: 2, onProgress: (progress) => told.push(progress) })
    expect(told.at(-1)).toMatchObject({ phase: 'verifying', done: 5, total: 5 })
    const signal = new AbortController()
    const report = await verify({ batchSize: 2, signal: signal.signal, onProgress: () => signal.abort() })
    expect(report.complete).toBe(false)
    expect(report.rows).toBeLessThan(5)
    expect(await verify({ signal: AbortSignal.abort() })).toMatchObject({ complete: false, rows: 0 })
  })

  it('throws in an outage of the store, and does not count its rows as damaged', async () => {
    const down = overriding(store, {
      list: () => Promise.reject(Object.assign(new Error('down'), { code: 'ERR_STORE', retryable: true })),
    })
    await expect(verify({ store: down })).rejects.toMatchObject({ code: 'ERR_STORE' })
  })

  // The rows below can be made by SQL alone.
  if (backend === 'memory') return

  it('liveAfterShred: a live row beside a tombstone', async () => {
    await sql(
      `update encryption_keys set shredded_at = created_at, encrypted_key = ${emptyBytes()} where user_id = 'alice' and version = 1`,
    )
    expect(await rowsOfKind('liveAfterShred')).toEqual(['alice:2'])
  })

  it('shreddedButNotErased: a tombstone that holds bytes', async () => {
    await sql(`update encryption_keys set shredded_at = created_at where user_id = 'bob'`)
    expect(await rowsOfKind('shreddedButNotErased')).toEqual(['bob:1'])
  })

  it('unreadable: a time that no Date holds; all other rows are verified', async () => {
    await spoilTime(backend, test.url ?? '', 'alice', 1)
    expect(await rowsOfKind('unreadable')).toEqual(['alice:1'])
    expect((await verify()).rows).toBe(4)
  })

  it('schemaVersion: a ledger that this version does not know; no row is verified', async () => {
    await sql(
      `insert into ${LEDGER} (tag, sha256, applied_at) values ('9999_new', 'x', ${backend === 'sqlite' ? `'2026-01-01'` : 'now()'})`,
    )
    const report = await verify()
    expect(report).toMatchObject({ ok: false, complete: false, rows: 0, counts: { schemaVersion: 1 } })
  })

  if (backend !== 'sqlite') return

  it('fileMode: a file that others may read is a warning', async () => {
    chmodSync(test.url ?? '', 0o644)
    const { ok, counts } = await verify()
    expect([ok, counts]).toEqual([true, { fileMode: 1 }])
  })

  it.each([
    ['setting', true],
    ['damage', false],
  ] as const)(
    '%s: findings of the store are passed on; rows of a damaged file are not verified',
    async (kind, complete) => {
      const finding = { severity: 'error', kind, reason: 'planned' } as const
      const maintenance = { ...storeMaintenance(store), inspect: async () => [finding] }
      const report = await verify({ store: overriding(store, { maintenance }) })
      expect(report).toMatchObject({ ok: false, complete, rows: complete ? 5 : 0, findings: [finding] })
    },
  )

  function emptyBytes(): string {
    return backend === 'sqlite' ? `x''` : `''::bytea`
  }
})
