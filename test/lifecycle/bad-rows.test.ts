/** Rows that are no records, in a store of every dialect: every call that goes over all rows ends, names them, and does the rest. */
import { randomBytes } from 'node:crypto'
import Database from 'better-sqlite3'
import { beforeEach, describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { type OpenKeyStoreOptions, openKeyStore } from '../../src/adapters/open.js'
import {
  census,
  copyKeys,
  type KeyStore,
  localMasterKey,
  masterKeyring,
  rewrapAll,
  rotateWhere,
  type StoreError,
  verifyAll,
} from '../../src/index.js'
import type { UnreadableRow } from '../../src/store.js'
import { badRowsOf, plantBad } from '../support/bad-rows.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { type Dialect, dialects } from '../support/databases.js'
import { runSql } from '../support/raw-database.js'
import { fill, rowsOf, spoilTime } from '../support/rows.js'
import { overriding } from '../support/store-doubles.js'

const masterKey = localMasterKey(randomBytes(32))
const next = localMasterKey(randomBytes(32))

/** Good ids between and around the bad ones, such as U+FFFD itself, which is well formed. */
const GOOD = ['', 'a', 'alice', 'big', 'm', 'zebra', '\ufffd', '\ufffd\ufffd', '\uffff', '\u{10ffff}']

/** Two rows a page, so that each kind of row is once the last of its page; and all rows in one page. */
const SIZES = [1, 2, 1000]

/** The host's own table, which takes anything. */
const LOOSE_TABLE = `create table encryption_keys
  (user_id, version, encrypted_key, kek_id, created_at, wrapped_at, shredded_at, primary key (user_id, version))`

const OURS = 'ours'
const tables: readonly (readonly [Dialect, string])[] = dialects.flatMap((dialect) => [
  [dialect, OURS] as const,
  ...(dialect === 'sqlite' ? [[dialect, "the host's, without constraints"] as const] : []),
])

describe.each(tables)('bad rows on %s in a table that is %s', (dialect, whose) => {
  const cleanups = cleanUpAfterEach()
  const ours = whose === OURS
  const bad = badRowsOf(dialect, ours)
  const expected = bad.map(({ shown }) => shown).sort()
  let url: string
  let store: KeyStore

  beforeEach(async () => {
    url = await cleanups.database(dialect)
    const options: OpenKeyStoreOptions = ours ? {} : { migrate: 'off' }
    if (!ours) new Database(url).exec(LOOSE_TABLE).close()
    const opened = cleanups.closing(await openKeyStore(url, options))
    await fill(opened, masterKey, GOOD)
    await plantBad(dialect, url, bad)
    store = ending(opened)
  })

  /** Fails after more pages than there can be: without that, what goes round for ever would only be seen at the time-out. */
  function ending(inner: KeyStore): KeyStore {
    let calls = 0
    return overriding(inner, {
      list(page) {
        calls += 1
        if (calls > 2000) throw new Error('it goes round for ever')
        return inner.list(page)
      },
    })
  }

  const named = (
    rows: readonly { readonly userId?: string; readonly version?: number; readonly exactVersion?: string }[],
  ) => rows.map(({ userId, version, exactVersion }) => `${userId} ${exactVersion ?? version}`).sort()

  it.each(SIZES)(
    'list gives all good rows in order, and names each bad one once, %d a page',
    async (limit) => {
      const found: string[] = []
      const unreadable: { userId: string; version: number }[] = []
      const onUnreadable = ({ error, ...row }: UnreadableRow) =>
        unreadable.push({ ...row, ...(error as StoreError).ref })
      for (let page = await store.list({ limit, onUnreadable }); page.length > 0; ) {
        expect(page.length).toBeLessThanOrEqual(limit)
        found.push(...page.map(({ userId }) => userId))
        const after = page.at(-1)
        page = await store.list({
          limit,
          ...(after === undefined ? {} : { after }),
          onUnreadable,
        })
      }
      expect(found).toEqual(GOOD)
      expect(named(unreadable)).toEqual(expected)
    },
  )

  it('list without a listener fails with a bad row’s name, and with good rows alone it does not', async () => {
    await expect(rowsOf(store)).rejects.toMatchObject({
      code: 'ERR_STORE',
      ref: { version: expect.anything() },
    })
    for (const userId of GOOD.filter((userId) => userId !== '' && userId !== 'big'))
      expect((await store.getAll([userId])).get(userId)).toHaveLength(1)
  })

  it.each(SIZES)('verifyAll, %d a page', async (batchSize) => {
    const report = await verifyAll({ store, masterKeys: masterKey, batchSize })
    expect(report).toMatchObject({ complete: true, ok: false, rows: GOOD.length })
    expect(named(report.findings.filter(({ kind }) => kind === 'unreadable'))).toEqual(expected)
    expect(report.findings.filter(({ severity }) => severity === 'error')).toHaveLength(bad.length)
    // Nobody has rotated the rows whose version is none.
    expect(report.counts.nearLimit).toBeUndefined()
  })

  it.each(SIZES)('rewrapAll, %d a page', async (batchSize) => {
    const masterKeys = masterKeyring({ primary: next, previous: [masterKey] })
    const report = await rewrapAll({ store, masterKeys, batchSize })
    expect(report).toMatchObject({ changed: GOOD.length, failedCount: bad.length })
    expect(named(report.failed)).toEqual(expected)
  })

  it.each(SIZES)(
    'rotateWhere, %d a page; nobody is rotated whose highest version is not known',
    async (batchSize) => {
      const report = await rotateWhere({ store, masterKeys: masterKey, olderThanMs: 0, batchSize })
      // The pool and "big" have a bad row each.
      expect(report).toMatchObject({ complete: true, rotated: GOOD.length - 2, failedCount: bad.length })
      expect(named(report.failed)).toEqual(expected)
    },
  )

  it.each(SIZES)('copyKeys, %d a page', async (batchSize) => {
    const to = cleanups.closing(memoryKeyStore())
    const report = await copyKeys({ from: store, to, batchSize })
    expect(report).toMatchObject({
      complete: true,
      copied: GOOD.length,
      equal: false,
      failedCount: bad.length,
    })
    expect(report.digest.from).toBe(report.digest.to)
    expect(named(report.failed)).toEqual(expected)
    expect((await rowsOf(to)).map(({ userId }) => userId)).toEqual(GOOD)
  })

  it('copyKeys into the store: its bad rows stop nothing and stay', async () => {
    const from = cleanups.closing(memoryKeyStore())
    await fill(from, masterKey, ['new', 'big'])
    await fill(from, masterKey, ['big'], { version: 2 })
    const report = await copyKeys({ from, to: store })
    expect(report).toMatchObject({ complete: true, copied: 1, equal: false })
    expect(report.failed.every(({ reason }) => reason.endsWith('(at the target)'))).toBe(true)
    // Rows that failed hide none of those that only the target has.
    expect(report.extra).toBe(GOOD.length - 1)
    expect((await store.getAll(['new'])).get('new')).toHaveLength(1)
  })

  it('census counts them', async () => {
    const counted = await census({ store })
    expect(counted.reduce((sum, { count }) => sum + count, 0)).toBe(GOOD.length + bad.length)
  })
})

describe.each(dialects)('on %s', (dialect) => {
  const cleanups = cleanUpAfterEach()

  async function storeOf(): Promise<{ readonly url: string; readonly store: KeyStore }> {
    const url = await cleanups.database(dialect)
    const store = cleanups.closing(await openKeyStore(url))
    await fill(store, masterKey, ['a', 'b', 'c', 'd'])
    return { url, store }
  }

  it('a tombstone beside a live row is named by copyKeys, rotateWhere and verifyAll, and the rest goes on', async () => {
    const { url, store } = await storeOf()
    await fill(store, masterKey, ['b'], { version: 2 })
    // A backup has brought version 2 back.
    await runSql(
      dialect,
      url,
      `update encryption_keys set shredded_at = created_at, encrypted_key = ${dialect === 'sqlite' ? "x''" : "''"}
        where user_id = 'b' and version = 1`,
    )
    const live = { userId: 'b', version: 2 }
    const to = cleanups.closing(memoryKeyStore())
    const copied = await copyKeys({ from: store, to })
    expect(copied).toMatchObject({ complete: true, copied: 4, equal: false, failed: [live], failedCount: 1 })
    expect(copied.digest.from).toBe(copied.digest.to)
    expect((await rowsOf(to)).map(({ userId, shreddedAt }) => [userId, shreddedAt === null])).toEqual([
      ['a', true],
      ['b', false],
      ['c', true],
      ['d', true],
    ])
    const rotated = await rotateWhere({ store, masterKeys: masterKey, olderThanMs: 0 })
    expect(rotated).toMatchObject({ rotated: 3, shredded: 1, failed: [live], failedCount: 1 })
    const verified = await verifyAll({ store, masterKeys: masterKey })
    const found = verified.findings.filter(({ severity }) => severity === 'error')
    expect(found).toMatchObject([{ kind: 'liveAfterShred', ...live }])
  })

  it('a row whose time cannot be read is named by copyKeys, and the others are copied', async () => {
    const { url, store } = await storeOf()
    await spoilTime(dialect, url, 'b')
    const to = cleanups.closing(memoryKeyStore())
    for (const dryRun of [true, false]) {
      const report = await copyKeys({ from: store, to, dryRun })
      expect(report).toMatchObject({ copied: 3, failed: [{ userId: 'b', version: 1, code: 'ERR_STORE' }] })
    }
    expect((await rowsOf(to)).map(({ userId }) => userId)).toEqual(['a', 'c', 'd'])
  })
})
