/** maxTokenBytes: what is too long is refused before it is decoded, copied, or a key is looked up. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import {
  EnvelopeCrypto,
  type EnvelopeCryptoOptions,
  generateMasterKey,
  localMasterKey,
} from '../../src/index.js'
import { reencrypt } from '../../src/reencrypt/index.js'
import { errorOf } from '../support/errors.js'
import { memorySource } from '../support/memory-source.js'
import { recordingCalls } from '../support/store-doubles.js'

const INVALID = { code: 'ERR_INVALID_ARGUMENT' }
const MALFORMED = { code: 'ERR_MALFORMED_TOKEN' }
const MIB = 1024 * 1024

describe('maxTokenBytes', () => {
  const { store, calls } = recordingCalls(memoryKeyStore())
  const masterKeys = localMasterKey(generateMasterKey())
  const open = (options: Partial<EnvelopeCryptoOptions> = {}) =>
    EnvelopeCrypto.open({
      store,
      masterKeys,
      accept: { keys: ['v2', 'v3'], tokens: ['v2', 'v3'] },
      ...options,
    })
  beforeEach(() => {
    calls.length = 0
  })
  afterEach(() => {
    vi.restoreAllMocks()
  })

  it.each([
    ['65 MiB, by default', {}, 65 * MIB],
    ['1001 bytes of 1000', { maxTokenBytes: 1000 }, 1001],
  ])('refuses a token of %s, and decodes nothing', async (_, options, length) => {
    const envelope = await open(options)
    const alice = await envelope.user('alice')
    calls.length = 0
    for (const prefix of ['v3:', 'v2:']) {
      const token = prefix + 'A'.repeat(length - prefix.length)
      const decode = vi.spyOn(Buffer, 'from')
      const works: (() => unknown)[] = [
        () => envelope.decrypt('alice', token),
        () => envelope.decryptSecret('alice', token),
        () => envelope.decryptBytes('alice', token),
        () => envelope.pool.decrypt(token),
        () => alice.decrypt(token),
        () => alice.decryptBytes(token),
      ]
      for (const work of works) {
        const error = await errorOf(work)
        expect(error).toMatchObject(MALFORMED)
        expect(error.message).toContain('maxTokenBytes')
        expect(error.message.length).toBeLessThan(300)
      }
      expect(await envelope.decryptMany([{ userId: 'alice', token }])).toMatchObject([
        { ok: false, error: MALFORMED },
      ])
      const source = memorySource([{ key: 'a', owner: 'alice', value: token }])
      expect(await reencrypt({ envelope, source, context: null })).toMatchObject({
        failed: [MALFORMED],
        after: { unopenable: 1 },
      })
      expect(decode).not.toHaveBeenCalled()
      decode.mockRestore()
    }
    expect(calls.filter((call) => call !== 'getAll')).toEqual([])
  })

  it('refuses a plaintext of 60 MiB by default, before a key is looked up and anything copied', async () => {
    const envelope = await open()
    const [text, bytes] = ['x'.repeat(60 * MIB), new Uint8Array(60 * MIB)]
    const copy = vi.spyOn(Uint8Array, 'from')
    for (const work of [
      () => envelope.encrypt('bob', text),
      () => envelope.encryptBytes('bob', bytes),
      () => envelope.pool.encrypt(text),
    ]) {
      const error = await errorOf(work)
      expect(error).toMatchObject(INVALID)
      expect(error.message).toContain('50331569 bytes')
    }
    expect(copy).not.toHaveBeenCalled()
    expect(await envelope.encryptMany([{ userId: 'bob', plaintext: text }])).toMatchObject([
      { ok: false, error: INVALID },
    ])
    expect(calls).toEqual(['sampleByKek', 'list'])
  })

  it.each(['v2', 'v3'] as const)(
    'lets pass in format %s what decrypts again, and no byte more',
    async (format) => {
      for (const maxTokenBytes of [1000, 1001, 1002, 1003]) {
        const envelope = await open({ format, maxTokenBytes })
        const alice = await envelope.user(`alice-${format}`)
        // The longest plaintext, found without the library's own arithmetic.
        let most = 0
        for (let bytes = 600; bytes < 800; bytes++) {
          const token = await envelope.encryptBytes(alice.userId, new Uint8Array(bytes)).catch(() => null)
          if (token === null) break
          expect(token.length).toBeLessThanOrEqual(maxTokenBytes)
          most = bytes
        }
        const unlimited = await open({ format })
        const beyond = await unlimited.encryptBytes(alice.userId, new Uint8Array(most + 1))
        expect(beyond.length).toBeGreaterThan(maxTokenBytes)
        for (const character of ['x', 'é', '€', '🔐']) {
          const text = character.repeat(Math.floor(most / Buffer.byteLength(character)))
          const fitting = text + 'x'.repeat(most - Buffer.byteLength(text))
          expect(await envelope.decrypt(alice.userId, await envelope.encrypt(alice.userId, fitting))).toBe(
            fitting,
          )
          expect(alice.decrypt(alice.encrypt(fitting))).toBe(fitting)
          for (const work of [
            () => envelope.encrypt(alice.userId, `${fitting}x`),
            () => alice.encrypt(`${fitting}x`),
            () => alice.encryptBytes(Buffer.from(`${fitting}x`)),
          ])
            expect(await errorOf(work)).toMatchObject(INVALID)
        }
      }
    },
  )

  it('must be a whole number within what Node can hold', async () => {
    for (const maxTokenBytes of [
      0,
      -1,
      999,
      1000.5,
      Number.NaN,
      Number.POSITIVE_INFINITY,
      2 ** 29,
      '1000',
      null,
    ])
      expect(
        await errorOf(open({ maxTokenBytes: maxTokenBytes as number, closeStore: false })),
      ).toMatchObject(INVALID)
    expect((await open()).maxTokenBytes).toBe(64 * MIB)
  })
})
