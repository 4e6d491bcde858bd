/** The shred log: it is written before the erasure, outside the database, and applied again to rows that a backup brings back. */
import { randomBytes } from 'node:crypto'
import { chmodSync, copyFileSync, existsSync, mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../src/adapters/open.js'
import {
  applyShredLog,
  EnvelopeCrypto,
  type KeyStore,
  localMasterKey,
  type ShredReceipt,
  StoreError,
} from '../src/index.js'
import { errorOf } from './support/errors.js'
import { backends, freshStore, type TestStore } from './support/fresh-store.js'
import { mintedRow, rowsOf, rowsOfUser } from './support/rows.js'
import { freshShredLog, type ShredLogFile, shredLine } from './support/shred-log-file.js'
import { overriding } from './support/store-doubles.js'

const masterKeys = localMasterKey(randomBytes(32))

let log: ShredLogFile
let shredLog: string
beforeEach(() => {
  log = freshShredLog()
  shredLog = log.path
})
afterEach(() => log.remove())

describe.each(backends)('on %s', (backend) => {
  let test: TestStore
  let store: KeyStore
  beforeEach(async () => {
    test = await freshStore(backend, { masterKeys, shredLog })
    store = test.store
  })
  afterEach(() => test.remove())

  /** Takes a backup of the rows. @returns a function that restores it, in place of the rows there are then */
  async function backup() {
    const rows = await rowsOf(store)
    return async function restore() {
      await store.remove(await rowsOf(store))
      await store.insertIfAbsent(rows)
      expect(await rowsOf(store)).toEqual(rows)
    }
  }

  describe('shredUser', () => {
    it('appends one line for each shred to a file that its owner alone can read', async () => {
      const envelope = await test.open()
      await envelope.encrypt('alice', 'x')
      await envelope.rotateUserKey('alice')
      await envelope.encrypt('"böse"\n', 'x')
      const first = await envelope.shredUser('alice')
      const second = await envelope.shredUser('"böse"\n', { forget: true })
      const written = log.lines()
      expect(written).toHaveLength(3)
      expect(written[2]).toBe('')
      for (const [index, receipt] of [first, second].entries()) {
        const { pending, erased, ...rest } = JSON.parse(written[index] ?? '')
        const { pending: _p, erased: _e, ...given } = receipt
        expect(rest).toEqual(JSON.parse(JSON.stringify(given)))
        expect([erased, pending]).toEqual(['pending', expect.any(String)])
      }
      expect(statSync(shredLog).mode & 0o777).toBe(0o600)
      // The tombstone has the time of the line.
      const [row] = await rowsOfUser(store, 'alice')
      expect(row?.shreddedAt?.toISOString()).toBe(JSON.parse(written[0] ?? '').at)
    })

    it('writes the line before anything is erased', async () => {
      const failing = overriding(store, {
        shred: () => Promise.reject(new StoreError('planned', { retryable: true })),
      })
      const envelope = await test.open({ store: failing })
      await envelope.encrypt('alice', 'x')
      await expect(envelope.shredUser('alice')).rejects.toMatchObject({ code: 'ERR_STORE' })
      expect(JSON.parse(log.lines()[0] ?? '')).toMatchObject({
        userId: 'alice',
        versions: [1],
        kekIds: [masterKeys.id],
      })
      expect(await rowsOfUser(store, 'alice')).toMatchObject([{ shreddedAt: null }])
      // Applying the log completes the shred.
      expect(await applyShredLog({ store, shredLog })).toEqual(['alice'])
      expect(await rowsOfUser(store, 'alice')).toMatchObject([{ shreddedAt: expect.any(Date) }])
    })

    it('shreds nothing when the log cannot be written', async () => {
      mkdirSync(join(log.folder, 'a folder'))
      for (const path of ['a folder', join('missing', 'log')]) {
        const envelope = await test.open({ shredLog: join(log.folder, path) })
        await envelope.encrypt('alice', 'x')
        const error = await errorOf(envelope.shredUser('alice'))
        expect(error).toMatchObject({
          code: 'ERR_STORE',
          message: expect.stringMatching(/\((EISDIR|ENOENT)\): nothing was shredded/),
        })
        expect(await rowsOfUser(store, 'alice')).toMatchObject([{ shreddedAt: null }])
        expect(await envelope.encrypt('alice', 'x')).toContain('v3:')
      }
    })

    it('takes a function as a sink, and waits for it', async () => {
      const receipts: ShredReceipt[] = []
      const seen: boolean[] = []
      const envelope = await test.open({
        shredLog: async (receipt) => {
          await sleep(5)
          seen.push((await rowsOfUser(store, 'alice')).every(({ shreddedAt }) => shreddedAt === null))
          receipts.push(receipt)
        },
      })
      await envelope.encrypt('alice', 'x')
      const receipt = await envelope.shredUser('alice')
      expect(seen).toEqual([true])
      expect(receipts).toMatchObject([{ userId: 'alice', versions: [1], at: receipt.at, erased: 'pending' }])

      const refusing = await test.open({
        shredLog: () => {
          throw new Error('hush-hush')
        },
      })
      await refusing.encrypt('bob', 'x')
      const error = await errorOf(refusing.shredUser('bob'))
      expect(error).toMatchObject({ code: 'ERR_STORE' })
      expect(error.message).not.toContain('hush')
      expect(await rowsOfUser(store, 'bob')).toMatchObject([{ shreddedAt: null }])
    })

    it('begins a line of its own after one that a crash has cut off', async () => {
      log.write('{"userId":"torn","at":"2026-')
      await (await test.open()).shredUser('alice')
      expect(log.lines().map((line) => line.slice(0, 16))).toEqual([
        '{"userId":"torn"',
        '{"userId":"alice',
        '',
      ])
      await expect(applyShredLog({ store, shredLog })).rejects.toMatchObject({
        code: 'ERR_STORE',
        message: expect.stringContaining('Line 1 of'),
      })
    })

    it('writes whole lines when many users are shredded at once', async () => {
      const envelope = await test.open()
      await Promise.all(Array.from({ length: 50 }, (_, index) => envelope.shredUser(`user-${index}`)))
      expect(log.lines()).toHaveLength(51)
      expect(
        new Set(
          log
            .lines()
            .slice(0, -1)
            .map((line) => JSON.parse(line).userId),
        ).size,
      ).toBe(50)
    })
  })

  describe('applyShredLog', () => {
    it('erases users again whom a backup brought back, with the time of the first shred', async () => {
      const envelope = await test.open()
      for (const userId of ['alice', 'bob', 'carol']) await envelope.encrypt(userId, 'x')
      await envelope.rotateUserKey('alice')
      const restore = await backup()
      const { at } = await envelope.shredUser('alice')
      await envelope.shredUser('carol')
      const after = await rowsOf(store)
      await restore()
      expect(await applyShredLog({ store, shredLog })).toEqual(['alice', 'carol'])
      expect(await rowsOf(store)).toEqual(after)
      expect((await rowsOfUser(store, 'alice')).map(({ shreddedAt }) => shreddedAt)).toEqual([at, at])
      await expect((await test.open()).encrypt('alice', 'x')).rejects.toMatchObject({
        code: 'ERR_KEY_SHREDDED',
      })
      // Nothing is left to do.
      expect(await applyShredLog({ store, shredLog })).toEqual([])
      expect(await rowsOf(store)).toEqual(after)
    })

    it('erases of a forgotten user only the versions that were minted before', async () => {
      const envelope = await test.open()
      for (const userId of ['alice', 'bob']) await envelope.encrypt(userId, 'x')
      const restore = await backup()
      for (const userId of ['alice', 'bob']) await envelope.shredUser(userId, { forget: true })
      await sleep(3)
      const token = await envelope.encrypt('alice', 'minted anew')
      // The live store has nothing to erase.
      expect(await applyShredLog({ store, shredLog })).toEqual([])
      expect(await (await test.open()).decrypt('alice', token)).toBe('minted anew')
      await restore()
      expect(await applyShredLog({ store, shredLog })).toEqual(['alice', 'bob'])
      expect(await rowsOf(store)).toEqual([])

      // A version minted after the shred stays, an older one is erased.
      const [old, fresh] = [new Date('2026-01-01'), new Date('2026-03-01')]
      await store.insertIfAbsent([await mintedRow(masterKeys, 'mixed', { createdAt: old })])
      await store.insertIfAbsent([await mintedRow(masterKeys, 'mixed', { version: 2, createdAt: fresh })])
      log.append(shredLine('mixed', new Date('2026-02-01'), true))
      expect(await applyShredLog({ store, shredLog })).toEqual(['mixed'])
      expect((await rowsOfUser(store, 'mixed')).map(({ version }) => version)).toEqual([2])
    })

    it('follows the last line of a user', async () => {
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
      expect(await applyShredLog({ store, shredLog })).toEqual(['a', 'b', 'c'])
      expect(await rowsOfUser(store, 'a')).toEqual([])
      expect((await rowsOfUser(store, 'b')).map(({ shreddedAt }) => shreddedAt)).toEqual([second])
      expect((await rowsOfUser(store, 'c')).map(({ shreddedAt }) => shreddedAt)).toEqual([second])
    })

    it.each([
      ['cut off', '{"userId":"bob","at":"2026-01-01T00:00:00.0'],
      ['no JSON', 'shredded bob'],
      ['no object', '"bob"'],
      ['null', 'null'],
      ['no user', '{"at":"2026-01-01T00:00:00.000Z"}'],
      ['no time', '{"userId":"bob"}'],
      ['another time', '{"userId":"bob","at":"yesterday"}'],
      ['another forget', '{"userId":"bob","at":"2026-01-01T00:00:00.000Z","forget":"yes"}'],
    ])('names the number of a damaged line and changes nothing: %s', async (_, line) => {
      const envelope = await test.open()
      for (const userId of ['alice', 'bob', 'carol']) await envelope.encrypt(userId, 'x')
      const before = await rowsOf(store)
      log.write(`${shredLine('alice', new Date())}\n${line}\n${shredLine('carol', new Date())}`)
      const error = await errorOf(applyShredLog({ store, shredLog }))
      expect(error).toMatchObject({
        code: 'ERR_STORE',
        message: expect.stringContaining('Line 3 of the shred log'),
      })
      expect(error.message).not.toContain('bob')
      expect(await rowsOf(store)).toEqual(before)
    })

    it('reads empty lines, line ends of Windows, and thousands of users', async () => {
      const users = Array.from({ length: 1050 }, (_, index) => `user-${index}`)
      await store.insertIfAbsent(
        await Promise.all(
          users.map((userId) => mintedRow(masterKeys, userId, { createdAt: new Date('2026-01-01') })),
        ),
      )
      const at = new Date('2026-02-01')
      const shreds = users.slice(1).map((userId) => shredLine(userId, at, true))
      log.write(`\r\n${shreds.join('\r\n')}`)
      expect(await applyShredLog({ store, shredLog })).toHaveLength(1049)
      expect((await rowsOf(store)).map(({ userId }) => userId)).toEqual(['user-0'])
    })

    it('refuses an invalid path, and says why a file cannot be read', async () => {
      for (const path of ['', 7 as unknown as string])
        await expect(applyShredLog({ store, shredLog: path })).rejects.toMatchObject({
          code: 'ERR_INVALID_ARGUMENT',
        })
      await expect(applyShredLog({ store, shredLog })).rejects.toMatchObject({
        code: 'ERR_STORE',
        message: expect.stringContaining('(ENOENT)'),
      })
    })
  })
})

describe('a restored file', () => {
  it('is erased again by the log, and a log that was there keeps its mode', async () => {
    const path = join(log.folder, 'keystore.db')
    const store = await openKeyStore(path)
    log.write('')
    chmodSync(shredLog, 0o640)
    const envelope = await EnvelopeCrypto.open({ store, masterKeys, shredLog, closeStore: false })
    const token = await envelope.encrypt('alice', 'x')
    await store.close()
    copyFileSync(path, `${path}.backup`)

    const again = await EnvelopeCrypto.open({ store: await openKeyStore(path), masterKeys, shredLog })
    await again.shredUser('alice')
    await again.close()
    expect(statSync(shredLog).mode & 0o777).toBe(0o640)
    for (const suffix of ['-wal', '-shm']) expect(existsSync(`${path}${suffix}`)).toBe(false)
    copyFileSync(`${path}.backup`, path)

    const restored = await openKeyStore(path)
    const open = () => EnvelopeCrypto.open({ store: restored, masterKeys, closeStore: false })
    expect(await (await open()).decrypt('alice', token)).toBe('x')
    expect(await applyShredLog({ store: restored, shredLog })).toEqual(['alice'])
    await expect((await open()).decrypt('alice', token)).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
    await restored.close()
  })
})
