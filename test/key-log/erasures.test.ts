/** The shred log: written before the erasure, outside the database, and applied again to what a backup brings back. */
import { randomBytes } from 'node:crypto'
import {
  appendFileSync,
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs'
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
import { temporaryFolder } from './support/databases.js'
import { errorOf } from './support/errors.js'
import { backends, freshStore, type TestStore } from './support/fresh-store.js'
import { mintedRow, rowsOf } from './support/rows.js'
import { overriding } from './support/store-doubles.js'

const masterKeys = localMasterKey(randomBytes(32))

let folder: { readonly path: string; remove(): void }
let shredLog: string
beforeEach(() => {
  folder = temporaryFolder()
  shredLog = join(folder.path, 'shredded.jsonl')
})
afterEach(() => folder.remove())

const lines = () => readFileSync(shredLog, 'utf8').split('\n')
const entry = (userId: string, at: Date, forget = false) => `${JSON.stringify({ userId, at, forget })}\n`

describe.each(backends)('on %s', (backend) => {
  let test: TestStore
  let store: KeyStore
  beforeEach(async () => {
    test = await freshStore(backend)
    store = test.store
  })
  afterEach(() => test.remove())

  const open = (options: Partial<Parameters<typeof EnvelopeCrypto.open>[0]> = {}) =>
    EnvelopeCrypto.open({ store, masterKeys, closeStore: false, shredLog, ...options })
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
    it('appends one line a shred, which only its owner can read', async () => {
      const envelope = await open()
      await envelope.encrypt('alice', 'x')
      await envelope.rotateUserKey('alice')
      await envelope.encrypt('"böse"\n', 'x')
      const first = await envelope.shredUser('alice')
      const second = await envelope.shredUser('"böse"\n', { forget: true })
      const written = lines()
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
      const [row] = await rowsOfUser('alice')
      expect(row?.shreddedAt?.toISOString()).toBe(JSON.parse(written[0] ?? '').at)
    })

    it('has its line before anything is erased', async () => {
      const failing = overriding(store, {
        shred: () => Promise.reject(new StoreError('planned', { retryable: true })),
      })
      const envelope = await open({ store: failing })
      await envelope.encrypt('alice', 'x')
      await expect(envelope.shredUser('alice')).rejects.toMatchObject({ code: 'ERR_STORE' })
      expect(JSON.parse(lines()[0] ?? '')).toMatchObject({
        userId: 'alice',
        versions: [1],
        kekIds: [masterKeys.id],
      })
      expect(await rowsOfUser('alice')).toMatchObject([{ shreddedAt: null }])
      // Whoever has the line finishes it.
      expect(await applyShredLog({ store, shredLog })).toEqual(['alice'])
      expect(await rowsOfUser('alice')).toMatchObject([{ shreddedAt: expect.any(Date) }])
    })

    it('shreds nothing when the log cannot be written', async () => {
      mkdirSync(join(folder.path, 'a folder'))
      for (const path of ['a folder', join('missing', 'log')]) {
        const envelope = await open({ shredLog: join(folder.path, path) })
        await envelope.encrypt('alice', 'x')
        const error = await errorOf(envelope.shredUser('alice'))
        expect(error).toMatchObject({
          code: 'ERR_STORE',
          message: expect.stringMatching(/\((EISDIR|ENOENT)\): nothing was shredded/),
        })
        expect(await rowsOfUser('alice')).toMatchObject([{ shreddedAt: null }])
        expect(await envelope.encrypt('alice', 'x')).toContain('v3:')
      }
    })

    it('takes a function for a sink, and waits for it', async () => {
      const receipts: ShredReceipt[] = []
      const seen: boolean[] = []
      const envelope = await open({
        shredLog: async (receipt) => {
          await sleep(5)
          seen.push((await rowsOfUser('alice')).every(({ shreddedAt }) => shreddedAt === null))
          receipts.push(receipt)
        },
      })
      await envelope.encrypt('alice', 'x')
      const receipt = await envelope.shredUser('alice')
      expect(seen).toEqual([true])
      expect(receipts).toMatchObject([{ userId: 'alice', versions: [1], at: receipt.at, erased: 'pending' }])

      const refusing = await open({
        shredLog: () => {
          throw new Error('hush-hush')
        },
      })
      await refusing.encrypt('bob', 'x')
      const error = await errorOf(refusing.shredUser('bob'))
      expect(error).toMatchObject({ code: 'ERR_STORE' })
      expect(error.message).not.toContain('hush')
      expect(await rowsOfUser('bob')).toMatchObject([{ shreddedAt: null }])
    })

    it('begins a line of its own after one that a crash has cut off', async () => {
      writeFileSync(shredLog, '{"userId":"torn","at":"2026-')
      await (await open()).shredUser('alice')
      expect(lines().map((line) => line.slice(0, 16))).toEqual(['{"userId":"torn"', '{"userId":"alice', ''])
      await expect(applyShredLog({ store, shredLog })).rejects.toMatchObject({
        code: 'ERR_STORE',
        message: expect.stringContaining('Line 1 of'),
      })
    })

    it('writes whole lines when many shred at once', async () => {
      const envelope = await open()
      await Promise.all(Array.from({ length: 50 }, (_, index) => envelope.shredUser(`user-${index}`)))
      expect(lines()).toHaveLength(51)
      expect(
        new Set(
          lines()
            .slice(0, -1)
            .map((line) => JSON.parse(line).userId),
        ).size,
      ).toBe(50)
    })
  })

  describe('applyShredLog', () => {
    it('erases again whom a backup brought back, with the time of the first shred', async () => {
      const envelope = await open()
      for (const userId of ['alice', 'bob', 'carol']) await envelope.encrypt(userId, 'x')
      await envelope.rotateUserKey('alice')
      const restored = await backup()
      const { at } = await envelope.shredUser('alice')
      await envelope.shredUser('carol')
      const after = await rowsOf(store)
      await restored()
      expect(await applyShredLog({ store, shredLog })).toEqual(['alice', 'carol'])
      expect(await rowsOf(store)).toEqual(after)
      expect((await rowsOfUser('alice')).map(({ shreddedAt }) => shreddedAt)).toEqual([at, at])
      await expect((await open()).encrypt('alice', 'x')).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
      // Nothing is left to do.
      expect(await applyShredLog({ store, shredLog })).toEqual([])
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
      expect(await applyShredLog({ store, shredLog })).toEqual([])
      expect(await (await open()).decrypt('alice', token)).toBe('minted anew')
      await restored()
      expect(await applyShredLog({ store, shredLog })).toEqual(['alice', 'bob'])
      expect(await rowsOf(store)).toEqual([])

      // A version that was made since stays, the older one goes.
      const [old, fresh] = [new Date('2026-01-01'), new Date('2026-03-01')]
      await store.insertIfAbsent([await mintedRow(masterKeys, 'mixed', { createdAt: old })])
      await store.insertIfAbsent([await mintedRow(masterKeys, 'mixed', { version: 2, createdAt: fresh })])
      appendFileSync(shredLog, entry('mixed', new Date('2026-02-01'), true))
      expect(await applyShredLog({ store, shredLog })).toEqual(['mixed'])
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
      writeFileSync(
        shredLog,
        [
          entry('a', first),
          entry('a', second, true),
          entry('b', first, true),
          entry('b', second),
          entry('c', first),
          entry('c', second),
        ].join(''),
      )
      expect(await applyShredLog({ store, shredLog })).toEqual(['a', 'b', 'c'])
      expect(await rowsOfUser('a')).toEqual([])
      expect((await rowsOfUser('b')).map(({ shreddedAt }) => shreddedAt)).toEqual([second])
      expect((await rowsOfUser('c')).map(({ shreddedAt }) => shreddedAt)).toEqual([second])
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
      const envelope = await open()
      for (const userId of ['alice', 'bob', 'carol']) await envelope.encrypt(userId, 'x')
      const before = await rowsOf(store)
      writeFileSync(shredLog, `${entry('alice', new Date())}\n${line}\n${entry('carol', new Date())}`)
      const error = await errorOf(applyShredLog({ store, shredLog }))
      expect(error).toMatchObject({
        code: 'ERR_STORE',
        message: expect.stringContaining('Line 3 of the shred log'),
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
      const log = users.slice(1).map((userId) => entry(userId, at, true))
      writeFileSync(shredLog, `\r\n${log.join('\r\n')}`)
      expect(await applyShredLog({ store, shredLog })).toHaveLength(1049)
      expect((await rowsOf(store)).map(({ userId }) => userId)).toEqual(['user-0'])
    })

    it('refuses a path that is none, and says why a file cannot be read', async () => {
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
  it('is erased again by the log, and a log of the mode of its owner stays as it is', async () => {
    const path = join(folder.path, 'keystore.db')
    const store = await openKeyStore(path)
    writeFileSync(shredLog, '')
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
