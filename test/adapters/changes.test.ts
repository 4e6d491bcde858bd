/** Changes that others make reach whoever listens to a store: what both dialects do. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import type { KeyStore } from '../../src/index.js'
import { dialects, type FreshDatabase, freshDatabase } from '../support/databases.js'
import { isAnything, isOf, listenTo } from '../support/heard.js'
import { type LineChild, startChild } from '../support/line-child.js'
import { randomRecord } from '../support/remains.js'

/** What the contract promises; a busy machine may stop one of the processes for a while. */
const SOON_MS = 2000
const MEASURED = { retry: 3 }

describe.each(dialects)('%s', (dialect) => {
  let database: FreshDatabase
  let stores: KeyStore[]
  const open = async () => {
    const store = await openKeyStore(database.url)
    stores.push(store)
    return store
  }
  /** A store that is listened to by now. */
  async function openAndListen() {
    const store = await open()
    const heard = listenTo(store)
    if (dialect === 'postgres') await heard.next(isAnything)
    return { store, heard }
  }

  beforeEach(async () => {
    database = await freshDatabase(dialect)
    stores = []
  })
  afterEach(async () => {
    await Promise.all(stores.map((store) => store.close()))
    await database.remove()
  })

  describe('another process', () => {
    let child: LineChild
    beforeEach(async () => {
      child = startChild('change-rows.mjs', [database.url])
      expect(await child.line()).toBe('ready')
    })
    afterEach(() => child.kill())

    it('that rotates, prunes, shreds or forgets is heard within 2 s', MEASURED, async () => {
      const { heard } = await openAndListen()
      const command = async (line: string) => {
        child.send(line)
        expect(await child.line()).toBe(line)
      }
      await command('mint alice')
      await command('mint bob')
      for (const line of ['rotate alice', 'prune alice', 'shred alice', 'forget bob', 'shred nobody']) {
        // On SQLite a look may see several commits at once.
        if (dialect === 'sqlite') await sleep(1100)
        heard.skip()
        const begun = performance.now()
        child.send(line)
        await heard.next(isOf(line.split(' ')[1] ?? ''))
        expect(performance.now() - begun).toBeLessThan(SOON_MS)
        expect(await child.line()).toBe(line)
      }
    })
  })

  it('a store hears its own writes, by user id', async () => {
    const { store, heard } = await openAndListen()
    await store.insertIfAbsent(['alice', 'bob', 'carol'].map((userId) => randomRecord(userId)))
    const rotated = ['bob', 'alice'].map((userId) => randomRecord(userId, { version: 2 }))
    await store.insertIfAbsent([...rotated, randomRecord('minted with them')])
    await heard.next(isOf('alice'))
    await store.remove([{ userId: 'bob', version: 1 }])
    await store.shred('carol', { forget: true })
    await store.shred('dave', { forget: false })
    await heard.next(isOf('dave'))
    const told = heard.changes.flatMap(({ userIds }) => userIds ?? [])
    expect(new Set(told)).toEqual(new Set(['alice', 'bob', 'carol', 'dave']))
    // A tombstone that goes away is a change too.
    await store.shred('dave', { forget: true })
    await heard.next(isOf('dave'))
    for (const change of heard.changes.slice(dialect === 'postgres' ? 1 : 0))
      expect(change.userIds).toBeDefined()
  })

  it('what changed nothing is told nobody, nor are mints and rewraps', async () => {
    const { store, heard } = await openAndListen()
    const begun = heard.changes.length
    const row = randomRecord('alice')
    await store.insertIfAbsent([row, randomRecord('bob')])
    await store.insertIfAbsent([randomRecord('alice'), randomRecord('carol', { version: 2 })])
    const { userId, version, encryptedKey } = row
    const change = { kekId: 'new', encryptedKey: new Uint8Array(60), wrappedAt: new Date() }
    expect(await store.replaceWrapped([{ userId, version, from: encryptedKey, ...change }])).toHaveLength(1)
    await store.remove([{ userId: 'nobody', version: 1 }])
    await store.shred('nobody', { forget: true })
    await store.maintenance?.restore([randomRecord('dave')])
    // What was told is told in order: after this nothing of the above can come any more.
    await store.shred('last', { forget: false })
    await heard.next(isOf('last'))
    expect(heard.changes.slice(begun)).toEqual([{ userIds: ['last'] }])
    // Nor is a shred of what is shredded.
    await store.shred('last', { forget: false })
    await store.shred('bob', { forget: false })
    await heard.next(isOf('bob'))
    expect(heard.changes.slice(begun)).toEqual([{ userIds: ['last'] }, { userIds: ['bob'] }])
  })

  it('rows that are restored are told of where a cache may hold others', async () => {
    const { store, heard } = await openAndListen()
    const shreddedAt = new Date()
    await store.maintenance?.restore([
      randomRecord('alice', { version: 3 }),
      randomRecord('bob', { encryptedKey: new Uint8Array(0), shreddedAt }),
    ])
    await heard.next(({ userIds }) => userIds?.includes('alice') === true)
    await store.shred('last', { forget: false })
    await heard.next(isOf('last'))
    const told = new Set(heard.changes.flatMap(({ userIds }) => userIds ?? []))
    expect(told).toEqual(new Set(['alice', 'bob', 'last']))
  })

  it('user ids arrive as they are', async () => {
    const { store, heard } = await openAndListen()
    const ids = ['', '"; --', '\u0001'.repeat(512), '\u{1f600}'.repeat(128), "'\\\n\t", '[]', 'e\u0301']
    for (const userId of ids) {
      await store.shred(userId, { forget: false })
      expect(await heard.next((change) => change.userIds !== undefined)).toEqual({ userIds: [userId] })
    }
  })

  it('a listener that has ended is called no more, and the others are', async () => {
    const { store, heard } = await openAndListen()
    const other = listenTo(store)
    const twice: unknown[] = []
    const push = (change: unknown) => twice.push(change)
    const ends = [store.changes?.(push), store.changes?.(push)]
    heard.end()
    heard.end()
    ends[0]?.()
    const before = heard.changes.length
    await store.shred('alice', { forget: false })
    await other.next(isOf('alice'))
    expect(heard.changes).toHaveLength(before)
    expect(twice).toEqual([{ userIds: ['alice'] }])
    // With nobody left it is quiet; whoever comes then hears again.
    other.end()
    ends[1]?.()
    await store.shred('bob', { forget: false })
    const late = listenTo(store)
    if (dialect === 'postgres') await late.next(isAnything)
    await store.shred('carol', { forget: false })
    await late.next(isOf('carol'))
    expect(other.changes.some(({ userIds }) => userIds?.includes('bob'))).toBe(false)
  })

  it('a listener that throws breaks neither the write nor the others, and its error is not lost', async () => {
    const { store } = await openAndListen()
    const thrown: unknown[] = []
    const handlers = process.listeners('uncaughtException')
    process.removeAllListeners('uncaughtException')
    process.on('uncaughtException', (error) => thrown.push(error))
    try {
      store.changes?.(({ userIds }) => {
        if (userIds !== undefined) throw new Error('of the listener')
      })
      const other = listenTo(store)
      expect((await store.shred('alice', { forget: false })).userId).toBe('alice')
      await other.next(isOf('alice'))
      await sleep(0)
      expect(thrown).toEqual([new Error('of the listener')])
    } finally {
      process.removeAllListeners('uncaughtException')
      for (const handler of handlers) process.on('uncaughtException', handler)
    }
  })

  it('a closed store takes no listener', async () => {
    const { store, heard } = await openAndListen()
    await store.close()
    expect(() => store.changes?.(() => undefined)).toThrow(expect.objectContaining({ code: 'ERR_CLOSED' }))
    const count = heard.changes.length
    await (await open()).shred('alice', { forget: false })
    expect(heard.changes).toHaveLength(count)
  })

  it('keeps no process alive', async () => {
    const child = startChild('listen.mjs', [database.url])
    const line = child.line()
    try {
      expect(await line).toMatch(/^told [1-9]/)
      expect(await child.ended()).toEqual({ code: 0, stderr: '' })
    } finally {
      child.kill()
    }
  })
})
