/** A key log that an application gets when its store has keys already: what it lacks is recorded, once. */
import { randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import {
  applyKeyLog,
  findLostKeys,
  localMasterKey,
  loggedStore,
  type RecordKeysOptions,
  recordKeys,
} from '../../src/index.js'
import { itIf } from '../support/conditional.js'
import type { Dialect } from '../support/databases.js'
import { ofEachTest } from '../support/each-test.js'
import { backends, freshStoreOfEachTest } from '../support/fresh-store.js'
import { freshKeyLog, madeLine, shredLine } from '../support/key-log-file.js'
import { fill, randomRecord, rowsOf, spoilTime } from '../support/rows.js'
import { overriding } from '../support/store-doubles.js'
import { orderedUserIds } from '../support/users.js'

const masterKeys = localMasterKey(randomBytes(32))
const NOTHING_UNREADABLE = { count: 0, rows: [] }

const log = ofEachTest(freshKeyLog)

describe.each(backends)('on %s', (backend) => {
  const { test, store } = freshStoreOfEachTest(backend)
  const record = (options: Partial<RecordKeysOptions> = {}) =>
    recordKeys({ store, keyLog: log.path, ...options })
  const open = () => test.open({ masterKeys, keyLog: log.path })

  it('records the keys that are older than the log, and makes their loss known', async () => {
    const users = orderedUserIds(1500)
    await fill(store, masterKeys, users, { createdAt: new Date('2026-01-01') })
    const envelope = await test.open({ masterKeys })
    await envelope.rotateUserKey('user-000007')
    expect(await record()).toEqual({
      complete: true,
      keys: 1501,
      shredded: 0,
      unreadable: NOTHING_UNREADABLE,
    })
    const rows = await rowsOf(store)
    expect(log.entries().slice(0, rows.length)).toEqual(
      rows.map(({ userId, version, kekId, createdAt }) => {
        return { event: version === 1 ? 'minted' : 'rotated', userId, version, kekId, at: createdAt }
      }),
    )
    // The last line has the newest key, which a service asks for before it inserts any.
    expect(log.entries().at(-1)).toMatchObject({ event: 'rotated', userId: 'user-000007' })
    await open()
    await store.remove([{ userId: 'user-000003', version: 1 }])
    expect(await findLostKeys({ store, keyLog: log.path })).toMatchObject({
      count: 1,
      keys: [{ userId: 'user-000003' }],
    })
    await store.remove([{ userId: 'user-000007', version: 2 }])
    await expect(open()).rejects.toMatchObject({ code: 'ERR_KEYS_LOST' })
  })

  it('records nothing twice, and only what the log lacks', async () => {
    await fill(store, masterKeys, ['alice', 'carol'])
    await (await open()).encrypt('bob', 'x')
    expect(await record({ dryRun: true })).toMatchObject({ keys: 2 })
    expect(log.entries()).toHaveLength(1)
    expect(await record()).toMatchObject({ keys: 2 })
    const lines = log.lines()
    expect(await record()).toMatchObject({ keys: 0, shredded: 0 })
    expect(log.lines()).toEqual(lines)
    expect(await findLostKeys({ store, keyLog: log.path })).toEqual({ count: 0, keys: [] })
  })

  it('records who was shredded, so that a backup does not bring the user back', async () => {
    await fill(store, masterKeys, ['alice', 'bob', ''])
    const backup = await rowsOf(store)
    await store.shred('bob', { forget: false })
    await store.shred('', { forget: false })
    log.write(shredLine('dave', new Date('2020-01-01'), true))
    await store.shred('dave', { forget: false })
    const tombstones = (await rowsOf(store)).filter(({ shreddedAt }) => shreddedAt !== null)
    expect(await record()).toMatchObject({ keys: 1, shredded: 2 })
    const [, , bob, dave] = log.entries()
    const at = tombstones.find(({ userId }) => userId === 'bob')?.shreddedAt
    expect(bob).toEqual({
      event: 'shredded',
      userId: 'bob',
      versions: [1],
      kekIds: [masterKeys.id],
      forget: false,
      at,
    })
    // That dave was forgotten long ago says nothing of the tombstone.
    expect(dave).toMatchObject({ event: 'shredded', userId: 'dave', forget: false })
    expect(await record()).toMatchObject({ keys: 0, shredded: 0 })
    await store.remove(await rowsOf(store))
    await store.maintenance?.restore(backup)
    expect(await applyKeyLog({ store, keyLog: log.path })).toEqual(expect.arrayContaining(['bob']))
    expect((await store.getActive(['bob'])).get('bob')?.shreddedAt).toEqual(at)
  })

  it('refuses a store that lacks keys of the log, or has shredded ones, and records nothing', async () => {
    await fill(store, masterKeys, ['alice'])
    for (const line of [madeLine('zoe', new Date()), shredLine('alice', new Date(), true)]) {
      log.write(line)
      await expect(record()).rejects.toMatchObject({ code: 'ERR_KEYS_LOST' })
      expect(log.lines()).toEqual([line.trimEnd(), ''])
    }
  })

  it('ends a key that is removed while it is recorded: it is not lost, and no backup makes it live', async () => {
    await fill(store, masterKeys, ['alice', 'bob', 'carol'])
    const backup = await rowsOf(store)
    const logged = loggedStore(store, log.path)
    const changing = overriding(store, {
      async list(page) {
        const rows = await store.list(page)
        if (page.after === undefined) {
          await logged.shred('alice', { forget: true })
          await logged.remove([{ userId: 'bob', version: 1 }])
        }
        return rows
      },
    })
    expect(await record({ store: changing })).toMatchObject({ keys: 3 })
    expect(await findLostKeys({ store, keyLog: log.path })).toEqual({ count: 0, keys: [] })
    await store.maintenance?.restore(backup)
    expect(await applyKeyLog({ store, keyLog: log.path })).toEqual(['alice'])
  })

  itIf(backend !== 'memory', 'in memory every time is a Date')(
    'passes over a row that cannot be read, and names it',
    async () => {
      await fill(store, masterKeys, ['alice', 'bob', 'carol'])
      await spoilTime(backend as Dialect, test.url ?? '', 'bob')
      expect(await record()).toEqual({
        complete: true,
        keys: 2,
        shredded: 0,
        unreadable: { count: 1, rows: [{ userId: 'bob', version: 1 }] },
      })
    },
  )

  it('stops after a page when it is told to, and goes on when it is done again', async () => {
    await store.insertIfAbsent(orderedUserIds(2500).map((userId) => randomRecord(userId)))
    const controller = new AbortController()
    const stopping = overriding(store, {
      list(page) {
        if (page.after !== undefined) controller.abort()
        return store.list(page)
      },
    })
    const { complete, keys } = await record({ store: stopping, signal: controller.signal })
    expect([complete, keys]).toEqual([false, 2000])
    expect(await record()).toMatchObject({ complete: true, keys: 500 })
  })

  it('refuses a transaction, a function, and a file that cannot be written', async () => {
    const inTransaction = overriding(store, { transactional: true })
    await expect(record({ store: inTransaction })).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    const sink = { store, keyLog: () => undefined } as unknown as RecordKeysOptions
    await expect(recordKeys(sink)).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    await expect(record({ keyLog: log.folder })).rejects.toMatchObject({
      code: 'ERR_STORE',
      message: expect.stringContaining('no key was recorded'),
    })
  })
})
