/** shredUser: no use of the user's keys succeeds afterwards, with handles made before and calls under way included. */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  type EnvelopeCrypto,
  type EnvelopeCryptoOptions,
  type KeyLogEntry,
  type KeyStore,
  type KeystoreEvent,
  localMasterKey,
  type ShredReceipt,
} from '../../src/index.js'
import { itIf } from '../support/conditional.js'
import type { Dialect } from '../support/databases.js'
import { backends, freshStore, type TestStore } from '../support/fresh-store.js'
import { rowsOf, rowsOfUser, spoilTime } from '../support/rows.js'
import { gatedMasterKey } from '../support/store-doubles.js'
import { versionOf } from '../support/tokens.js'

const SHREDDED = { code: 'ERR_KEY_SHREDDED' }

describe.each(backends)('shredUser on %s', (backend) => {
  let test: TestStore
  let store: KeyStore
  const masterKeys = localMasterKey(randomBytes(32))
  beforeEach(async () => {
    test = await freshStore(backend)
    store = test.store
  })
  afterEach(() => test.remove())
  const open = (options: Partial<EnvelopeCryptoOptions> = {}, on = store) =>
    test.open({ masterKeys, store: on, ...options })

  it('gives a receipt of what it erased, and emits it', async () => {
    const events: KeystoreEvent[] = []
    const envelope = await open({ onEvent: (event) => events.push(event) })
    await envelope.encrypt('alice', 'x')
    await envelope.rotateUserKey('alice')
    await envelope.encrypt('bob', 'x')
    events.length = 0
    const began = Date.now()
    const receipt = await envelope.shredUser('alice')
    expect(receipt).toEqual({
      userId: 'alice',
      versions: [1, 2],
      kekIds: [masterKeys.id],
      at: expect.any(Date),
      forget: false,
      erased: expect.stringMatching(/^(file|pending)$/),
      pending: receipt.erased === 'file' ? null : expect.any(String),
    } satisfies Record<keyof ShredReceipt, unknown>)
    expect(receipt.at.getTime()).toBeGreaterThanOrEqual(began)
    expect(events).toEqual([{ type: 'shredded', ...receipt, durationMs: expect.any(Number) }])

    const rows = await rowsOfUser(store, 'alice')
    expect(
      rows.map(({ version, encryptedKey, shreddedAt }) => [version, encryptedKey.length, shreddedAt]),
    ).toEqual([
      [1, 0, receipt.at],
      [2, 0, receipt.at],
    ])
    // A second shred has nothing to erase, and keeps the time of the first.
    expect(await envelope.shredUser('alice')).toMatchObject({ versions: [], kekIds: [] })
    expect(await rowsOfUser(store, 'alice')).toEqual(rows)
    expect(await envelope.encrypt('bob', 'x')).toContain('v3:')
  })

  it('makes every later use of the user ERR_KEY_SHREDDED, in this service and in others', async () => {
    const envelope = await open()
    const token = await envelope.encrypt('alice', 'x')
    const handle = await envelope.user('alice')
    let shred: () => void = () => undefined
    const shredding = new Promise<void>((resolve) => {
      shred = resolve
    })
    const scoped = envelope.scope('alice', async (inside) => {
      await shredding
      return inside.encrypt('x')
    })
    scoped.catch(() => undefined)
    await envelope.shredUser('alice')
    shred()
    await expect(scoped).rejects.toMatchObject(SHREDDED)
    for (const use of [
      () => handle.encrypt('x'),
      () => handle.encryptBytes(new Uint8Array(3)),
      () => handle.decrypt(token),
      () => handle.decryptBytes(token),
    ])
      expect(use).toThrow(expect.objectContaining(SHREDDED))
    for (const service of [envelope, await open(), await open({}, await test.another())]) {
      const uses: (() => Promise<unknown>)[] = [
        () => service.encrypt('alice', 'x'),
        () => service.encryptBytes('alice', new Uint8Array(3)),
        () => service.decrypt('alice', token),
        () => service.decryptBytes('alice', token),
        () => service.user('alice'),
        () => service.user('alice', { mint: false }),
        () => service.scope('alice', () => 1),
        () => service.getOrCreateUserKey('alice'),
        () => service.rotateUserKey('alice'),
      ]
      for (const use of uses) await expect(use(), String(use)).rejects.toMatchObject(SHREDDED)
      const [sealed, open] = [
        await service.encryptMany([{ userId: 'alice', plaintext: 'x' }]),
        await service.decryptMany([{ userId: 'alice', token }]),
      ]
      expect([sealed[0], open[0]]).toMatchObject([{ error: SHREDDED }, { error: SHREDDED }])
    }
  })

  it('leaves a tombstone for a user who never had a key, unless told to forget', async () => {
    const envelope = await open()
    expect(await envelope.shredUser('never')).toMatchObject({ versions: [], kekIds: [] })
    await expect(envelope.encrypt('never', 'x')).rejects.toMatchObject(SHREDDED)
    await envelope.shredUser('forgotten', { forget: true })
    expect((await rowsOf(store)).map(({ userId }) => userId)).toEqual(['never'])
    expect(await envelope.encrypt('forgotten', 'x')).toContain('v3:')
  })

  it('with forget lets a new key be minted; handles and tokens of before do not work', async () => {
    const envelope = await open()
    const token = await envelope.encrypt('alice', 'old')
    const handle = await envelope.user('alice')
    await envelope.rotateUserKey('alice')
    const receipt = await envelope.shredUser('alice', { forget: true })
    expect(receipt).toMatchObject({ versions: [1, 2], forget: true })
    expect(await rowsOfUser(store, 'alice')).toEqual([])
    expect(() => handle.encrypt('x')).toThrow(expect.objectContaining(SHREDDED))
    await expect(envelope.decrypt('alice', token)).rejects.toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })

    const fresh = await envelope.encrypt('alice', 'new')
    expect(versionOf(fresh)).toBe(1)
    expect(await envelope.decrypt('alice', fresh)).toBe('new')
    const anew = await envelope.user('alice')
    expect(anew.decrypt(anew.encrypt('x'))).toBe('x')
    expect(() => handle.encrypt('x')).toThrow(expect.objectContaining(SHREDDED))
    await expect(envelope.decrypt('alice', token)).rejects.toMatchObject({ code: 'ERR_DECRYPTION_FAILED' })
    // A tombstone is forgotten too.
    await envelope.shredUser('alice')
    await envelope.shredUser('alice', { forget: true })
    expect(versionOf(await envelope.encrypt('alice', 'newer'))).toBe(1)
  })

  it('ends calls under way: they write nothing, and keep no key', async () => {
    const before = await open()
    const token = await before.encrypt('alice', 'x')
    const { masterKey: slow, opening } = gatedMasterKey(masterKeys, masterKeys.id)
    const uses: ((envelope: EnvelopeCrypto) => Promise<unknown>)[] = [
      (envelope) => envelope.encrypt('alice', 'y'),
      (envelope) => envelope.user('alice'),
      (envelope) => envelope.decrypt('alice', token),
    ]
    const envelopes = await Promise.all(uses.map(() => open({ masterKeys: slow })))
    const under: Promise<unknown>[] = []
    for (const [index, use] of uses.entries()) {
      const envelope = envelopes[index] as EnvelopeCrypto
      opening.arm()
      under.push(use(envelope).catch((error: unknown) => error))
      await opening.reached()
      await envelope.shredUser('alice')
      opening.open()
      const outcome = await under.at(-1)
      // A read that began before the shred may still return. Nothing new is encrypted, and no key is kept.
      if (index < 2) expect(outcome).toMatchObject(SHREDDED)
      await expect(envelope.encrypt('alice', 'z')).rejects.toMatchObject(SHREDDED)
      await expect(envelope.decrypt('alice', token)).rejects.toMatchObject(SHREDDED)
      if (index < 2) await revive()
    }

    async function revive() {
      await store.shred('alice', { forget: true })
      await (await open()).encrypt('alice', 'x')
    }
  })

  it('1,000 rotations, mints and shreds at once: no live row after the first shred has returned', {
    timeout: 120_000,
  }, async () => {
    const stores = [store, await test.another(), await test.another()]
    const services = await Promise.all(
      Array.from({ length: 9 }, (_, index) =>
        open(index % 3 === 0 ? { cache: false } : {}, stores[index % stores.length]),
      ),
    )
    let isShredded = false
    let looks = 0
    const wrong: string[] = []
    const work = Array.from({ length: 1000 }, (_, index) => async () => {
      const envelope = services[index % services.length] as EnvelopeCrypto
      const begunAfter = isShredded
      try {
        if (index % 20 === 19) {
          await envelope.shredUser('alice')
          isShredded = true
          const rows = await rowsOfUser(store, 'alice')
          looks += 1
          if (rows.length === 0 || rows.some((row) => row.shreddedAt === null || row.encryptedKey.length > 0))
            wrong.push(`a live row after shred ${index}`)
        } else if (index % 2 === 0) {
          await envelope.encrypt('alice', 'x')
          if (begunAfter) wrong.push(`encrypted after a shred: ${index}`)
        } else {
          await envelope.rotateUserKey('alice')
          if (begunAfter) wrong.push(`rotated after a shred: ${index}`)
        }
      } catch (error) {
        const { code } = error as { code: string }
        // There is no key to rotate yet, or it was shredded between the read and the insert.
        if (code !== 'ERR_KEY_SHREDDED' && code !== 'ERR_KEY_NOT_FOUND') wrong.push(`${index}: ${code}`)
      }
    })
    // In waves, so that work of each kind begins before, during and after the first shred.
    for (let i = 0; i < work.length; i += 100) await Promise.all(work.slice(i, i + 100).map((one) => one()))
    expect(wrong).toEqual([])
    expect(looks).toBe(50)
    const rows = await rowsOfUser(store, 'alice')
    expect(rows.length).toBeGreaterThan(0)
    expect(
      rows.every(({ shreddedAt, encryptedKey }) => shreddedAt !== null && encryptedKey.length === 0),
    ).toBe(true)
  })

  itIf(backend !== 'memory', 'in memory every time is a Date')(
    'shreds a user whose row has a time that cannot be read, with a log and without',
    async () => {
      const written: KeyLogEntry[] = []
      const logged = await open({ keyLog: (entries) => void written.push(...entries) })
      for (const [userId, envelope] of [
        ['alice', await open()],
        ['bob', logged],
      ] as const) {
        await envelope.encrypt(userId, 'x')
        await spoilTime(backend as Dialect, test.url ?? '', userId)
        await expect((await open()).encrypt(userId, 'x')).rejects.toMatchObject({ code: 'ERR_STORE' })
        await envelope.shredUser(userId, { forget: true })
        expect(await rowsOfUser(store, userId)).toEqual([])
      }
      expect(written).toMatchObject([
        { event: 'minted', userId: 'bob' },
        { event: 'shredding', userId: 'bob', versions: [], forget: true },
        { event: 'shredded', userId: 'bob', versions: [], forget: true },
      ])
    },
  )

  it('refuses what is no user or no option, and shreds nothing', async () => {
    const envelope = await open()
    await envelope.encrypt('alice', 'x')
    const wrong: [unknown, unknown][] = [
      ['', undefined],
      ['\ud800', undefined],
      [7, undefined],
      ['alice', null],
      ['alice', 'forget'],
      ['alice', { forget: 'yes' }],
      ['alice', { forget: 1 }],
    ]
    for (const [userId, options] of wrong) {
      const run = envelope.shredUser(userId as string, options as { forget: boolean })
      await expect(run, JSON.stringify([userId, options])).rejects.toMatchObject({
        code: 'ERR_INVALID_ARGUMENT',
      })
    }
    expect(await envelope.encrypt('alice', 'x')).toContain('v3:')
    for (const keyLog of ['', 7, {}, null])
      await expect(open({ keyLog: keyLog as string })).rejects.toMatchObject({
        code: 'ERR_INVALID_ARGUMENT',
      })
    await envelope.close()
    await expect(envelope.shredUser('alice')).rejects.toMatchObject({ code: 'ERR_CLOSED' })
  })
})
