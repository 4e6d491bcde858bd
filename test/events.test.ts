/** Events: each comes on its channel and by onEvent, none has a secret in it, and a cached call has none. */
import { randomBytes } from 'node:crypto'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../src/adapters/memory.js'
import { EVENT_TYPES } from '../src/events.js'
import {
  EnvelopeCrypto,
  type EnvelopeCryptoOptions,
  type KeystoreEvent,
  localMasterKey,
  MasterKeyError,
  masterKeyring,
  rewrapAll,
  rotateWhere,
} from '../src/index.js'
import { startChild } from './support/child-process.js'
import { controlledStore } from './support/controlled-store.js'
import { freshKeyLog, madeLine } from './support/key-log-file.js'
import { everythingOf, secretForms, textForms } from './support/leaks.js'
import { alterRow, corrupted, rowsOf, v2Row } from './support/rows.js'
import { overriding, remoteMasterKey } from './support/store-doubles.js'

const published: KeystoreEvent[] = []
const collect = (message: unknown) => published.push(message as KeystoreEvent)
beforeEach(() => {
  published.length = 0
  for (const type of EVENT_TYPES) subscribe(`drizzle-keystore:${type}`, collect)
})
afterEach(() => {
  for (const type of EVENT_TYPES) unsubscribe(`drizzle-keystore:${type}`, collect)
})

const masterKey = localMasterKey(randomBytes(32))
const duration = expect.any(Number)

/** An option onEvent, and the events it has got, in order. */
function listening() {
  const told: KeystoreEvent[] = []
  return { told, onEvent: (event: KeystoreEvent) => void told.push(event) }
}

function open(options: Partial<EnvelopeCryptoOptions> & Pick<EnvelopeCryptoOptions, 'store'>) {
  return EnvelopeCrypto.open({ masterKeys: masterKey, closeStore: false, ...options })
}

describe('each event', () => {
  it('comes by onEvent and on its channel, with ids, counts and durations', async () => {
    const { store, tell } = controlledStore()
    const { told, onEvent } = listening()
    const common = { userId: 'alice', kekId: masterKey.id, durationMs: duration }
    /** The events since the last call, which are also those that were published. */
    const since = () => {
      expect(published).toEqual(told)
      published.length = 0
      return told.splice(0)
    }

    const envelope = await open({ store, onEvent })
    const token = await envelope.encrypt('alice', 'x')
    expect(since()).toEqual([{ type: 'minted', version: 1, ...common }])
    expect(await envelope.rotateUserKey('alice')).toMatchObject({ rotated: true })
    expect(since()).toEqual([{ type: 'rotated', version: 2, ...common }])
    const fresh = await open({ store, onEvent })
    await fresh.decrypt('alice', token)
    expect(since()).toEqual([{ type: 'unwrapped', version: 1, ...common }])

    await expect(fresh.decrypt('alice', token, { other: 'context' })).rejects.toThrow()
    expect(since()).toEqual([{ type: 'decryptFailed', userId: 'alice', version: 1, format: 'v3' }])
    const handle = await fresh.user('alice')
    since()
    expect(() => handle.decrypt(token, { other: 'context' })).toThrow()
    expect(since()).toEqual([{ type: 'decryptFailed', userId: 'alice', version: 1, format: 'v3' }])
    const pooled = await fresh.pool.encrypt('x')
    since()
    await expect(fresh.pool.decrypt(pooled, { other: 'context' })).rejects.toThrow()
    expect(since()).toEqual([{ type: 'decryptFailed', userId: '', version: 1, format: 'v3' }])

    await rotateWhere({ store, masterKeys: masterKey, olderThanMs: 0, onEvent })
    expect(since()).toEqual([
      { type: 'rotated', version: 2, ...common, userId: '' },
      { type: 'rotated', version: 3, ...common },
    ])
    const next = localMasterKey(randomBytes(32))
    const keyring = masterKeyring({ primary: next, previous: [masterKey] })
    await rewrapAll({ store, masterKeys: keyring, dryRun: true, onEvent })
    expect(since()).toEqual([])
    await rewrapAll({ store, masterKeys: keyring, batchSize: 3, onEvent })
    expect(since()).toEqual([
      { type: 'rewrapped', kekId: next.id, count: 3, durationMs: duration },
      { type: 'rewrapped', kekId: next.id, count: 2, durationMs: duration },
    ])

    await alterRow(store, { userId: '', version: 2 }, ({ encryptedKey }) => ({
      encryptedKey: corrupted(encryptedKey),
    }))
    const damaged = await open({ store, masterKeys: keyring, onEvent })
    since()
    await expect(damaged.pool.encrypt('x')).rejects.toMatchObject({ code: 'ERR_UNWRAP_FAILED' })
    expect(since()).toEqual([{ type: 'damagedKey', userId: '', version: 2, kekId: next.id }])

    const receipt = await damaged.shredUser('alice')
    expect(since()).toEqual([{ type: 'shredded', ...receipt, durationMs: duration }])

    await tell({ silent: 'planned' })
    // One of each of the three services that listen.
    expect(since()).toEqual(Array(3).fill({ type: 'changesSilent', reason: 'planned' }))

    await open({ store, allowUnknownMasterKeys: true, onEvent })
    expect(since()).toEqual([{ type: 'unknownMasterKey', kekIds: [next.id] }])
    await open({ store: memoryKeyStore(), plaintext: 'pass-through', onEvent })
    expect(since()).toEqual([{ type: 'plaintextPassThrough' }])

    const options = { reason: 'unavailable', providerCode: 'Down', requestId: 'r-1' } as const
    const wrap = () => Promise.reject(new MasterKeyError('ERR_MASTER_KEY', 'it is down', options))
    const offline = await open({ store: memoryKeyStore(), masterKeys: remoteMasterKey({ wrap }), onEvent })
    expect(since()).toEqual([{ type: 'masterKeyUnavailable', kekId: 'remote', ...options }])
    await expect(offline.encrypt('alice', 'x')).rejects.toMatchObject({ code: 'ERR_MASTER_KEY', ...options })
    expect(since()).toEqual([{ type: 'masterKeyUnavailable', kekId: 'remote', ...options }])
  })

  it('is emitted for v2 tokens that fail, of a user and of the pool', async () => {
    const { told, onEvent } = listening()
    const envelope = await open({ store: memoryKeyStore(), format: 'v2', onEvent })
    const token = await envelope.encrypt('alice', 'x')
    await envelope.encrypt('bob', 'x')
    told.length = 0
    await expect(envelope.decrypt('bob', token)).rejects.toThrow()
    await expect(envelope.pool.decrypt(token)).rejects.toThrow()
    expect(told).toEqual([
      { type: 'decryptFailed', userId: 'bob', version: 1, format: 'v2' },
      { type: 'decryptFailed', userId: '', version: 1, format: 'v2' },
    ])
  })

  it('of a mint that another process has won is an unwrap of the stored key', async () => {
    const inside = memoryKeyStore()
    const other = await open({ store: inside })
    const racing = overriding(inside, {
      async insertIfAbsent(records) {
        await other.encrypt('alice', 'first')
        return inside.insertIfAbsent(records)
      },
    })
    const { told, onEvent } = listening()
    await (await open({ store: racing, onEvent })).encrypt('alice', 'second')
    expect(told.map(({ type }) => type)).toEqual(['unwrapped'])
  })
})

describe('no event', () => {
  it('holds a key, a wrapped key, a token or a plaintext, in any form', async () => {
    const { told, onEvent } = listening()
    const store = memoryKeyStore()
    const masterBytes = randomBytes(32)
    const nextBytes = randomBytes(32)
    const master = localMasterKey(masterBytes)
    const next = localMasterKey(nextBytes)
    const plaintext = `plaintext-${randomBytes(12).toString('hex')}`
    await store.insertIfAbsent([v2Row(master, { userId: 'reference' }, { kekId: null })])
    const options = { store, masterKeys: master, onEvent, accept: { keys: ['v2'] as const } }
    const envelope = await open({ ...options, plaintext: 'pass-through' })
    const token = await envelope.encrypt('alice', plaintext)
    const secrets: Uint8Array[] = [masterBytes, nextBytes, await envelope.getOrCreateUserKey('alice')]
    await envelope.rotateUserKey('alice')
    secrets.push(await envelope.getOrCreateUserKey('reference'))
    secrets.push(...(await rowsOf(store)).map(({ encryptedKey }) => encryptedKey))
    await envelope.decrypt('alice', token, { wrong: plaintext }).catch(() => undefined)
    await rewrapAll({
      store,
      masterKeys: masterKeyring({ primary: next, previous: [master] }),
      accept: ['v2'],
      onEvent,
    })
    secrets.push(...(await rowsOf(store)).map(({ encryptedKey }) => encryptedKey))
    await rotateWhere({ store, masterKeys: next, olderThanMs: 0, onEvent })
    await alterRow(store, { userId: 'alice', version: 1 }, ({ encryptedKey }) => ({
      encryptedKey: corrupted(encryptedKey),
    }))
    await open({ ...options, allowUnknownMasterKeys: true })
    const later = await open({ ...options, masterKeys: next })
    await later.decrypt('alice', token).catch(() => undefined)
    await later.shredUser('alice')

    const log = freshKeyLog()
    log.write(madeLine('alice', new Date()))
    await open({ store: memoryKeyStore(), keyLog: log.path, onEvent }).catch(() => undefined)
    log.remove()

    const cause = Object.assign(new Error(plaintext), { masterBytes })
    const wrap = () =>
      Promise.reject(new MasterKeyError('ERR_MASTER_KEY', plaintext, { reason: 'throttled', cause }))
    await open({ store: memoryKeyStore(), masterKeys: remoteMasterKey({ timeLimitMs: 1, wrap }), onEvent })

    const intact = memoryKeyStore()
    await (await open({ store: intact, masterKeys: next, closeStore: false })).getOrCreateUserKey('alice')
    const hurried = overriding(intact, {
      async sampleByKek(limit, options) {
        options?.onUnsearched?.({ kekId: master.id })
        options?.onUnsearched?.({ above: null, below: null })
        return intact.sampleByKek(limit)
      },
    })
    const keyring = masterKeyring({ primary: next, previous: [master] })
    await open({ store: hurried, masterKeys: keyring, onEvent })
    expect(told.at(-1)).toEqual({ type: 'partlyChecked', kekIds: [master.id], others: true })

    // All but changesSilent, and nativeCore, whose only text native-choice.test.ts looks at.
    expect(new Set(told.map(({ type }) => type)).size).toBe(EVENT_TYPES.length - 2)
    const shown = [...told, ...published].map((event) => everythingOf(event)).join('\n')
    // Shows that the search finds what is there.
    expect(shown).toContain(master.id)
    for (const secret of secrets)
      for (const form of secretForms(secret)) expect(shown.includes(form), 'a secret in an event').toBe(false)
    for (const text of [plaintext, token, token.slice(3, 40)])
      for (const form of textForms(text)) expect(shown.includes(form), 'a text in an event').toBe(false)
  })

  it('is emitted for a cached call, which is counted instead', async () => {
    const { told, onEvent } = listening()
    const envelope = await open({ store: memoryKeyStore(), onEvent })
    expect(envelope.cacheStats).toEqual({ hits: 0, misses: 0, users: 0 })
    const token = await envelope.encrypt('alice', 'x')
    await envelope.encrypt('bob', 'x')
    expect(envelope.cacheStats).toEqual({ hits: 0, misses: 2, users: 2 })
    told.length = 0
    published.length = 0
    for (let i = 0; i < 10; i++) await envelope.decrypt('alice', token)
    for (let i = 0; i < 5; i++) await envelope.encrypt('alice', 'x')
    await envelope.encryptMany(Array(3).fill({ userId: 'bob', plaintext: 'x' }))
    await envelope.getOrCreateUserKey('alice')
    const handle = await envelope.user('alice')
    expect(handle.decrypt(handle.encrypt('x'))).toBe('x')
    expect([told, published]).toEqual([[], []])
    expect(envelope.cacheStats).toEqual({ hits: 19, misses: 2, users: 2 })
    await expect(envelope.decrypt('nobody', token)).rejects.toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    expect(envelope.cacheStats).toEqual({ hits: 19, misses: 3, users: 2 })

    const without = await open({ store: memoryKeyStore(), cache: false })
    await without.encrypt('alice', 'x')
    await without.encrypt('alice', 'x')
    expect(without.cacheStats).toEqual({ hits: 0, misses: 2, users: 0 })
  })
})

it('a listener that throws disturbs no call: its error becomes an uncaught exception', async () => {
  const child = startChild('throw-in-events.mjs', [])
  try {
    const said = JSON.parse(await child.line())
    expect(said).toMatchObject({ version: 2, plaintext: 'x', versions: [1, 2] })
    expect([...said.uncaught].sort()).toEqual([
      'channel',
      'onEvent minted',
      'onEvent rotated',
      'onEvent shredded',
      // The store reports the rotation to the cache, which then unwraps the keys that it had dropped.
      'onEvent unwrapped',
    ])
    expect(await child.ended()).toEqual({ code: 0, stderr: '' })
  } finally {
    child.kill()
  }
})
