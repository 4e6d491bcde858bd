/** What a store reports to its listeners, of its own changes and of those that other processes make. */
import { setTimeout as sleep } from 'node:timers/promises'
import { beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { isAnything, isOf, listenTo } from '../support/change-listener.js'
import { startChild } from '../support/child-process.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { dialects } from '../support/databases.js'
import { randomRecord } from '../support/rows.js'

/** The contract's bound. A busy machine may stop one of the processes for a while, hence the retries. */
const SOON_MS = 2000
const MEASURED = { retry: 3 }

describe.each(dialects)('%s', (dialect) => {
  const cleanups = cleanUpAfterEach()
  let url: string
  beforeEach(async () => {
    url = await cleanups.database(dialect)
  })
  const open = async () => cleanups.closing(await openKeyStore(url))

  /** A store, and a listener to it that has begun to receive. */
  async function openAndListen() {
    const store = await open()
    const listener = listenTo(store)
    if (dialect === 'postgres') await listener.next(isAnything)
    return { store, listener }
  }

  it('reports within 2 s what another process rotates, prunes, shreds or forgets', MEASURED, async () => {
    const child = startChild('change-rows.mjs', [url])
    cleanups.add(child.kill)
    expect(await child.line()).toBe('ready')
    const { listener } = await openAndListen()
    const command = async (line: string) => {
      child.send(line)
      expect(await child.line()).toBe(line)
    }
    await command('mint alice')
    await command('mint bob')
    for (const line of ['rotate alice', 'prune alice', 'shred alice', 'forget bob', 'shred nobody']) {
      // A SQLite store polls once a second, and may see several commits at once.
      if (dialect === 'sqlite') await sleep(1100)
      listener.skip()
      const begun = performance.now()
      child.send(line)
      await listener.next(isOf(line.split(' ')[1] ?? ''))
      expect(performance.now() - begun).toBeLessThan(SOON_MS)
      expect(await child.line()).toBe(line)
    }
  })

  it('reports its own writes, by user id', async () => {
    const { store, listener } = await openAndListen()
    await store.insertIfAbsent(['alice', 'bob', 'carol'].map((userId) => randomRecord(userId)))
    const rotated = ['bob', 'alice'].map((userId) => randomRecord(userId, { version: 2 }))
    await store.insertIfAbsent([...rotated, randomRecord('minted with them')])
    await listener.next(isOf('alice'))
    await store.remove([{ userId: 'bob', version: 1 }])
    await store.shred('carol', { forget: true })
    await store.shred('dave', { forget: false })
    await listener.next(isOf('dave'))
    const told = listener.changes.flatMap(({ userIds }) => userIds ?? [])
    expect(new Set(told)).toEqual(new Set(['alice', 'bob', 'carol', 'dave']))
    // The removal of a tombstone is a change too.
    await store.shred('dave', { forget: true })
    await listener.next((change) => isOf('dave')(change) && change.forgotten === true)
    const forgotten = listener.changes.filter((change) => change.forgotten)
    expect(new Set(forgotten.flatMap(({ userIds }) => userIds ?? []))).toEqual(new Set(['carol', 'dave']))
    for (const change of listener.changes.slice(dialect === 'postgres' ? 1 : 0))
      expect(change.userIds).toBeDefined()
  })

  it('reports neither mints nor rewraps, nor calls that change nothing', async () => {
    const { store, listener } = await openAndListen()
    const begun = listener.changes.length
    const row = randomRecord('alice')
    await store.insertIfAbsent([row, randomRecord('bob')])
    await store.insertIfAbsent([randomRecord('alice'), randomRecord('carol', { version: 2 })])
    const { userId, version, encryptedKey } = row
    const change = { kekId: 'new', encryptedKey: new Uint8Array(60), wrappedAt: new Date() }
    expect(await store.replaceWrapped([{ userId, version, from: encryptedKey, ...change }])).toHaveLength(1)
    await store.remove([{ userId: 'nobody', version: 1 }])
    await store.shred('nobody', { forget: true })
    await store.maintenance?.restore([randomRecord('dave')])
    // Reports come in order: after this one, none of the above can come any more.
    await store.shred('last', { forget: false })
    await listener.next(isOf('last'))
    expect(listener.changes.slice(begun)).toEqual([{ userIds: ['last'] }])
    // A second shred of the same user changes nothing.
    await store.shred('last', { forget: false })
    await store.shred('bob', { forget: false })
    await listener.next(isOf('bob'))
    expect(listener.changes.slice(begun)).toEqual([{ userIds: ['last'] }, { userIds: ['bob'] }])
  })

  it('reports restored rows if a cache may hold other rows of that user', async () => {
    const { store, listener } = await openAndListen()
    const shreddedAt = new Date()
    await store.maintenance?.restore([
      randomRecord('alice', { version: 3 }),
      randomRecord('bob', { encryptedKey: new Uint8Array(0), shreddedAt }),
    ])
    await listener.next(({ userIds }) => userIds?.includes('alice') === true)
    await store.shred('last', { forget: false })
    await listener.next(isOf('last'))
    const told = new Set(listener.changes.flatMap(({ userIds }) => userIds ?? []))
    expect(told).toEqual(new Set(['alice', 'bob', 'last']))
  })

  it('reports user ids unchanged, whatever characters they have', async () => {
    const { store, listener } = await openAndListen()
    const ids = ['', '"; --', '\u0001'.repeat(512), '\u{1f600}'.repeat(128), "'\\\n\t", '[]', 'e\u0301']
    for (const userId of ids) {
      await store.shred(userId, { forget: false })
      expect(await listener.next((change) => change.userIds !== undefined)).toEqual({ userIds: [userId] })
    }
  })

  it('calls no listener that has ended, and goes on calling the others', async () => {
    const { store, listener } = await openAndListen()
    const other = listenTo(store)
    const twice: unknown[] = []
    const push = (change: unknown) => twice.push(change)
    const ends = [store.changes?.(push), store.changes?.(push)]
    listener.end()
    listener.end()
    ends[0]?.()
    const before = listener.changes.length
    await store.shred('alice', { forget: false })
    await other.next(isOf('alice'))
    expect(listener.changes).toHaveLength(before)
    expect(twice).toEqual([{ userIds: ['alice'] }])
    // Without listeners it reports nothing; a listener that comes later receives again.
    other.end()
    ends[1]?.()
    await store.shred('bob', { forget: false })
    const late = listenTo(store)
    if (dialect === 'postgres') await late.next(isAnything)
    await store.shred('carol', { forget: false })
    await late.next(isOf('carol'))
    expect(other.changes.some(({ userIds }) => userIds?.includes('bob'))).toBe(false)
  })

  it('completes the write and calls the other listeners when one throws, whose error becomes an uncaught exception', async () => {
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

  it('accepts no listener once it is closed', async () => {
    const { store, listener } = await openAndListen()
    await store.close()
    expect(() => store.changes?.(() => undefined)).toThrow(expect.objectContaining({ code: 'ERR_CLOSED' }))
    const count = listener.changes.length
    await (await open()).shred('alice', { forget: false })
    expect(listener.changes).toHaveLength(count)
  })

  it('lets a process end that listens and does nothing else', async () => {
    const child = startChild('listen.mjs', [url])
    cleanups.add(child.kill)
    expect(await child.line()).toMatch(/^told [1-9]/)
    expect(await child.ended()).toEqual({ code: 0, stderr: '' })
  })
})
