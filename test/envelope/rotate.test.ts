/** rotateUserKey: one new version for new writes, however many callers ask at once, and every earlier token opens. */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type KeyStore, type KeystoreEvent, localMasterKey } from '../../src/index.js'
import { MAX_KEY_VERSION } from '../../src/table.js'
import { itIf } from '../support/conditional.js'
import type { Dialect } from '../support/databases.js'
import { backends, freshStore, type TestStore } from '../support/fresh-store.js'
import { runSql } from '../support/raw-database.js'
import { mintedRow, rowsOf, versionsOf } from '../support/rows.js'
import { storeWithout } from '../support/store-doubles.js'
import { versionOf } from '../support/tokens.js'

describe.each(backends)('rotateUserKey on %s', (backend) => {
  let test: TestStore
  let store: KeyStore
  const masterKeys = localMasterKey(randomBytes(32))
  beforeEach(async () => {
    test = await freshStore(backend, { masterKeys })
    store = test.store
  })
  afterEach(() => test.remove())

  it('makes the next version: new tokens name it, old ones still open', async () => {
    const events: KeystoreEvent[] = []
    const envelope = await test.open({ onEvent: (event) => events.push(event) })
    const first = await envelope.encrypt('alice', 'one', { a: 'b' })
    await envelope.encrypt('bob', 'x')
    events.length = 0
    expect(await envelope.rotateUserKey('alice')).toEqual({ userId: 'alice', version: 2, rotated: true })
    expect(events.map(({ type }) => type)).toEqual(['rotated'])
    expect(events[0]).toMatchObject({ userId: 'alice', version: 2, kekId: masterKeys.id })

    const second = await envelope.encrypt('alice', 'two')
    expect([versionOf(first), versionOf(second)]).toEqual([1, 2])
    for (const reader of [envelope, await test.open(), await test.open({ cache: false })]) {
      expect(await reader.decrypt('alice', first, { a: 'b' })).toBe('one')
      expect(await reader.decrypt('alice', second)).toBe('two')
    }
    expect(versionOf(await envelope.encrypt('bob', 'x'))).toBe(1)
    const keys = await Promise.all((await rowsOf(store)).map(({ encryptedKey }) => encryptedKey))
    expect(new Set(keys.map((key) => Buffer.from(key).toString('hex'))).size).toBe(3)
    // The raw key is that of version 1, as the reference gives it.
    const raw = await envelope.getOrCreateUserKey('alice')
    expect(raw).toEqual(await (await test.open({ cache: false })).getOrCreateUserKey('alice'))
  })

  it('ends with one new version when two services with the key in memory rotate at once', async () => {
    const services = [
      await test.open({ store: await test.another() }),
      await test.open({ store: await test.another() }),
    ]
    await services[0]?.encrypt('alice', 'x')
    for (const envelope of services) await envelope.encrypt('alice', 'x')
    const rotations = await Promise.all(services.map((envelope) => envelope.rotateUserKey('alice')))
    expect(rotations.map(({ version }) => version)).toEqual([2, 2])
    expect(rotations.filter(({ rotated }) => rotated)).toHaveLength(1)
    expect(await versionsOf(store, 'alice')).toEqual([1, 2])
    for (const envelope of services) expect(versionOf(await envelope.encrypt('alice', 'x'))).toBe(2)
  })

  it('makes one version of twenty calls at once in one service, and two of two calls one after the other', async () => {
    const envelope = await test.open()
    await envelope.encrypt('alice', 'x')
    const many = await Promise.all(Array.from({ length: 20 }, () => envelope.rotateUserKey('alice')))
    expect(new Set(many.map(({ version }) => version))).toEqual(new Set([2]))
    for (const version of [3, 4])
      expect(await envelope.rotateUserKey('alice')).toEqual({ userId: 'alice', version, rotated: true })
    const without = await test.open({ cache: false })
    for (const version of [5, 6]) expect(await without.rotateUserKey('alice')).toMatchObject({ version })
    expect(await versionsOf(store, 'alice')).toEqual([1, 2, 3, 4, 5, 6])
  })

  it('gives the writes of other services on the storage the new version within 2 s', {
    retry: 3,
  }, async () => {
    const one = await test.open({ store: await test.another() })
    const other = await test.open({ store: await test.another() })
    await one.encrypt('alice', 'x')
    expect(versionOf(await other.encrypt('alice', 'x'))).toBe(1)
    await one.rotateUserKey('alice')
    await expect
      .poll(async () => versionOf(await other.encrypt('alice', 'x')), { timeout: 2000, interval: 20 })
      .toBe(2)
  })

  it('counts another service’s rotation that it had not seen as its own, once', async () => {
    const one = await test.open({ store: await test.another() })
    const token = await one.encrypt('alice', 'x')
    // Two services that are told of no change: one knows the key by a read, the other by a write.
    const reading = await test.open({ store: storeWithout(await test.another(), 'changes') })
    await reading.decrypt('alice', token)
    const writing = await test.open({ store: storeWithout(await test.another(), 'changes') })
    await writing.encrypt('alice', 'x')
    expect(await one.rotateUserKey('alice')).toMatchObject({ version: 2, rotated: true })
    for (const [index, other] of [reading, writing].entries()) {
      expect(await other.rotateUserKey('alice')).toEqual({
        userId: 'alice',
        version: 2 + index,
        rotated: false,
      })
      expect(await other.rotateUserKey('alice')).toMatchObject({ version: 3 + index, rotated: true })
    }
    // A service that does not know the user makes a new version.
    expect(await (await test.open()).rotateUserKey('alice')).toMatchObject({ version: 5, rotated: true })
  })

  it('refuses users without keys, shredded users, format v2, and ids that are no user id', async () => {
    const envelope = await test.open()
    await expect(envelope.rotateUserKey('nobody')).rejects.toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    expect(await rowsOf(store)).toEqual([])
    await envelope.encrypt('alice', 'x')
    await envelope.shredUser('alice')
    await expect(envelope.rotateUserKey('alice')).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
    await expect((await test.open()).rotateUserKey('alice')).rejects.toMatchObject({
      code: 'ERR_KEY_SHREDDED',
    })
    for (const wrong of ['', '\ud800', 7 as unknown as string])
      await expect(envelope.rotateUserKey(wrong)).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })

    const reference = await test.open({ format: 'v2', accept: { keys: ['v3'] } })
    await reference.encrypt('carol', 'x')
    await expect(reference.rotateUserKey('carol')).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    expect(await versionsOf(store, 'carol')).toEqual([1])
    await envelope.close()
    await expect(envelope.rotateUserKey('carol')).rejects.toMatchObject({ code: 'ERR_CLOSED' })
  })

  it('leaves a handle its version: tokens of it open, and a new handle is needed for newer tokens', async () => {
    const envelope = await test.open()
    const handle = await envelope.user('alice')
    await envelope.rotateUserKey('alice')
    const old = handle.encrypt('under version 1')
    const fresh = await envelope.encrypt('alice', 'under version 2')
    expect(versionOf(old)).toBe(1)
    expect(await envelope.decrypt('alice', old)).toBe('under version 1')
    expect(() => handle.decrypt(fresh)).toThrow(
      expect.objectContaining({ code: 'ERR_KEY_NOT_FOUND', retryable: true }),
    )
    const anew = await envelope.user('alice')
    expect([anew.decrypt(old), anew.decrypt(fresh)]).toEqual(['under version 1', 'under version 2'])
    expect(versionOf(anew.encrypt('x'))).toBe(2)
  })

  it('keeps writing in format v2 under version 1 in services of the reference’s format', async () => {
    const envelope = await test.open()
    await envelope.encrypt('alice', 'x')
    const reference = await test.open({ format: 'v2', accept: { keys: ['v3'] } })
    const before = await reference.encrypt('alice', 'one')
    await envelope.rotateUserKey('alice')
    const after = await (await test.open({ format: 'v2', accept: { keys: ['v3'] } })).encrypt('alice', 'two')
    const reader = await test.open({ accept: { tokens: ['v2'] } })
    expect(await reader.decrypt('alice', before)).toBe('one')
    expect(await reader.decrypt('alice', after)).toBe('two')
  })

  itIf(backend !== 'memory', 'made by SQL: with one insert for each version it would take years')(
    'fails when a user has used up all versions',
    async () => {
      await store.insertIfAbsent([await mintedRow(masterKeys, 'alice')])
      await runSql(
        backend as Dialect,
        test.url ?? '',
        `update encryption_keys set version = ${MAX_KEY_VERSION}`,
      )
      const last = await mintedRow(masterKeys, 'alice', { version: MAX_KEY_VERSION })
      const hex = Buffer.from(last.encryptedKey).toString('hex')
      const bytes = backend === 'sqlite' ? `x'${hex}'` : `'\\x${hex}'`
      await runSql(backend as Dialect, test.url ?? '', `update encryption_keys set encrypted_key = ${bytes}`)
      const envelope = await test.open()
      expect(versionOf(await envelope.encrypt('alice', 'x'))).toBe(MAX_KEY_VERSION)
      await expect(envelope.rotateUserKey('alice')).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    },
  )

  it('loses nothing of 50 services that rotate and encrypt one user at once', async () => {
    const services = await Promise.all(
      Array.from({ length: 50 }, async (_, index) =>
        test.open({
          store: index < 5 ? await test.another() : store,
          ...(index % 2 === 0 ? {} : { cache: false }),
        }),
      ),
    )
    const results = await Promise.all(
      services.flatMap((envelope) => [
        envelope.encrypt('alice', 'x'),
        envelope
          .rotateUserKey('alice')
          .then(() => null)
          // The user may have no key yet.
          .catch(({ code }: { code: string }) => {
            expect(code).toBe('ERR_KEY_NOT_FOUND')
            return null
          }),
        envelope.encrypt('alice', 'x'),
      ]),
    )
    const versions = await versionsOf(store, 'alice')
    expect(versions).toEqual(versions.map((_, index) => index + 1))
    const reader = await test.open()
    const tokens = results.filter((token) => token !== null)
    expect(tokens).toHaveLength(100)
    for (const token of tokens) expect(await reader.decrypt('alice', token)).toBe('x')
  })
})
