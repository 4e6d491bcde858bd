/** copyKeys and shredded users: what erases keys at the target, and what only says so. */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  applyKeyLog,
  copyKeys,
  EnvelopeCrypto,
  type KeyRecord,
  type KeyStore,
  localMasterKey,
} from '../../src/index.js'
import { errorOf } from '../support/errors.js'
import { chosenPairs, freshStore, type TestStore } from '../support/fresh-store.js'
import { freshKeyLog, type KeyLogFile, shredLine } from '../support/key-log-file.js'
import { storeMaintenance } from '../support/maintenance.js'
import { fill, rowsOf, rowsOfUser } from '../support/rows.js'
import { overriding } from '../support/store-doubles.js'

const masterKeys = localMasterKey(randomBytes(32))
const open = (store: KeyStore) => EnvelopeCrypto.open({ store, masterKeys, closeStore: false })

const pairs = chosenPairs(['sqlite', 'postgres'], ['postgres', 'sqlite'], ['sqlite', 'memory'])

describe.each(pairs)('copyKeys from %s to %s', (source, target) => {
  let from: TestStore
  let to: TestStore
  let stores: { readonly from: KeyStore; readonly to: KeyStore }
  beforeEach(async () => {
    from = await freshStore(source)
    to = await freshStore(target)
    stores = { from: from.store, to: to.store }
  })
  afterEach(async () => {
    await from.remove()
    await to.remove()
  })

  describe('a user whom the source has shredded, and whose key is live at the target', () => {
    /** Rows as somebody writes them who has a backup in hand: erased, with the creation times that they had. */
    async function plantTombstones(userIds: readonly string[]): Promise<void> {
      const maintenance = from.store.maintenance
      const rows = (await rowsOf(to.store)).filter(({ userId }) => userIds.includes(userId))
      const shreddedAt = new Date()
      await maintenance?.restore(rows.map((row) => ({ ...row, encryptedKey: new Uint8Array(0), shreddedAt })))
    }
    const codeOf = (userId: string) =>
      open(to.store).then((envelope) =>
        (userId === '' ? envelope.pool.encrypt('x') : envelope.encrypt(userId, 'x')).then(
          () => 'live',
          ({ code }) => code,
        ),
      )
    const USERS = ['', 'alice', 'bob']
    beforeEach(() => fill(to.store, masterKeys, USERS))

    it('stays live, the pool too, and is named: nothing is written', async () => {
      await fill(from.store, masterKeys, ['a new one'])
      await plantTombstones(USERS)
      const before = await rowsOf(to.store)
      const plan = await copyKeys({ ...stores, dryRun: true, batchSize: 2 })
      expect(plan).toMatchObject({ refused: USERS, shredded: [], conflictCount: 0, copied: 1 })
      const error = await errorOf(copyKeys({ ...stores, batchSize: 2 }))
      expect(error).toMatchObject({ code: 'ERR_CONFLICT', retryable: false })
      expect(error.message).toContain('the pool, "alice", "bob"')
      expect(error.message).toContain('--apply-erasures')
      expect(await rowsOf(to.store)).toEqual(before)
      for (const userId of USERS) expect(await codeOf(userId)).toBe('live')
    })

    it('is not ended by a tombstone under a version that the target has not', async () => {
      const tombstone = { version: 7, encryptedKey: new Uint8Array(0), kekId: null, wrappedAt: null }
      const at = new Date()
      await from.store.maintenance?.restore([{ ...tombstone, userId: 'bob', createdAt: at, shreddedAt: at }])
      await expect(copyKeys(stores)).rejects.toMatchObject({ code: 'ERR_CONFLICT' })
      expect(await codeOf('bob')).toBe('live')
      expect(await copyKeys({ ...stores, applyErasures: true })).toMatchObject({ shredded: ['bob'] })
      expect(await codeOf('bob')).toBe('ERR_KEY_SHREDDED')
    })

    it('is erased by the same tombstone of both stores, beside which the target has a live row', async () => {
      await to.store.remove(['', 'bob'].map((userId) => ({ userId, version: 1 })))
      await fill(to.store, masterKeys, ['alice'], { version: 2 })
      await plantTombstones(['alice'])
      // In the source both rows are erased; in the target the tombstone of the first stands beside the live second.
      const [tombstone] = await rowsOfUser(from.store, 'alice')
      await to.store.remove([{ userId: 'alice', version: 1 }])
      await to.store.maintenance?.restore([tombstone as KeyRecord])
      await from.store.remove([{ userId: 'alice', version: 2 }])
      for (const stops of [{ dryRun: true }, { signal: AbortSignal.abort() }]) {
        const shredded = 'dryRun' in stops ? ['alice'] : []
        expect(await copyKeys({ ...stores, applyErasures: true, ...stops })).toMatchObject({ shredded })
        expect((await rowsOfUser(to.store, 'alice'))[1]?.encryptedKey).not.toHaveLength(0)
      }
      const report = await copyKeys({ ...stores, applyErasures: true })
      expect(report).toMatchObject({ complete: true, shredded: ['alice'], copied: 0, extra: 1 })
      expect((await rowsOfUser(to.store, 'alice')).map(({ encryptedKey }) => encryptedKey.length)).toEqual([
        0, 0,
      ])
      expect(await copyKeys({ ...stores, applyErasures: true })).toMatchObject({
        shredded: [],
        extra: 1,
      })
      await to.store.remove([{ userId: 'alice', version: 2 }])
      expect(await copyKeys(stores)).toMatchObject({ shredded: [], extra: 0, equal: true })
    })

    it('is not counted among the rows that only the target has, and hides none of them', async () => {
      await fill(from.store, masterKeys, ['carol'])
      await fill(to.store, masterKeys, ['carol'])
      await plantTombstones(['alice'])
      const second = { ...((await rowsOfUser(from.store, 'alice'))[0] as KeyRecord), version: 2 }
      await from.store.maintenance?.restore([second])
      const plan = await copyKeys({ ...stores, dryRun: true })
      // The pool and bob.
      expect(plan).toMatchObject({
        refused: ['alice'],
        conflicts: [{ userId: 'carol' }],
        copied: 0,
        extra: 2,
      })
    })

    it('is erased when it is asked for: all of them, or those who are named', async () => {
      await plantTombstones(USERS)
      const some = await errorOf(copyKeys({ ...stores, applyErasures: ['alice', ''] }))
      expect(some).toMatchObject({ code: 'ERR_CONFLICT' })
      expect(some.message).toContain('target: "bob".')
      expect(await codeOf('alice')).toBe('live')
      expect(await copyKeys({ ...stores, applyErasures: USERS })).toMatchObject({
        shredded: USERS,
        refused: [],
        equal: true,
      })
      for (const userId of USERS) expect(await codeOf(userId)).toBe('ERR_KEY_SHREDDED')
      for (const applyErasures of ['all', 1, [7], null])
        await expect(copyKeys({ ...stores, applyErasures: applyErasures as never })).rejects.toMatchObject({
          code: 'ERR_INVALID_ARGUMENT',
        })
    })

    it('is not erased once a page before has been refused', async () => {
      await fill(from.store, masterKeys, ['b, before bob'])
      await plantTombstones(['bob'])
      const shredded: string[] = []
      const refusing = overriding(to.store, {
        maintenance: { ...storeMaintenance(to.store), restore: () => Promise.reject(new Error('an outage')) },
        shred: async (userId) => {
          shredded.push(userId)
          throw new Error('not to be called')
        },
      })
      const copying = copyKeys({ from: from.store, to: refusing, batchSize: 1, applyErasures: true })
      await expect(copying).rejects.toThrow('an outage')
      expect(shredded).toEqual([])
    })

    it('is refused too if it is shredded while the copy runs', async () => {
      await fill(from.store, masterKeys, ['minted at the source'])
      let lists = 0
      const changing = overriding(from.store, {
        async list(page) {
          lists += 1
          // A page and the empty one after it are read by each look: this is the second look.
          if (lists === 3) await plantTombstones(['alice'])
          return from.store.list(page)
        },
      })
      await expect(copyKeys({ ...stores, from: changing })).rejects.toMatchObject({ code: 'ERR_CONFLICT' })
      expect(await codeOf('alice')).toBe('live')
    })

    it('is erased without being asked for if the key log names the user, and recorded in it otherwise', async () => {
      const log = freshKeyLog()
      try {
        await plantTombstones(['alice', 'bob'])
        log.write(shredLine('alice', new Date()))
        const keyLog = log.path
        const refused = await errorOf(copyKeys({ ...stores, keyLog }))
        expect(refused.message).toContain('target: "bob".')
        expect(await copyKeys({ ...stores, keyLog, applyErasures: ['bob'] })).toMatchObject({
          shredded: ['alice', 'bob'],
        })
        expect(log.entries().map(({ userId }) => userId)).toEqual(['alice', 'bob', 'bob'])
      } finally {
        log.remove()
      }
    })

    it('is the pool: no line of a key log ends it', async () => {
      const log = freshKeyLog()
      try {
        log.write(shredLine('', new Date()) + shredLine('', new Date(), true))
        await fill(from.store, masterKeys, ['carol'])
        expect(await copyKeys({ ...stores, keyLog: log.path })).toMatchObject({ shredded: [], copied: 1 })
        expect(await applyKeyLog({ store: to.store, keyLog: log.path })).toEqual([])
        expect(await codeOf('')).toBe('live')
      } finally {
        log.remove()
      }
    })
  })

  describe('with a key log', () => {
    let file: KeyLogFile
    let keyLog: string
    beforeEach(() => {
      file = freshKeyLog()
      keyLog = file.path
    })
    afterEach(() => file.remove())
    const at = new Date('2026-02-01T00:00:00.000Z')
    const log = (...entries: [string, boolean][]) =>
      file.write(entries.map(([userId, forget]) => shredLine(userId, at, forget)).join(''))

    it('lets those arrive erased whom it names, or not at all', async () => {
      const createdAt = new Date('2026-01-01')
      await fill(from.store, masterKeys, ['alice', 'bob', 'carol'], { createdAt })
      await fill(from.store, masterKeys, ['minted anew'], { createdAt: new Date('2026-03-01') })
      log(['alice', false], ['bob', true], ['minted anew', true], ['nobody', false])
      expect(await copyKeys({ ...stores, keyLog, dryRun: true })).toMatchObject({ copied: 3, shredded: [] })
      expect(await rowsOf(to.store)).toEqual([])
      const report = await copyKeys({ ...stores, keyLog })
      expect(report).toMatchObject({ complete: true, copied: 3, shredded: [], extra: 0, equal: true })
      expect((await rowsOf(to.store)).map(({ userId, shreddedAt }) => [userId, shreddedAt])).toEqual([
        ['alice', at],
        ['carol', null],
        ['minted anew', null],
      ])
      expect((await rowsOf(to.store))[0]?.encryptedKey).toHaveLength(0)
      // The source is as it was.
      expect((await rowsOf(from.store)).every(({ shreddedAt }) => shreddedAt === null)).toBe(true)
    })

    it('erases them at the target, where an earlier copy has them', async () => {
      await fill(from.store, masterKeys, ['alice', 'bob', 'carol'], { createdAt: new Date('2026-01-01') })
      await fill(to.store, masterKeys, ['only here'], { createdAt: new Date('2026-01-01') })
      await copyKeys(stores)
      log(['alice', false], ['bob', true], ['only here', false])
      const plan = await copyKeys({ ...stores, keyLog, dryRun: true })
      expect([...plan.shredded].sort()).toEqual(['alice', 'bob', 'only here'])
      const report = await copyKeys({ ...stores, keyLog })
      expect([...report.shredded].sort()).toEqual(['alice', 'bob', 'only here'])
      expect(report).toMatchObject({ complete: true, extra: 1, equal: false })
      expect((await rowsOf(to.store)).map(({ userId, shreddedAt }) => [userId, shreddedAt])).toEqual([
        ['alice', at],
        ['carol', null],
        ['only here', at],
      ])
      expect(await copyKeys({ ...stores, keyLog })).toMatchObject({ copied: 0, shredded: [], extra: 1 })
    })

    it('is not begun with a log that is damaged or missing', async () => {
      await fill(from.store, masterKeys, ['alice'])
      await expect(copyKeys({ ...stores, keyLog })).rejects.toMatchObject({ code: 'ERR_STORE' })
      file.write('no line\n')
      await expect(copyKeys({ ...stores, keyLog })).rejects.toMatchObject({ code: 'ERR_STORE' })
      expect(await rowsOf(to.store)).toEqual([])
    })
  })
})
