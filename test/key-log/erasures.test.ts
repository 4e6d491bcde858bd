/** Shreds in the key log: written before the erasure, outside the database, and applied again to what a backup brings back. */
import { randomBytes } from 'node:crypto'
import { chmodSync, copyFileSync, existsSync, mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import {
  applyKeyLog,
  EnvelopeCrypto,
  findLostKeys,
  type KeyLogEntry,
  localMasterKey,
  loggedStore,
  StoreError,
} from '../../src/index.js'
import { findUnfinishedErasures } from '../../src/key-log/erasures.js'
import { ofEachTest } from '../support/each-test.js'
import { errorOf } from '../support/errors.js'
import { backends, freshStoreOfEachTest } from '../support/fresh-store.js'
import { freshKeyLog, shredLine } from '../support/key-log-file.js'
import { mintedRow, rowsOf } from '../support/rows.js'
import { overriding } from '../support/store-doubles.js'

const masterKeys = localMasterKey(randomBytes(32))

const log = ofEachTest(freshKeyLog)

/** As a shred writes it. */
const LINE =
  '{"event":"shredded","userId":"bob","versions":[1],"kekIds":[null],"forget":false,"at":"2026-01-01T00:00:00.000Z"}'

const shreds = () => log.entries().filter((entry) => entry.event === 'shredded')

describe.each(backends)('on %s', (backend) => {
  const { store } = freshStoreOfEachTest(backend)

  const open = (options: Partial<Parameters<typeof EnvelopeCrypto.open>[0]> = {}) =>
    EnvelopeCrypto.open({ store, masterKeys, closeStore: false, keyLog: log.path, ...options })
  const rowsOfUser = async (userId: string) => (await store.getAll([userId])).get(userId) ?? []

  /** The rows as a backup has them. */
  async function backup() {
    const rows = await rowsOf(store)
    return async function restored() {
      await store.remove(await rowsOf(store))
      await store.insertIfAbsent(rows)
      expect(await rowsOf(store)).toEqual(rows)
    }
  }

  describe('shredUser', () => {
    it('appends a line when a shred is done, which only its owner can read', async () => {
      const envelope = await open()
      await envelope.encrypt('alice', 'x')
      await envelope.rotateUserKey('alice')
      await envelope.encrypt('"böse"\n', 'x')
      const first = await envelope.shredUser('alice')
      const second = await envelope.shredUser('"böse"\n', { forget: true })
      expect(log.lines().at(-1)).toBe('')
      const written = shreds()
      expect(written).toHaveLength(2)
      for (const [index, { userId, versions, kekIds, at, forget }] of [first, second].entries())
        expect(written[index]).toEqual({ event: 'shredded', userId, versions, kekIds, at, forget })
      expect(statSync(log.path).mode & 0o777).toBe(0o600)
      // The tombstone has the time of the line.
      const [row] = await rowsOfUser('alice')
      expect(row?.shreddedAt).toEqual(written[0]?.at)
    })

    it('has its line before anything is erased', async () => {
      const failing = overriding(store, {
        shred: () => Promise.reject(new StoreError('planned', { retryable: true })),
      })
      const envelope = await open({ store: failing })
      await envelope.encrypt('alice', 'x')
      await expect(envelope.shredUser('alice')).rejects.toMatchObject({ code: 'ERR_STORE' })
      expect(log.entries().at(-1)).toMatchObject({
        event: 'shredding',
        userId: 'alice',
        versions: [1],
        kekIds: [masterKeys.id],
      })
      expect(await rowsOfUser('alice')).toMatchObject([{ shreddedAt: null }])
      // It has failed, so that nobody may finish it unasked: the user may go on.
      expect(await applyKeyLog({ store, keyLog: log.path })).toEqual([])
      expect(await envelope.encrypt('alice', 'x')).toContain('v3:')
      expect(await findUnfinishedErasures(store, log.path)).toEqual(['alice'])
      await (await open()).shredUser('alice')
      expect(await findUnfinishedErasures(store, log.path)).toEqual([])
      expect(shreds()).toMatchObject([{ userId: 'alice', versions: [1] }])
    })

    it('fails if the log does not take the line that it is done, and is recorded when it is repeated', async () => {
      const written: KeyLogEntry[] = []
      let isFull = true
      const envelope = await open({
        keyLog: (entries) => {
          if (isFull && entries[0]?.event === 'shredded') throw new Error('full')
          written.push(...entries)
        },
      })
      await envelope.encrypt('alice', 'x')
      const error = await errorOf(envelope.shredUser('alice'))
      expect(error.message).toContain('the keys are erased: shred again to record it')
      expect(await errorOf(envelope.encrypt('alice', 'x'))).toMatchObject({ code: 'ERR_KEY_SHREDDED' })
      isFull = false
      await envelope.shredUser('alice')
      expect(written.map(({ event }) => event)).toEqual(['minted', 'shredding', 'shredding', 'shredded'])
    })

    it('leaves alone what is minted after a user was forgotten, by a clock that is an hour behind', async () => {
      const envelope = await open()
      await envelope.encrypt('alice', 'x')
      const { at } = await envelope.shredUser('alice', { forget: true })
      const hourBefore = new Date(at.getTime() - 3_600_000)
      const behind = await mintedRow(masterKeys, 'alice', { createdAt: hourBefore })
      await loggedStore(store, log.path).insertIfAbsent([behind])
      expect(await applyKeyLog({ store, keyLog: log.path })).toEqual([])
      expect(await rowsOfUser('alice')).toMatchObject([{ shreddedAt: null }])
      await store.remove([behind])
      expect(await findLostKeys({ store, keyLog: log.path })).toMatchObject({ count: 1 })
    })

    it('shreds nothing when the log cannot be written', async () => {
      mkdirSync(join(log.folder, 'a folder'))
      await store.insertIfAbsent([await mintedRow(masterKeys, 'alice')])
      for (const [path, reason] of [
        ['a folder', 'EISDIR'],
        [join('missing', 'log'), 'ENOENT'],
      ] as const) {
        const error = await errorOf(
          loggedStore(store, join(log.folder, path)).shred('alice', { forget: false }),
        )
        expect(error).toMatchObject({
          code: 'ERR_STORE',
          message: expect.stringContaining(`(${reason}): nothing was shredded`),
        })
        expect(await rowsOfUser('alice')).toMatchObject([{ shreddedAt: null }])
      }
    })

    it('takes a function for a sink, and waits for it', async () => {
      const written: KeyLogEntry[] = []
      const seen: boolean[] = []
      const envelope = await open({
        keyLog: async (entries) => {
          await sleep(5)
          const rows = await rowsOfUser('alice')
          seen.push(rows.length > 0 && rows.every(({ shreddedAt }) => shreddedAt === null))
          written.push(...entries)
        },
      })
      await envelope.encrypt('alice', 'x')
      const { at } = await envelope.shredUser('alice')
      expect(seen).toEqual([true, true, false])
      expect(written).toMatchObject([
        { event: 'minted', userId: 'alice' },
        { event: 'shredding', userId: 'alice', versions: [1], at },
        { event: 'shredded', userId: 'alice', versions: [1], at },
      ])

      const refusing = await open({
        keyLog: ([entry]) => {
          if (entry?.event === 'shredding') throw new Error('hush-hush')
        },
      })
      await refusing.encrypt('bob', 'x')
      const error = await errorOf(refusing.shredUser('bob'))
      expect(error).toMatchObject({ code: 'ERR_STORE' })
      expect(error.message).not.toContain('hush')
      expect(await rowsOfUser('bob')).toMatchObject([{ shreddedAt: null }])
    })

    it('begins a line of its own after one that a crash has cut off', async () => {
      log.write('{"event":"shredded","userId":"torn","at":"2026-')
      const envelope = await open()
      await envelope.encrypt('torn', 'x')
      await envelope.shredUser('alice')
      const [torn = ''] = log.lines()
      expect(torn).toContain('"torn"')
      expect(torn).toContain('(cut off)')
      // By the line that was cut off nobody was shredded.
      const rows = await rowsOf(store)
      expect(await applyKeyLog({ store, keyLog: log.path })).toEqual([])
      expect(await rowsOf(store)).toEqual(rows)
      await expect(open()).resolves.toBeInstanceOf(EnvelopeCrypto)
    })

    it('writes whole lines when many shred at once', async () => {
      const envelope = await open()
      await Promise.all(Array.from({ length: 50 }, (_, index) => envelope.shredUser(`user-${index}`)))
      expect(log.lines()).toHaveLength(101)
      expect(new Set(shreds().map(({ userId }) => userId)).size).toBe(50)
    })
  })

  describe('applyKeyLog', () => {
    it('erases again whom a backup brought back, with the time of the first shred', async () => {
      const envelope = await open()
      for (const userId of ['alice', 'bob', 'carol']) await envelope.encrypt(userId, 'x')
      await envelope.rotateUserKey('alice')
      const restored = await backup()
      const { at } = await envelope.shredUser('alice')
      await envelope.shredUser('carol')
      const after = await rowsOf(store)
      await restored()
      expect(await applyKeyLog({ store, keyLog: log.path })).toEqual(['alice', 'carol'])
      expect(await rowsOf(store)).toEqual(after)
      expect((await rowsOfUser('alice')).map(({ shreddedAt }) => shreddedAt)).toEqual([at, at])
      await expect((await open()).encrypt('alice', 'x')).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
      // Nothing is left to do.
      expect(await applyKeyLog({ store, keyLog: log.path })).toEqual([])
      expect(await rowsOf(store)).toEqual(after)
    })

    it('of a forgotten user erases only what was made until then', async () => {
      const envelope = await open()
      for (const userId of ['alice', 'bob']) await envelope.encrypt(userId, 'x')
      const restored = await backup()
      for (const userId of ['alice', 'bob']) await envelope.shredUser(userId, { forget: true })
      await sleep(3)
      const token = await envelope.encrypt('alice', 'minted anew')
      // On the live store there is nothing to do.
      expect(await applyKeyLog({ store, keyLog: log.path })).toEqual([])
      expect(await (await open()).decrypt('alice', token)).toBe('minted anew')
      await restored()
      expect(await applyKeyLog({ store, keyLog: log.path })).toEqual(['alice', 'bob'])
      expect(await rowsOf(store)).toEqual([])

      // A version that was made since stays, the older one goes.
      const [old, fresh] = [new Date('2026-01-01'), new Date('2026-03-01')]
      await store.insertIfAbsent([await mintedRow(masterKeys, 'mixed', { createdAt: old })])
      await store.insertIfAbsent([await mintedRow(masterKeys, 'mixed', { version: 2, createdAt: fresh })])
      log.append(shredLine('mixed', new Date('2026-02-01'), true))
      expect(await applyKeyLog({ store, keyLog: log.path })).toEqual(['mixed'])
      expect((await rowsOfUser('mixed')).map(({ version }) => version)).toEqual([2])
    })

    it('believes the last line of a user', async () => {
      const [first, second] = [new Date('2026-01-01'), new Date('2026-02-01')]
      const users = ['a', 'b', 'c']
      await store.insertIfAbsent(
        await Promise.all(
          users.map((userId) => mintedRow(masterKeys, userId, { createdAt: new Date('2025-06-01') })),
        ),
      )
      log.write(
        [
          shredLine('a', first),
          shredLine('a', second, true),
          shredLine('b', first, true),
          shredLine('b', second),
          shredLine('c', first),
          shredLine('c', second),
        ].join(''),
      )
      expect(await applyKeyLog({ store, keyLog: log.path })).toEqual(['a', 'b', 'c'])
      expect(await rowsOfUser('a')).toEqual([])
      expect((await rowsOfUser('b')).map(({ shreddedAt }) => shreddedAt)).toEqual([second])
      expect((await rowsOfUser('c')).map(({ shreddedAt }) => shreddedAt)).toEqual([second])
    })

    it.each([
      ['cut off', '{"event":"shredded","userId":"bob","at":"2026-01-01T00:00:00.0'],
      ['no JSON', 'shredded bob'],
      ['no object', '"bob"'],
      ['null', 'null'],
      [
        'another event',
        '{"event":"seen","userId":"bob","version":1,"kekId":null,"at":"2026-01-01T00:00:00.000Z"}',
      ],
      ['no event', '{"userId":"bob","at":"2026-01-01T00:00:00.000Z","forget":false}'],
      ['no user', LINE.replace('"userId":"bob",', '')],
      ['no time', LINE.replace(/,"at":[^}]*/, '')],
      ['another time', LINE.replace(/"at":"[^"]*"/, '"at":"yesterday"')],
      ['another forget', LINE.replace('false', '"yes"')],
      ['versions that are none', LINE.replace('[1]', '[0]')],
      ['another KEK id', LINE.replace('[null]', '[7]')],
    ])('names the number of a damaged line and changes nothing: %s', async (_, line) => {
      const envelope = await open()
      for (const userId of ['alice', 'bob', 'carol']) await envelope.encrypt(userId, 'x')
      const before = await rowsOf(store)
      log.write(`${shredLine('alice', new Date())}\n${line}\n${shredLine('carol', new Date())}`)
      const error = await errorOf(applyKeyLog({ store, keyLog: log.path }))
      expect(error).toMatchObject({
        code: 'ERR_STORE',
        message: expect.stringContaining('Line 3 of the key log'),
      })
      expect(error.message).not.toContain('bob')
      expect(await rowsOf(store)).toEqual(before)
    })

    it('takes empty lines and the line ends of Windows, and users by the thousand', async () => {
      const users = Array.from({ length: 1050 }, (_, index) => `user-${index}`)
      await store.insertIfAbsent(
        await Promise.all(
          users.map((userId) => mintedRow(masterKeys, userId, { createdAt: new Date('2026-01-01') })),
        ),
      )
      const at = new Date('2026-02-01')
      const written = users.slice(1).map((userId) => shredLine(userId, at, true).replace('\n', '\r\n'))
      log.write(`\r\n${written.join('')}`)
      expect(await applyKeyLog({ store, keyLog: log.path })).toHaveLength(1049)
      expect((await rowsOf(store)).map(({ userId }) => userId)).toEqual(['user-0'])
    })

    it('refuses a path that is none, and says why a file cannot be read', async () => {
      for (const path of ['', 7 as unknown as string])
        await expect(applyKeyLog({ store, keyLog: path })).rejects.toMatchObject({
          code: 'ERR_INVALID_ARGUMENT',
        })
      await expect(applyKeyLog({ store, keyLog: log.path })).rejects.toMatchObject({
        code: 'ERR_STORE',
        message: expect.stringContaining('(ENOENT)'),
      })
    })
  })
})

describe('a restored file', () => {
  it('is erased again by the log, and a log of the mode of its owner stays as it is', async () => {
    const path = join(log.folder, 'keystore.db')
    const store = await openKeyStore(path)
    log.write('')
    chmodSync(log.path, 0o640)
    const envelope = await EnvelopeCrypto.open({ store, masterKeys, keyLog: log.path, closeStore: false })
    const token = await envelope.encrypt('alice', 'x')
    await store.close()
    copyFileSync(path, `${path}.backup`)

    const again = await EnvelopeCrypto.open({ store: await openKeyStore(path), masterKeys, keyLog: log.path })
    await again.shredUser('alice')
    await again.close()
    expect(statSync(log.path).mode & 0o777).toBe(0o640)
    for (const suffix of ['-wal', '-shm']) expect(existsSync(`${path}${suffix}`)).toBe(false)
    copyFileSync(`${path}.backup`, path)

    const restored = await openKeyStore(path)
    const open = () => EnvelopeCrypto.open({ store: restored, masterKeys, closeStore: false })
    expect(await (await open()).decrypt('alice', token)).toBe('x')
    expect(await applyKeyLog({ store: restored, keyLog: log.path })).toEqual(['alice'])
    await expect((await open()).decrypt('alice', token)).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
    await restored.close()
  })
})
