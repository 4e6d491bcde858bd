/** An older copy of the store comes back, before a service is opened or while it runs, and the key log shows it. */
import { chmodSync, chownSync, statSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it, vi } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import {
  applyKeyLog,
  copyKeys,
  generateMasterKey,
  type KeyRecord,
  localMasterKey,
  loggedStore,
} from '../../src/index.js'
import { ofEachTest } from '../support/each-test.js'
import { errorOf } from '../support/errors.js'
import { backends, freshStoreOfEachTest } from '../support/fresh-store.js'
import { freshKeyLog, madeLine, shredLine } from '../support/key-log-file.js'
import { mintedRow, rowsOf, rowsOfUser } from '../support/rows.js'
import { overriding } from '../support/store-doubles.js'
import { userIds } from '../support/users.js'

const masterKeys = localMasterKey(generateMasterKey())

const log = ofEachTest(freshKeyLog)

describe.each(backends)('on %s', (backend) => {
  const { test, store } = freshStoreOfEachTest(backend, { masterKeys })

  /** Puts rows in the place of all that there are. */
  async function putBack(rows: readonly KeyRecord[]): Promise<void> {
    const present = await rowsOf(store)
    if (present.length > 0) await store.remove(present)
    await store.maintenance?.restore(rows)
  }

  describe('a store in which shredded users live again', () => {
    it.each([false, true])('is refused by open, until they are erased again (forget: %s)', async (forget) => {
      const envelope = await test.open({ keyLog: log.path })
      await envelope.encrypt('alice', 'x')
      await envelope.encrypt('bob', 'x')
      const older = await rowsOf(store)
      await envelope.shredUser('alice', { forget })
      await putBack(older)
      const error = await errorOf(test.open({ keyLog: log.path }))
      expect(error).toMatchObject({ code: 'ERR_KEYS_LOST', retryable: false })
      expect(error.message).toContain('shredded')
      expect(error.message).toContain('"alice"')
      expect(error.message).not.toContain('"bob"')
      expect(await rowsOf(store)).toEqual(older)
      expect(await applyKeyLog({ store, keyLog: log.path })).toEqual(['alice'])
      const again = await test.open({ keyLog: log.path })
      expect(await again.decrypt('bob', await again.encrypt('bob', 'y'))).toBe('y')
    })

    it('or are not known to be shredded, because it is older than their keys', async () => {
      const envelope = await test.open({ keyLog: log.path })
      await envelope.encrypt('alice', 'x')
      const older = await rowsOf(store)
      await envelope.encrypt('bob', 'x')
      await envelope.shredUser('bob')
      await putBack(older)
      expect(await errorOf(test.open({ keyLog: log.path }))).toMatchObject({
        code: 'ERR_KEYS_LOST',
        message: expect.stringContaining('"bob"'),
      })
      expect(await applyKeyLog({ store, keyLog: log.path })).toEqual(['bob'])
      const again = await test.open({ keyLog: log.path })
      await expect(again.encrypt('bob', 'y')).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
    })

    it('is not one in which they were forgotten and minted anew', async () => {
      const envelope = await test.open({ keyLog: log.path })
      await envelope.encrypt('alice', 'x')
      await envelope.shredUser('alice', { forget: true })
      await envelope.encrypt('alice', 'y')
      await envelope.rotateUserKey('alice')
      await test.open({ keyLog: log.path })
    })

    it('names ten of many', async () => {
      const at = new Date('2026-01-01')
      const users = userIds(12)
      await store.insertIfAbsent(await Promise.all(users.map((userId) => mintedRow(masterKeys, userId))))
      log.write(users.map((userId) => madeLine(userId, at) + shredLine(userId, at)).join(''))
      const { message } = await errorOf(test.open({ keyLog: log.path }))
      expect(message).toContain('12 of the last users')
      expect(message.match(/"user/g)).toHaveLength(10)
    })
  })

  describe('an older copy that comes back while a service runs', () => {
    it('gets no new key, also of users who were never seen, until the newer one is back', async () => {
      const envelope = await test.open({ keyLog: log.path })
      await envelope.encrypt('alice', 'x')
      const older = await rowsOf(store)
      // Made by another process, which this one does not know of.
      const other = await test.open({ store: await test.another(), keyLog: log.path })
      const token = await other.encrypt('bob', 'x')
      const newer = await rowsOf(store)
      await putBack(older)
      for (const userId of ['bob', 'carol']) {
        await expect(envelope.encrypt(userId, 'y')).rejects.toMatchObject({
          code: 'ERR_KEYS_LOST',
          message: expect.stringContaining('"bob", version 1'),
        })
      }
      await expect(envelope.rotateUserKey('alice')).rejects.toMatchObject({ code: 'ERR_KEYS_LOST' })
      expect(await rowsOf(store)).toEqual(older)
      await putBack(newer)
      expect(await envelope.decrypt('bob', token)).toBe('x')
      expect(await envelope.decrypt('carol', await envelope.encrypt('carol', 'y'))).toBe('y')
    })

    it('is found by the newest key that has not ended', async () => {
      const envelope = await test.open({ keyLog: log.path })
      await envelope.encrypt('alice', 'x')
      await envelope.encrypt('bob', 'x')
      await envelope.rotateUserKey('bob')
      await envelope.encrypt('carol', 'x')
      await envelope.shredUser('carol', { forget: true })
      const rows = await rowsOf(store)
      await putBack(rows.filter(({ userId, version }) => userId !== 'bob' || version < 2))
      await expect(envelope.encrypt('dave', 'y')).rejects.toMatchObject({
        code: 'ERR_KEYS_LOST',
        message: expect.stringContaining('"bob", version 2'),
      })
    })

    it('is found though keys of many users have ended since', async () => {
      const envelope = await test.open({ keyLog: log.path })
      await envelope.encrypt('bob', 'x')
      const older = await rowsOf(store)
      await envelope.encrypt('alice', 'x')
      const at = new Date()
      // Others that this test need not make: they were, and were forgotten.
      log.append(
        userIds(1100)
          .map((userId) => madeLine(userId, at) + shredLine(userId, at, true))
          .join(''),
      )
      await putBack(older)
      await expect(envelope.encrypt('carol', 'y')).rejects.toMatchObject({
        code: 'ERR_KEYS_LOST',
        message: expect.stringContaining('"alice", version 1'),
      })
      expect(await errorOf(test.open({ keyLog: log.path }))).toMatchObject({ code: 'ERR_KEYS_LOST' })
    })

    it('is not one whose newest key is removed between two looks', async () => {
      const logged = loggedStore(store, log.path)
      await logged.insertIfAbsent([await mintedRow(masterKeys, 'alice')])
      let removed = false
      const removing = overriding(store, {
        async getAll(ids) {
          if (!removed) {
            removed = true
            await logged.shred('alice', { forget: true })
          }
          return store.getAll(ids)
        },
      })
      const [row] = await loggedStore(removing, log.path).insertIfAbsent([await mintedRow(masterKeys, 'bob')])
      expect(row?.userId).toBe('bob')
      expect(removed).toBe(true)
    })
  })

  it('a key that was erased before it had its line is no lost key', async () => {
    const rival = loggedStore(store, log.path)
    const slow = overriding(store, {
      async insertIfAbsent(records) {
        const winners = await store.insertIfAbsent(records)
        await rival.shred('alice', { forget: true })
        return winners
      },
    })
    await loggedStore(slow, log.path).insertIfAbsent([
      await mintedRow(masterKeys, 'alice'),
      await mintedRow(masterKeys, 'bob'),
    ])
    expect(log.entries().map(({ event, userId }) => `${event} ${userId}`)).toEqual([
      'shredding alice',
      'shredded alice',
      'minted alice',
      'minted bob',
      'lost alice',
    ])
    const envelope = await test.open({ keyLog: log.path })
    expect(await envelope.encrypt('alice', 'x')).toContain('v3:')
    expect(await rowsOfUser(store, 'alice')).toHaveLength(1)
    await test.open({ keyLog: log.path })
  })

  it('a log that others may write erases nothing', async () => {
    const envelope = await test.open({ keyLog: log.path })
    await envelope.encrypt('alice', 'x')
    const rows = await rowsOf(store)
    log.append(shredLine('alice', new Date(Date.now() + 1000)))
    for (const mode of [0o620, 0o602, 0o666]) {
      chmodSync(log.path, mode)
      for (const call of [
        () => applyKeyLog({ store, keyLog: log.path }),
        () => copyKeys({ from: memoryKeyStore(), to: store, keyLog: log.path }),
      ])
        expect(await errorOf(call())).toMatchObject({
          code: 'ERR_STORE',
          message: expect.stringContaining(`chmod go-w ${log.path}`),
        })
      expect(await rowsOf(store)).toEqual(rows)
    }
    chmodSync(log.path, 0o640)
    expect(await applyKeyLog({ store, keyLog: log.path })).toEqual(['alice'])
  })

  it("a log of another user erases nothing, unless root's process is told to use it", async () => {
    const envelope = await test.open({ keyLog: log.path })
    await envelope.encrypt('alice', 'x')
    log.append(shredLine('alice', new Date(Date.now() + 1000)))
    const { uid } = statSync(log.path)
    const getuid = vi.spyOn(process as { getuid(): number }, 'getuid')
    getuid.mockReturnValue(uid + 1000)
    if (uid !== 0)
      expect(await errorOf(applyKeyLog({ store, keyLog: log.path }))).toMatchObject({
        code: 'ERR_STORE',
        message: expect.stringContaining(`belongs to another user (uid ${uid})`),
      })
    if (uid === 0) {
      chownSync(log.path, 1234, 1234)
      const refused = await errorOf(applyKeyLog({ store, keyLog: log.path }))
      expect(refused).toMatchObject({ message: expect.stringContaining('another user (uid 1234)') })
    }
    expect((await rowsOfUser(store, 'alice'))[0]?.shreddedAt).toBeNull()
    getuid.mockReturnValue(0)
    expect(await applyKeyLog({ store, keyLog: log.path })).toEqual(['alice'])
    getuid.mockRestore()
  })

  it('a missing newest key is looked for again, since its end is logged a moment after its beginning', async () => {
    const envelope = await test.open({ keyLog: log.path })
    await envelope.encrypt('alice', 'x')
    const createdAt = new Date()
    const made = { event: 'minted', userId: 'bob', version: 1, kekId: null, at: createdAt }
    log.append(`${JSON.stringify(made)}\n`)
    const minting = envelope.encrypt('carol', 'x')
    await sleep(60)
    const ended = { event: 'lost', userId: 'bob', version: 1, kekId: null, createdAt, at: createdAt }
    log.append(`${JSON.stringify(ended)}\n`)
    expect(await minting).toContain('v3:')
    log.append(`${JSON.stringify({ ...made, userId: 'dave' })}\n`)
    expect(await errorOf(envelope.encrypt('erin', 'x'))).toMatchObject({ code: 'ERR_KEYS_LOST' })
  })
})
