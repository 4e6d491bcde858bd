/** What is recorded in a key log, and when: after a key is stored and before anybody has it; before anything is erased. */
import { randomBytes } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, rmdirSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it, vi } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import {
  type EnvelopeCryptoOptions,
  type KeyLogEntry,
  localMasterKey,
  loggedStore,
  pruneRetired,
  rotateWhere,
} from '../../src/index.js'
import { KeyLogFile } from '../../src/key-log/file.js'
import { type FaultyMethod, faultyStore } from '../../src/testing/faulty-store.js'
import { ofEachTest } from '../support/each-test.js'
import { errorOf } from '../support/errors.js'
import { backends, freshService, freshStoreOfEachTest } from '../support/fresh-store.js'
import { gate, nextTurn } from '../support/gate.js'
import { freshKeyLog } from '../support/key-log-file.js'
import { everythingOf, secretForms } from '../support/leaks.js'
import { mintedRow, rowsOf, rowsOfUser } from '../support/rows.js'
import { overriding } from '../support/store-doubles.js'
import { userIds } from '../support/users.js'

const masterKeys = localMasterKey(randomBytes(32))
const kekId = masterKeys.id

const log = ofEachTest(freshKeyLog)

/** A sink that can be told to fail, and what it was given. */
function sink() {
  const calls: KeyLogEntry[][] = []
  const state = { isBroken: false }
  const keyLog = (entries: readonly KeyLogEntry[]) => {
    if (state.isBroken) throw Object.assign(new Error('hush-hush'), { code: 'ENOSPC' })
    calls.push([...entries])
  }
  return { calls, state, keyLog }
}

describe.each(backends)('on %s', (backend) => {
  const { test, store } = freshStoreOfEachTest(backend)
  const open = (options: Partial<EnvelopeCryptoOptions> = {}) =>
    test.open({ masterKeys, keyLog: log.path, ...options })

  it('has a line for a key whose insert lost its answer, before anybody has it', async () => {
    const lost: FaultyMethod[] = ['insertIfAbsent', 'insertIfAbsent']
    const faulty = faultyStore(store, (method) =>
      method === lost[0] && lost.shift() !== undefined ? 'lost' : null,
    )
    const envelope = await open({ store: faulty.store })
    for (const userId of ['alice', 'bob'])
      expect(await errorOf(envelope.encrypt(userId, 'x'))).toMatchObject({
        code: 'ERR_STORE',
        retryable: true,
      })
    expect(log.entries()).toEqual([])
    expect(await envelope.encrypt('alice', 'x')).toContain('v3:')
    const [alice] = await rowsOfUser(store, 'alice')
    expect(log.entries()).toEqual([
      { event: 'minted', userId: 'alice', version: 1, kekId, at: alice?.createdAt },
    ])
    // Another process's key in the place of one whose insert has failed is recorded by that process.
    await store.shred('bob', { forget: true })
    await (await test.open({ masterKeys, store: await test.another() })).encrypt('bob', 'x')
    await envelope.encrypt('bob', 'x')
    expect(log.entries()).toHaveLength(1)
  })

  it('has a line for each key that was made, pruned or shredded, and no secret in it', async () => {
    const envelope = await open()
    await envelope.encrypt('alice', 'x')
    await envelope.pool.encrypt('x')
    const rows = await rowsOf(store)
    await envelope.rotateUserKey('alice')
    const recorded = loggedStore(store, log.path)
    await rotateWhere({ store: recorded, masterKeys, olderThanMs: 0 })
    const all = await rowsOf(store)
    await pruneRetired({
      store: recorded,
      userId: 'alice',
      beforeVersion: 3,
      tokensReencrypted: true,
      includeFirst: true,
    })
    const { at } = await envelope.shredUser('alice', { forget: true })
    const made = (userId: string, version: number) => ({
      event: version === 1 ? 'minted' : 'rotated',
      userId,
      version,
      kekId,
      at: all.find((row) => row.userId === userId && row.version === version)?.createdAt,
    })
    const pruned = (version: number) => ({
      event: 'pruned',
      userId: 'alice',
      version,
      kekId,
      at: expect.any(Date),
    })
    expect(log.entries()).toEqual([
      made('alice', 1),
      made('', 1),
      made('alice', 2),
      made('', 2),
      made('alice', 3),
      pruned(1),
      pruned(2),
      ...(['shredding', 'shredded'] as const).map((event) => ({
        event,
        userId: 'alice',
        versions: [3],
        kekIds: [kekId],
        forget: true,
        at,
      })),
    ])
    const shown = everythingOf(log.lines())
    for (const { encryptedKey } of [...rows, ...all])
      for (const form of secretForms(encryptedKey)) expect(shown.includes(form)).toBe(false)
  })

  it('has the line after the row is stored, and before the token is given out', async () => {
    const order: string[] = []
    const envelope = await open({
      async keyLog(entries) {
        const [row] = await rowsOfUser(await test.another(), 'alice')
        order.push(`${entries[0]?.event} ${row === undefined ? 'before' : 'after'} its row`)
      },
    })
    await envelope.encrypt('alice', 'x').then(() => order.push('token'))
    expect(order).toEqual(['minted after its row', 'token'])
  })

  it('gives out no key that could not be recorded, and records it before it does', async () => {
    const { calls, state, keyLog } = sink()
    const envelope = await open({ keyLog })
    await envelope.encrypt('bob', 'x')
    state.isBroken = true
    for (const attempt of [
      () => envelope.encrypt('alice', 'x'),
      () => envelope.encrypt('alice', 'x'),
      () => envelope.user('alice'),
      () => envelope.getOrCreateUserKey('alice'),
    ]) {
      const error = await errorOf(attempt())
      expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true })
      expect(error.message).toContain('The key log could not be written (ENOSPC)')
      expect(error.message).not.toContain('hush')
    }
    expect(await rowsOfUser(store, 'alice')).toHaveLength(1)
    // Nobody else is kept from a key that is in the log, and nobody new is given one.
    expect(await envelope.encrypt('bob', 'x')).toContain('v3:')
    await expect(envelope.encrypt('carol', 'x')).rejects.toMatchObject({ code: 'ERR_STORE' })
    expect(await rowsOfUser(store, 'carol')).toEqual([])

    state.isBroken = false
    expect(await envelope.encrypt('alice', 'x')).toContain('v3:')
    expect(calls.flat().map(({ userId }) => userId)).toEqual(['bob', 'alice'])
  })

  it('gives out no key while its line is being written, and writes the line once', async () => {
    const lines: string[] = []
    const writing = gate()
    const envelope = await open({
      async keyLog(entries) {
        lines.push(...entries.map(({ userId }) => userId))
        await writing.wait()
      },
    })
    writing.arm()
    const sealing = envelope.encrypt('alice', 'x')
    await writing.reached()
    // Others go on meanwhile.
    for (const userId of ['bob', 'carol']) await envelope.encrypt(userId, 'x')
    let isOpen = false
    const handle = envelope.user('alice').then(() => expect(isOpen).toBe(true))
    for (let turn = 0; turn < 20; turn++) await nextTurn()
    isOpen = true
    writing.open()
    await Promise.all([sealing, handle])
    expect(lines).toEqual(['alice', 'bob', 'carol'])
  })

  it('stores no key when the file cannot be opened', async () => {
    const envelope = await open()
    mkdirSync(log.path)
    for (const userId of ['alice', 'bob']) {
      const error = await errorOf(envelope.encrypt(userId, 'x'))
      expect(error).toMatchObject({ code: 'ERR_STORE' })
      expect(error.message).toContain('(EISDIR): no key was made')
    }
    expect(await rowsOf(store)).toEqual([])
    rmdirSync(log.path)
    expect(await envelope.encrypt('alice', 'x')).toContain('v3:')
    expect(log.entries()).toMatchObject([{ event: 'minted', userId: 'alice' }])
  })

  it('removes nothing that could not be recorded', async () => {
    const { state, keyLog } = sink()
    const envelope = await open({ keyLog })
    await envelope.encrypt('alice', 'x')
    await envelope.rotateUserKey('alice')
    state.isBroken = true
    const before = await rowsOf(store)
    const prune = pruneRetired({
      store: loggedStore(store, keyLog),
      userId: 'alice',
      beforeVersion: 2,
      tokensReencrypted: true,
      includeFirst: true,
    })
    expect((await errorOf(prune)).message).toContain('nothing was removed')
    expect((await errorOf(envelope.shredUser('alice'))).message).toContain('nothing was shredded')
    expect(await rowsOf(store)).toEqual(before)
  })

  it('appends once for all keys that are made in one tick', async () => {
    const { calls, keyLog } = sink()
    const envelope = await open({ keyLog })
    await envelope.encryptMany(userIds(500).map((userId) => ({ userId, plaintext: 'x' })))
    expect(calls.map(({ length }) => length)).toEqual([500])
  })

  it('has one line for a key that two services make at once', async () => {
    const services = [await open(), await open({ store: await test.another() })]
    for (const userId of userIds(20))
      await Promise.all(services.map((envelope) => envelope.encrypt(userId, 'x')))
    const logged = log.entries().map(({ userId }) => userId)
    expect(logged.sort()).toEqual(userIds(20).sort())
  })

  it('does not record a shred or a prune in a transaction, which may be rolled back', async () => {
    const rows = [await mintedRow(masterKeys, 'alice'), await mintedRow(masterKeys, 'bob')]
    await store.insertIfAbsent(rows)
    const inTransaction = loggedStore(overriding(store, { transactional: true }), log.path)
    await inTransaction.shred('alice', { forget: false })
    await inTransaction.remove([{ userId: 'bob', version: 1 }])
    expect(existsSync(log.path)).toBe(false)
  })

  it('does not record what a caller may roll back', async () => {
    const { calls, keyLog } = sink()
    const envelope = await open({ store: overriding(store, { transactional: true }), keyLog })
    await envelope.encrypt('alice', 'x')
    expect(calls).toEqual([])
  })
})

it('has whole lines, though several write at once, and each is in the file when its write has ended', async () => {
  const writers = [new KeyLogFile(log.path), new KeyLogFile(log.path), new KeyLogFile(log.path)]
  const entry = (userId: string): KeyLogEntry => ({
    event: 'minted',
    userId,
    version: 1,
    kekId,
    at: new Date(),
  })
  await Promise.all(
    userIds(300).map(async (userId, index) => {
      await writers[index % writers.length]?.append([entry(userId), entry(`${userId}, too`)])
      expect(log.lines().some((line) => line.includes(`"${userId}, too"`))).toBe(true)
    }),
  )
  expect(log.entries()).toHaveLength(600)
})

it('is synced before a write has ended: once for all that came while another write was under way', async () => {
  const handle = await open(log.path, 'a')
  const prototype = Object.getPrototypeOf(handle)
  await handle.close()
  const calls: string[] = []
  const [write, sync] = [prototype.write, prototype.datasync]
  const spies = [
    vi.spyOn(prototype, 'write').mockImplementation(function (this: unknown, ...args: unknown[]) {
      calls.push('write')
      return write.apply(this, args)
    }),
    vi.spyOn(prototype, 'datasync').mockImplementation(async function (this: unknown) {
      await sync.call(this)
      calls.push('synced')
    }),
  ]
  try {
    const file = new KeyLogFile(log.path)
    const entry: KeyLogEntry = { event: 'minted', userId: 'alice', version: 1, kekId, at: new Date() }
    await Promise.all(userIds(20).map(() => file.append([entry]).then(() => calls.push('ended'))))
    expect(calls).toEqual(['write', 'synced', 'ended', 'write', 'synced', ...Array(19).fill('ended')])
  } finally {
    for (const spy of spies) spy.mockRestore()
  }
})

it('leaves the mode of a log that is there, and makes one for its owner alone', async () => {
  await new KeyLogFile(log.path).probe()
  expect(log.lines()).toEqual([''])
  chmodSync(log.path, 0o640)
  const envelope = await freshService(memoryKeyStore(), { keyLog: log.path })
  await envelope.encrypt('alice', 'x')
  expect(log.entries()).toHaveLength(1)
})

it('ends a call whose log never answers', async () => {
  const store = memoryKeyStore()
  const envelope = await freshService(store, { keyLog: () => new Promise<void>(() => undefined) })
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
  try {
    const sealing = errorOf(envelope.encrypt('alice', 'x'))
    await vi.waitFor(() => expect(vi.getTimerCount()).toBe(1))
    vi.advanceTimersByTime(10_000)
    expect(await sealing).toMatchObject({ code: 'ERR_STORE', retryable: true })
  } finally {
    vi.useRealTimers()
  }
  await envelope.close()
})

it('is refused unless it is a path or a function', async () => {
  for (const keyLog of ['', 7, {}, null]) {
    await expect(freshService(memoryKeyStore(), { keyLog: keyLog as string })).rejects.toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
    })
    expect(() => loggedStore(memoryKeyStore(), keyLog as string)).toThrow('keyLog must be')
  }
  expect(() => loggedStore(memoryKeyStore(), join(log.folder, 'x'))).not.toThrow()
})
