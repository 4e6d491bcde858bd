/** What a shred on SQLite says of erased bytes is true of the files. */
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { type SqliteKeyStore, sqliteKeyStore } from '../../../src/adapters/sqlite/store.js'
import type { KeyRecord, KeyStore, WrapChange } from '../../../src/index.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { contentsOf, countRemains, ERASED, keysOf, pending } from '../../support/erased-bytes.js'
import { withLongestStall } from '../../support/event-loop.js'
import { REFERENCE_SQL, REFERENCE_TIME } from '../../support/reference-file.js'
import { randomRecord } from '../../support/rows.js'

const USERS = 3000
const SHREDDED = 1000
const FINISH = 'call `store.maintenance.finishErasure()`, or run `npx keystore doctor --finish-erasure`'

function at<T>(items: readonly T[], index: number): T {
  const item = items[index]
  if (item === undefined) throw new Error(`there is no item ${index}`)
  return item
}

/** A rewrap to a longer wrapped key, as from format v2 to v3. */
function rewrapOf({ userId, version, encryptedKey }: KeyRecord, round: number): WrapChange {
  const kekId = `local:${'x'.repeat(16)}${round}`
  return {
    userId,
    version,
    from: encryptedKey,
    encryptedKey: randomBytes(105),
    kekId,
    wrappedAt: new Date(),
  }
}

/**
 * The life of a store: users minted in random order, most of them rewrapped once and some twice, a third of them shredded.
 *
 * @returns all wrapped keys that shredded users ever had, and the present ones of the others
 */
async function liveAndShred(store: KeyStore): Promise<{ shredded: Uint8Array[]; standing: Uint8Array[] }> {
  const rows = Array.from({ length: USERS }, () => randomRecord(randomBytes(9).toString('base64url')))
  for (let at = 0; at < rows.length; at += 250) await store.insertIfAbsent(rows.slice(at, at + 250))
  const once = rows.slice(0, 2500).map((row) => rewrapOf(row, 1))
  await store.replaceWrapped(once)
  const twice = once.slice(0, 800).map((change) => rewrapOf({ ...randomRecord(''), ...change }, 2))
  for (let at = 0; at < twice.length; at += 100) await store.replaceWrapped(twice.slice(at, at + 100))
  const erased = new Set(rows.filter((_, index) => index % 3 === 0).map(({ userId }) => userId))
  expect(erased.size).toBe(SHREDDED)
  const users = [...erased]
  for (let at = 0; at < users.length; at += 100) {
    const group = users.slice(at, at + 100)
    await Promise.all(group.map((userId) => store.shred(userId, { forget: userId < 'V' })))
  }
  const all = [...rows, ...once, ...twice]
  return {
    shredded: keysOf(all.filter(({ userId }) => erased.has(userId))),
    standing: keysOf((await store.list({ limit: USERS })).filter(({ shreddedAt }) => shreddedAt === null)),
  }
}

describe.runIf(isChosen('sqlite'))('SQLite', () => {
  const cleanups = cleanUpAfterEach()
  let folder: string
  let path: string
  beforeEach(() => {
    folder = cleanups.folder()
    path = join(folder, 'keystore.db')
  })
  // Runs before the clean-ups, which need the true methods.
  afterEach(() => void vi.restoreAllMocks())

  const open = (at = path, options = {}): SqliteKeyStore =>
    cleanups.closing(sqliteKeyStore({ path: at }, options))
  const connect = () => cleanups.closing(new Database(path))
  /** How many of the keys are still in the files. */
  const remains = (keys: readonly Uint8Array[]) => countRemains(contentsOf(folder), keys)

  it('a file of our own holds no byte of a shredded key, old or new, when the shred has returned', async () => {
    const store = open()
    const { shredded, standing } = await liveAndShred(store)
    expect(remains(shredded)).toBe(0)
    expect(remains(standing)).toBe(standing.length)
    expect(await store.shred('nobody', { forget: false })).toMatchObject({ versions: [], ...ERASED })
  })

  it.each(['delete', 'wal'])(
    'a host’s file with journal_mode %s holds such bytes, until the erasure is finished',
    async (journal) => {
      const client = connect()
      client.pragma(`journal_mode = ${journal}`)
      const store = cleanups.closing(sqliteKeyStore({ db: drizzle({ client }) }))
      const { shredded, standing } = await liveAndShred(store)
      expect(await store.shred('nobody', { forget: false })).toMatchObject(pending(FINISH))
      expect(remains(shredded)).toBeGreaterThan(50)
      expect(await store.maintenance.finishErasure()).toEqual(ERASED)
      expect(remains(shredded)).toBe(0)
      expect(remains(standing)).toBe(standing.length)
      expect(client.pragma('secure_delete', { simple: true })).toBe(0)
    },
  )

  it('a shred is pending after rows have grown in a file that is too large for a shred to rewrite, until the erasure is finished', async () => {
    const store = open()
    const rows = Array.from({ length: 16_000 }, () => randomRecord(randomBytes(9).toString('base64url')))
    await store.insertIfAbsent(rows)
    expect(await store.shred(at(rows, 0).userId, { forget: true })).toMatchObject(ERASED)
    await store.replaceWrapped(rows.map((row) => rewrapOf(row, 1)))
    expect(await store.shred(at(rows, 1).userId, { forget: true })).toMatchObject(pending(FINISH))
    expect(await store.maintenance.finishErasure()).toEqual(ERASED)
    expect(await store.shred(at(rows, 2).userId, { forget: true })).toMatchObject(ERASED)
  })

  it('a shred does not rewrite a file with tables of others, whose rows it could renumber', async () => {
    connect().exec(
      `create table of_the_host (text text); insert into of_the_host (rowid, text) values (7, 'seven')`,
    )
    const store = open()
    const rows = Array.from({ length: 1000 }, () => randomRecord(randomBytes(9).toString('base64url')))
    await store.insertIfAbsent(rows)
    await store.replaceWrapped(rows.map((row) => rewrapOf(row, 1)))
    expect(await store.shred(at(rows, 1).userId, { forget: true })).toMatchObject(pending(FINISH))
    expect(connect().prepare('select rowid from of_the_host').pluck().get()).toBe(7)
    // SQLite's own tables do not count.
    connect().exec('drop table of_the_host; analyze')
    expect(await store.shred(at(rows, 2).userId, { forget: true })).toMatchObject(ERASED)
  })

  it('a shred beside an open reader is pending and does not block; finishErasure completes it', async () => {
    const store = open()
    const row = randomRecord('alice')
    await store.insertIfAbsent([row, randomRecord('bob')])
    const reader = connect()
    reader.exec('begin')
    reader.prepare('select count(*) from encryption_keys').get()
    const begun = performance.now()
    const { result, stallMs } = await withLongestStall(() => store.shred('alice', { forget: false }))
    expect(performance.now() - begun).toBeLessThan(5000)
    expect(stallMs).toBeLessThan(500)
    expect(result).toMatchObject({
      versions: [1],
      ...pending('another connection is reading the write-ahead log'),
    })
    expect(result).toMatchObject(pending(FINISH))
    expect(remains([row.encryptedKey])).toBe(1)
    const late = open(path, { deadlineMs: 50 })
    expect(await late.maintenance.finishErasure()).toMatchObject(pending('SQLITE_BUSY'))
    reader.exec('commit')
    expect(await late.maintenance.finishErasure()).toEqual(ERASED)
    expect(remains([row.encryptedKey])).toBe(0)
  })

  it('a shred that found no key says whether the file still holds bytes of others', async () => {
    const store = open()
    await store.insertIfAbsent([randomRecord('alice')])
    const reader = connect()
    reader.exec('begin')
    reader.prepare('select count(*) from encryption_keys').get()
    await store.shred('alice', { forget: false })
    expect(await store.shred('alice', { forget: false })).toMatchObject({
      versions: [],
      ...pending('write-ahead log'),
    })
    reader.exec('commit')
    expect(await store.shred('alice', { forget: false })).toMatchObject({ versions: [], ...ERASED })
  })

  it('a failure after the commit is the reason of a pending erasure, not an error', async () => {
    const store = open()
    await store.insertIfAbsent([randomRecord('alice')])
    const failure = Object.assign(new Error('disk I/O error'), { code: 'SQLITE_IOERR' })
    vi.spyOn(Database.prototype, 'pragma').mockImplementation(() => {
      throw failure
    })
    const result = await store.shred('alice', { forget: false })
    expect(result).toMatchObject({ versions: [1], ...pending('SQLITE_IOERR: disk I/O error') })
  })

  it('shreds at the same time share one checkpoint', async () => {
    const store = open()
    const rows = Array.from({ length: 50 }, (_, i) => randomRecord(`user ${i}`))
    await store.insertIfAbsent(rows)
    const pragma = vi.spyOn(Database.prototype, 'pragma')
    const results = await Promise.all(rows.map(({ userId }) => store.shred(userId, { forget: false })))
    for (const result of results) expect(result).toMatchObject({ versions: [1], ...ERASED })
    const checkpoints = pragma.mock.calls.filter(([text]) => text.startsWith('wal_checkpoint'))
    expect(checkpoints.length).toBeLessThan(5)
    expect(remains(keysOf(rows))).toBe(0)
  })

  it('a shred of a database in memory is complete', async () => {
    const store = open(':memory:')
    await store.insertIfAbsent([randomRecord('alice')])
    expect(await store.shred('alice', { forget: false })).toMatchObject({ versions: [1], ...ERASED })
    expect(await store.maintenance.finishErasure()).toEqual(ERASED)
  })

  it('adoption leaves no byte of keys that the reference replaced or deleted', async () => {
    const client = connect()
    client.pragma('secure_delete = off')
    client.exec(REFERENCE_SQL.create)
    const insert = client.prepare(REFERENCE_SQL.insert.replace('IGNORE', 'REPLACE'))
    const rows = Array.from({ length: 2000 }, () => randomRecord(randomBytes(9).toString('base64url')))
    const later = rows.slice(0, 1500).map(({ userId }) => randomRecord(userId))
    const kept = later.slice(0, 100)
    for (const written of [rows, later]) {
      client.exec('begin')
      for (const { userId, encryptedKey } of written) insert.run(userId, encryptedKey, REFERENCE_TIME)
      client.exec('commit')
    }
    client
      .prepare('delete from encryption_keys where user_id not in (select value from json_each(?))')
      .run(JSON.stringify(kept.map(({ userId }) => userId)))
    expect(client.pragma('freelist_count', { simple: true })).toBeGreaterThan(20)
    client.close()
    const gone = keysOf([...rows, ...later.slice(100)].filter((_, index) => index % 4 === 0))
    expect(remains(gone)).toBeGreaterThan(100)

    const adopting = open(path, { adopt: true })
    expect((await adopting.ready()).adopted).toBe(100)
    await adopting.close()
    expect(remains(gone)).toBe(0)
    const store = open()
    expect(await store.shred('nobody', { forget: true })).toMatchObject(ERASED)
    expect(remains(keysOf(kept))).toBe(100)
    await Promise.all(kept.map(({ userId }) => store.shred(userId, { forget: false })))
    expect(remains(keysOf(kept))).toBe(0)
  })

  it('finishErasure waits for the host’s transaction, up to the deadline', async () => {
    const client = connect()
    const store = cleanups.closing(sqliteKeyStore({ db: drizzle({ client }) }, { deadlineMs: 100 }))
    await store.ready()
    client.exec('begin')
    expect(await store.maintenance.finishErasure()).toMatchObject(pending('inside a transaction'))
    const finishing = store.maintenance.finishErasure()
    client.exec('commit')
    expect(await finishing).toEqual(ERASED)
  })

  it('finishErasure names a rollback journal that SQLite keeps', async () => {
    const client = connect()
    client.pragma('journal_mode = persist')
    const store = cleanups.closing(sqliteKeyStore({ db: drizzle({ client }) }))
    await store.ready()
    expect(await store.maintenance.finishErasure()).toMatchObject(pending('-journal'))
  })
})
