/** A store that lacks keys of its key log: open refuses it, and whoever asks is told which keys are missing. */
import { randomBytes } from 'node:crypto'
import { beforeEach, describe, expect, it } from 'vitest'
import {
  type EnvelopeCrypto,
  type EnvelopeCryptoOptions,
  findLostKeys,
  type KeyRecord,
  type KeystoreEvent,
  localMasterKey,
  loggedStore,
  masterKeyring,
  pruneRetired,
  rewrapAll,
} from '../../src/index.js'
import { giveUpLostKeys } from '../../src/key-log/lost-keys.js'
import { itIf } from '../support/conditional.js'
import type { Dialect } from '../support/databases.js'
import { ofEachTest } from '../support/each-test.js'
import { errorOf } from '../support/errors.js'
import { backends, freshStoreOfEachTest } from '../support/fresh-store.js'
import { freshKeyLog, madeLine, shredLine } from '../support/key-log-file.js'
import { alterRow, fill, rowsOf, spoilTime } from '../support/rows.js'
import { countedStore, recordingCalls } from '../support/store-doubles.js'
import { orderedUserIds, userIds } from '../support/users.js'

const masterKeys = localMasterKey(randomBytes(32))

const log = ofEachTest(freshKeyLog)

describe.each(backends)('on %s', (backend) => {
  const { test, store } = freshStoreOfEachTest(backend)
  let events: KeystoreEvent[]
  beforeEach(() => {
    events = []
  })
  const open = (options: Partial<EnvelopeCryptoOptions> = {}): Promise<EnvelopeCrypto> =>
    test.open({ masterKeys, keyLog: log.path, onEvent: (event) => events.push(event), ...options })
  const lost = async () => (await findLostKeys({ store, keyLog: log.path })).keys

  /** Puts rows in the place of all that there are, as an older copy does. */
  async function putBack(rows: readonly KeyRecord[]): Promise<void> {
    const present = await rowsOf(store)
    if (present.length > 0) await store.remove(present)
    await store.maintenance?.restore(rows)
  }

  /** Refused, and nothing is minted. */
  async function expectRefused(count: number, named: readonly string[]): Promise<Error> {
    const before = await rowsOf(store)
    events.length = 0
    const error = await errorOf(open())
    expect(error).toMatchObject({ code: 'ERR_KEYS_LOST', retryable: false })
    for (const userId of named) expect(error.message).toContain(`"${userId}", version 1`)
    expect(error.message).toContain('keystore restore FILE --key-log')
    expect(events).toEqual([
      { type: 'keysLost', count, users: named.map((userId) => ({ userId, version: 1 })) },
    ])
    expect(await rowsOf(store)).toEqual(before)
    return error
  }

  it('refuses an older copy, and names what is missing; the newer one opens', async () => {
    const envelope = await open()
    await envelope.encrypt('alice', 'x')
    const older = await rowsOf(store)
    const token = await envelope.encrypt('bob', 'secret of bob')
    const newer = await rowsOf(store)
    await putBack(older)
    await expectRefused(1, ['bob'])
    expect(await lost()).toEqual([
      {
        userId: 'bob',
        version: 1,
        kekId: masterKeys.id,
        createdAt: newer.find(({ userId }) => userId === 'bob')?.createdAt,
        replaced: false,
      },
    ])
    await putBack(newer)
    expect(await (await open()).decrypt('bob', token)).toBe('secret of bob')
    expect(await lost()).toEqual([])
  })

  it('refuses an empty store, also if the last users in the log have ended', async () => {
    const envelope = await open()
    await envelope.encrypt('alice', 'x')
    for (const userId of ['bob', 'carol']) {
      await envelope.encrypt(userId, 'x')
      await envelope.shredUser(userId, { forget: true })
    }
    log.append(
      userIds(1100)
        .map((userId) => shredLine(userId, new Date()))
        .join(''),
    )
    await putBack([])
    const error = await expectRefused(1, ['alice'])
    expect(error.message).toContain('The store is empty')
  })

  it('names ten of many, and counts all', async () => {
    await (await open()).encryptMany(orderedUserIds(25).map((userId) => ({ userId, plaintext: 'x' })))
    const [first] = await rowsOf(store)
    await putBack(first === undefined ? [] : [first])
    await expectRefused(24, orderedUserIds(11).slice(1))
    expect(await findLostKeys({ store, keyLog: log.path })).toMatchObject({ count: 24 })
  })

  it('names a key in whose place another one stands', async () => {
    const envelope = await open()
    await envelope.encrypt('alice', 'x')
    await putBack([])
    // A service without the log: nobody tells it.
    await (await test.open({ masterKeys })).encrypt('alice', 'x')
    await expectRefused(1, ['alice'])
    expect(await lost()).toMatchObject([{ userId: 'alice', version: 1, replaced: true }])
  })

  it('does not ask for keys that ended, and not for their rows after a rewrap', async () => {
    const envelope = await open()
    for (const userId of ['alice', 'bob', 'carol', 'dave']) await envelope.encrypt(userId, 'x')
    await envelope.rotateUserKey('alice')
    await pruneRetired({
      store: loggedStore(store, log.path),
      userId: 'alice',
      beforeVersion: 2,
      tokensReencrypted: true,
      includeFirst: true,
    })
    await envelope.shredUser('bob')
    await envelope.shredUser('carol', { forget: true })
    const next = masterKeyring({ primary: localMasterKey(randomBytes(32)), previous: [masterKeys] })
    await rewrapAll({ store, masterKeys: next })
    expect(await lost()).toEqual([])
    await open({ masterKeys: next })
    // Shredded by somebody without the log: the tombstone says so.
    await store.shred('dave', { forget: false })
    expect(await lost()).toEqual([])
    await open({ masterKeys: next })
  })

  it('believes a shred whose line has overtaken that of the mint', async () => {
    const at = new Date()
    log.write(
      shredLine('alice', at, true, 'shredding') +
        madeLine('alice', new Date(at.getTime() - 5)) +
        shredLine('alice', at, true) +
        madeLine('bob', at),
    )
    await fill(store, masterKeys, ['bob'], { createdAt: at })
    expect(await lost()).toEqual([])
    await open()
  })

  it('is not ended for the pool by a line that shreds it, but by one that forgets it', async () => {
    const at = new Date()
    await fill(store, masterKeys, ['alice'])
    log.write(madeLine('', at) + shredLine('', new Date(at.getTime() + 5)))
    expect(await lost()).toMatchObject([{ userId: '' }])
    log.append(shredLine('', new Date(at.getTime() + 5), true))
    expect(await lost()).toEqual([])
  })

  it('gives up what is lost when it is told to, and no other key', async () => {
    const envelope = await open()
    for (const userId of ['alice', 'bob']) await envelope.encrypt(userId, 'x')
    await putBack((await rowsOf(store)).filter(({ userId }) => userId === 'bob'))
    await expectRefused(1, ['alice'])
    expect(await giveUpLostKeys({ store, keyLog: log.path })).toBe(1)
    const again = await open()
    await again.encrypt('alice', 'x')
    await putBack([])
    await expectRefused(2, ['bob', 'alice'])
  })

  it('reads one batch of the last thousand users, however long the log is', async () => {
    const users = orderedUserIds(3000)
    const createdAt = new Date('2026-01-01')
    await fill(store, masterKeys, users.slice(2000), { createdAt })
    log.write(users.map((userId) => madeLine(userId, createdAt)).join(''))
    const { store: counted, calls } = countedStore(store)
    await open({ store: counted })
    // One more page is of the first tenants.
    expect(calls).toMatchObject({ list: 2, getAll: 1 })
    expect(calls.census).toBeUndefined()
    const { count, keys } = await findLostKeys({ store, keyLog: log.path })
    expect([count, keys.length, keys[0]?.userId]).toEqual([2000, 1000, 'user-000000'])
    // One of the last thousand is missing.
    await store.remove([{ userId: 'user-002500', version: 1 }])
    await expectRefused(1, ['user-002500'])
  })

  it('opens without a log, and leaves out a line that is being written', async () => {
    await open()
    await fill(store, masterKeys, ['alice'])
    log.write(`${madeLine('alice', new Date()).slice(0, -10)}`)
    await open()
    log.write('no entry\n')
    const error = await errorOf(open())
    expect(error).toMatchObject({ code: 'ERR_STORE', message: expect.stringContaining('is damaged') })
  })

  it('asks a function for nothing', async () => {
    const { store: recorded, calls } = recordingCalls(store)
    await open({ store: recorded, keyLog: () => undefined })
    // The page of the first tenants.
    expect(calls.filter((name) => name === 'getAll' || name === 'list')).toEqual(['list'])
  })

  itIf(backend !== 'memory', 'in memory every time is a Date')(
    'is not stopped by a row that cannot be read',
    async () => {
      const envelope = await open()
      for (const userId of ['alice', 'bob', 'carol']) await envelope.encrypt(userId, 'x')
      await spoilTime(backend as Dialect, test.url ?? '', 'alice')
      await store.remove([{ userId: 'carol', version: 1 }])
      await expect(open()).rejects.toMatchObject({ code: 'ERR_KEYS_LOST' })
      expect(await lost()).toMatchObject([{ userId: 'carol' }])
    },
  )

  it('finds a key that was put back with another time, which is another key', async () => {
    await (await open()).encrypt('alice', 'x')
    await alterRow(store, { userId: 'alice', version: 1 }, () => ({ createdAt: new Date(0) }))
    expect(await lost()).toMatchObject([{ userId: 'alice', replaced: true }])
  })
})
