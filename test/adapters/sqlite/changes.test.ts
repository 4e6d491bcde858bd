/** How a SQLite store notices what others write: by looking every so often, without a side effect. */
import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { openKeyStore } from '../../../src/adapters/open.js'
import { type SqliteKeyStore, sqliteKeyStore } from '../../../src/adapters/sqlite/store.js'
import { type FreshDatabase, freshDatabase, isChosen } from '../../support/databases.js'
import { isOf, listenTo } from '../../support/heard.js'
import { randomRecord } from '../../support/remains.js'

/** So long that nothing is seen by a look in the course of a test. */
const NEVER = { pollMs: 1_000_000 }
const OFTEN = { pollMs: 20 }

describe.runIf(isChosen('sqlite'))('looking for changes', () => {
  let database: FreshDatabase
  const opened: { close(): unknown }[] = []
  const keep = <T extends { close(): unknown }>(something: T): T => {
    opened.push(something)
    return something
  }
  const open = (options = {}): SqliteKeyStore => keep(sqliteKeyStore({ path: database.url }, options))
  const connect = () => keep(new Database(database.url))
  const openOn = (client: Database.Database, options = {}) =>
    keep(sqliteKeyStore({ db: drizzle({ client }) }, options))

  beforeEach(async () => {
    database = await freshDatabase('sqlite')
  })
  afterEach(async () => {
    vi.restoreAllMocks()
    for (const thing of opened.splice(0).reverse()) await thing.close()
    await database.remove()
  })

  it('opens nothing and makes nothing by itself', async () => {
    const heard = listenTo(open(OFTEN))
    await sleep(100)
    expect(existsSync(database.url)).toBe(false)
    expect(heard.changes).toEqual([])
  })

  it('misses nothing between opening and the first look', async () => {
    const other = open()
    await other.ready()
    for (const subscribeFirst of [true, false]) {
      const store = open({ pollMs: 300 })
      const early = subscribeFirst ? listenTo(store) : null
      await store.ready()
      const heard = early ?? listenTo(store)
      await other.shred(`user ${subscribeFirst}`, { forget: false })
      expect(await heard.next(() => true)).toEqual({ unspecific: true })
    }
  })

  it('tells of commits of others once each, and not of its own', async () => {
    const [store, other] = [open(OFTEN), open()]
    await store.ready()
    const heard = listenTo(store)
    await store.insertIfAbsent([randomRecord('alice')])
    await sleep(100)
    expect(heard.changes).toEqual([])
    await other.insertIfAbsent([randomRecord('bob')])
    await heard.next(() => true)
    await sleep(100)
    expect(heard.changes).toEqual([{ unspecific: true }])
    // The log of a shred is emptied: that may count as a commit, and needs no telling of whose rows.
    await store.shred('alice', { forget: false })
    await heard.next(isOf('alice'))
    expect(heard.changes.at(-1)).toEqual({ userIds: ['alice'] })
  })

  it('stores on one connection, which sees no change of its own, tell each other exactly', async () => {
    const client = connect()
    const [store, sibling, elsewhere] = [openOn(client, NEVER), openOn(client, NEVER), open(NEVER)]
    await Promise.all([store.ready(), sibling.ready(), elsewhere.ready()])
    const [own, heard, nothing] = [listenTo(store), listenTo(sibling), listenTo(elsewhere)]
    await store.shred('alice', { forget: false })
    await sibling.shred('bob', { forget: false })
    expect(own.changes).toEqual([{ userIds: ['alice'] }, { userIds: ['bob'] }])
    expect(heard.changes).toEqual(own.changes)
    expect(nothing.changes).toEqual([])
    await store.close()
    await sibling.shred('carol', { forget: false })
    expect(own.changes).toHaveLength(2)
    expect(heard.changes).toHaveLength(3)
  })

  it('looks only while somebody listens', async () => {
    const store = open(OFTEN)
    await store.ready()
    const pragma = vi.spyOn(Database.prototype, 'pragma')
    const looks = () => pragma.mock.calls.filter(([text]) => text === 'data_version').length
    await sleep(100)
    expect(looks()).toBe(0)
    const heard = listenTo(store)
    await vi.waitFor(() => expect(looks()).toBeGreaterThan(3))
    heard.end()
    const count = looks()
    await sleep(100)
    expect(looks()).toBe(count)
    const again = listenTo(store)
    await vi.waitFor(() => expect(looks()).toBeGreaterThan(count + 2))
    await store.close()
    const last = looks()
    await sleep(100)
    expect(looks()).toBe(last)
    expect(again.changes).toEqual([])
  })

  it('does not fix what the host’s transaction will see', async () => {
    const client = connect()
    client.pragma('journal_mode = wal')
    const store = openOn(client, OFTEN)
    await store.ready()
    const heard = listenTo(store)
    client.exec('begin')
    await sleep(100)
    await open().insertIfAbsent([randomRecord('alice')])
    await sleep(100)
    expect(client.prepare('select count(*) from encryption_keys').pluck().get()).toBe(1)
    expect(heard.changes).toEqual([])
    client.exec('commit')
    await heard.next(({ unspecific }) => unspecific === true)
  })

  it('says once that it cannot look, to whoever comes later too, and when it can again', async () => {
    const store = open(OFTEN)
    await store.ready()
    const heard = listenTo(store)
    const failing = vi.spyOn(Database.prototype, 'pragma').mockImplementation(() => {
      throw Object.assign(new Error('disk I/O error'), { code: 'SQLITE_IOERR' })
    })
    expect(await heard.next(() => true)).toEqual({ silent: expect.stringContaining('SQLITE_IOERR') })
    await sleep(100)
    const late = listenTo(store)
    expect(late.changes).toEqual([])
    await late.next(() => true)
    failing.mockRestore()
    expect(await heard.next(() => true)).toEqual({})
    expect(heard.changes).toHaveLength(2)
    expect(late.changes).toEqual(heard.changes)
  })

  it('takes a busy database for one that has not changed', async () => {
    const store = open(OFTEN)
    await store.ready()
    const heard = listenTo(store)
    vi.spyOn(Database.prototype, 'pragma').mockImplementation(() => {
      throw Object.assign(new Error('database is locked'), { code: 'SQLITE_BUSY' })
    })
    await sleep(100)
    expect(heard.changes).toEqual([])
  })

  it('wants a whole number of milliseconds, and Postgres none', async () => {
    for (const pollMs of [
      0,
      -1,
      1.5,
      Number.NaN,
      Number.POSITIVE_INFINITY,
      2 ** 31,
      '1000' as never,
      null as never,
    ]) {
      expect(() => open({ pollMs })).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }))
    }
    const refused = { code: 'ERR_INVALID_ARGUMENT' }
    await expect(openKeyStore('postgres://host/x', { pollMs: 1 })).rejects.toMatchObject(refused)
    await expect(openKeyStore(database.url, { listenUrl: false })).rejects.toMatchObject(refused)
    const store = keep(await openKeyStore(database.url, { pollMs: 20 }))
    const heard = listenTo(store)
    await open().shred('alice', { forget: false })
    await heard.next(isOf('alice'))
  })
})
