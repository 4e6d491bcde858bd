/** AES-256-GCM and XAES-256-GCM with key commitment: published vectors, tampering, nonces. */

import { createDecipheriv, createHash, randomBytes } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { itIf } from '../support/conditional.js'
import { slow } from '../support/slow.js'
import { fromHex, xaesVectors } from '../support/vectors.js'

/** The calls of node:crypto by src/format/aead.ts in order, while `on`. */
const recorded = { on: false, calls: [] as string[], random: [] as Uint8Array[] }

// This file alone uses the module with the mock: other files in the same process load another.
vi.doMock('node:crypto', async (importOriginal) => {
  const actual = await importOriginal<typeof import('node:crypto')>()
  const record = <A extends unknown[], R>(name: string, original: (...args: A) => R) =>
    ((...args: A) => {
      if (recorded.on) recorded.calls.push(name)
      return original(...args)
    }) as typeof original
  return {
    ...actual,
    createDecipheriv: record('createDecipheriv', actual.createDecipheriv),
    timingSafeEqual: record('timingSafeEqual', actual.timingSafeEqual),
    randomBytes: (length: number) => {
      const bytes = actual.randomBytes(length)
      // A copy, since the pool of nonces uses the original.
      if (recorded.on) recorded.random.push(Buffer.from(bytes))
      return bytes
    },
  }
})
// What is drawn from OpenSSL's generator is then what is used. clones.test.ts is about the other generator.
vi.doMock('../../src/format/os-random.js', () => ({ osRandomBytes: () => null }))
vi.resetModules()
const { GCM_NONCE_BYTES, gcmOpen, gcmSeal, generateKey, importKey, reseed, XAES_NONCE_BYTES, XaesKey } =
  await import('../../src/format/aead.js')
vi.doUnmock('node:crypto')
vi.doUnmock('../../src/format/os-random.js')
vi.resetModules()

/** `nonce[24] ‖ ciphertext ‖ tag[16] ‖ commitment[32]`, as `open` takes it. */
function seal(key: InstanceType<typeof XaesKey>, plaintext: Uint8Array | string, aad: Uint8Array): Buffer {
  return Buffer.concat(key.encrypt(plaintext, aad))
}

beforeEach(() => {
  recorded.calls.length = 0
  recorded.random.length = 0
})

afterEach(() => {
  recorded.on = false
  vi.restoreAllMocks()
})

const aad = Buffer.from('associated data')

function flipBit(bytes: Uint8Array, bit: number): Buffer {
  const changed = Buffer.from(bytes)
  changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7))
  return changed
}

describe('XAES-256-GCM against published vectors', () => {
  for (const [index, vector] of xaesVectors().vectors.entries()) {
    const [key, nonce, plaintext, vectorAad] = [vector.key, vector.nonce, vector.plaintext, vector.aad].map(
      fromHex,
    ) as [Buffer, Buffer, Buffer, Buffer]
    const sealedHex = vector.nonce + vector.ciphertext + vector.tag + vector.commitment

    it(`vector ${index + 1}: seals to the published ciphertext, tag and commitment`, () => {
      expect(new XaesKey(key).sealWithNonce(nonce, plaintext, vectorAad).toString('hex')).toBe(sealedHex)
    })

    it(`vector ${index + 1}: opens`, () => {
      expect(new XaesKey(key).open(fromHex(sealedHex), vectorAad)).toEqual(plaintext)
    })

    it(`vector ${index + 1}: the published derived key opens the ciphertext as plain GCM`, () => {
      // Shows that sealing and opening do not merely agree on a wrong derivation.
      const gcm = createDecipheriv('aes-256-gcm', fromHex(vector.derived_key), nonce.subarray(12))
      gcm.setAAD(vectorAad).setAuthTag(fromHex(vector.tag))
      expect(Buffer.concat([gcm.update(fromHex(vector.ciphertext)), gcm.final()])).toEqual(plaintext)
    })
  }

  const iterations = slow ? (['10000', '1000000'] as const) : (['10000'] as const)
  it.each(iterations)(
    'the accumulated hash of %s random inputs is the published one',
    (count) => {
      const random = shake128Stream(Number(count))
      const hash = createHash('shake128', { outputLength: 32 })
      for (let i = 0; i < Number(count); i++) {
        const key = random(32)
        const nonce = Buffer.from(random(24))
        const plaintext = random(random(1)[0] ?? 0)
        const associated = random(random(1)[0] ?? 0)
        const sealed = new XaesKey(key).sealWithNonce(nonce, plaintext, associated)
        hash.update(sealed.subarray(24, -32))
        if (i % 100 === 0) expect(new XaesKey(key).open(sealed, associated)).toEqual(Buffer.from(plaintext))
      }
      expect(hash.digest('hex')).toBe(xaesVectors().accumulated[count])
    },
    300_000,
  )
})

/** Random bytes by SHAKE-128 of the empty input, a little more than `iterations` need on average. */
function shake128Stream(iterations: number): (length: number) => Uint8Array {
  const stream = createHash('shake128', { outputLength: iterations * 320 }).digest()
  expect(stream.toString('hex', 0, 16)).toBe('7f9c2ba4e88f827d616045507605853e')
  let at = 0
  return (length) => {
    at += length
    if (at > stream.length) throw new Error('the random stream is too short')
    return stream.subarray(at - length, at)
  }
}

describe('AES-256-GCM against Wycheproof', () => {
  const file = new URL('../../../shared/vectors/wycheproof-aes-gcm.json', import.meta.url)
  const reason = '../shared/vectors/wycheproof-aes-gcm.json is not there'

  itIf(existsSync(file), reason)('accepts every valid case and refuses every invalid one', () => {
    const cases = wycheproofCases(file)
    expect(cases.filter(({ result }) => result === 'valid').length).toBeGreaterThan(15)
    expect(cases.filter(({ result }) => result === 'invalid').length).toBeGreaterThan(15)
    for (const { tcId, key, iv, aad, msg, ct, tag, result } of cases) {
      const opened = gcmOpen(importKey(fromHex(key)), fromHex(iv + ct + tag), fromHex(aad))
      expect(opened?.toString('hex') ?? null, `tcId ${tcId}`).toBe(result === 'valid' ? msg : null)
    }
  })
})

type WycheproofCase = Readonly<
  Record<'key' | 'iv' | 'aad' | 'msg' | 'ct' | 'tag' | 'result', string> & { tcId: number }
>

function wycheproofCases(file: URL): WycheproofCase[] {
  const { testGroups } = JSON.parse(readFileSync(file, 'utf8')) as {
    testGroups: { keySize: number; ivSize: number; tagSize: number; tests: WycheproofCase[] }[]
  }
  return testGroups
    .filter(({ keySize, ivSize, tagSize }) => keySize === 256 && ivSize === 96 && tagSize === 128)
    .flatMap(({ tests }) => tests)
}

describe('AES-256-GCM', () => {
  const keyBytes = generateKey()
  const key = importKey(keyBytes)

  it.each([0, 1, 15, 16, 17, 32, 4096, 70_000])('opens what it sealed, %i bytes', (length) => {
    const plaintext = randomBytes(length)
    const sealed = gcmSeal(key, plaintext)
    expect(sealed.length).toBe(12 + length + 16)
    expect(gcmOpen(key, sealed)).toEqual(plaintext)
  })

  it('seals a string as its UTF-8 bytes', () => {
    expect(gcmOpen(key, gcmSeal(key, 'пароль🔐'))).toEqual(Buffer.from('пароль🔐'))
  })

  it('does not open when any single bit of nonce, ciphertext or tag is flipped', () => {
    const sealed = gcmSeal(key, 'sixteen bytes ok')
    const opened = Array.from({ length: sealed.length * 8 }, (_, bit) => gcmOpen(key, flipBit(sealed, bit)))
    expect(opened.filter((plaintext) => plaintext !== null)).toEqual([])
  })

  it('does not open under a key that differs in any single bit', () => {
    const sealed = gcmSeal(key, 'x')
    for (let bit = 0; bit < 256; bit++) {
      expect(gcmOpen(importKey(flipBit(keyBytes, bit)), sealed)).toBeNull()
    }
  })

  it('returns null for everything shorter than nonce and tag, and opens an empty plaintext', () => {
    const sealed = gcmSeal(key, '')
    expect(sealed.length).toBe(28)
    for (let length = 0; length < 28; length++) expect(gcmOpen(key, sealed.subarray(0, length))).toBeNull()
    expect(gcmOpen(key, sealed)).toEqual(Buffer.alloc(0))
  })

  it('does not open when the tag is cut or a byte is appended', () => {
    const sealed = gcmSeal(key, 'plaintext')
    for (let cut = 1; cut <= 16; cut++) expect(gcmOpen(key, sealed.subarray(0, -cut))).toBeNull()
    expect(gcmOpen(key, Buffer.concat([sealed, Buffer.alloc(1)]))).toBeNull()
  })
})

describe('XAES-256-GCM with key commitment', () => {
  const keyBytes = generateKey()
  const key = new XaesKey(keyBytes)

  it.each([0, 1, 16, 33, 70_000])(
    'opens what it sealed, %i bytes, and under another XaesKey of the same bytes',
    (length) => {
      const plaintext = randomBytes(length)
      const sealed = seal(key, plaintext, aad)
      expect(sealed.length).toBe(24 + length + 16 + 32)
      expect(key.open(sealed, aad)).toEqual(plaintext)
      expect(new XaesKey(keyBytes).open(sealed, aad)).toEqual(plaintext)
    },
  )

  it('keeps its key when the caller wipes the bytes it was made from', () => {
    const bytes = generateKey()
    const copy = Buffer.from(bytes)
    const made = new XaesKey(bytes)
    bytes.fill(0)
    expect(new XaesKey(copy).open(seal(made, 'x', aad), aad)).toEqual(Buffer.from('x'))
  })

  it('does not open when any single bit of nonce, ciphertext, tag or commitment is flipped', () => {
    const sealed = seal(key, 'sixteen bytes ok', aad)
    const opened = Array.from({ length: sealed.length * 8 }, (_, bit) => key.open(flipBit(sealed, bit), aad))
    expect(opened.filter((plaintext) => plaintext !== null)).toEqual([])
  })

  it('does not open with other associated data or under a key that differs in any single bit', () => {
    const sealed = seal(key, 'x', aad)
    for (let bit = 0; bit < aad.length * 8; bit++) expect(key.open(sealed, flipBit(aad, bit))).toBeNull()
    for (let bit = 0; bit < 256; bit++) {
      expect(new XaesKey(flipBit(keyBytes, bit)).open(sealed, aad)).toBeNull()
    }
  })

  it('returns null for everything shorter than nonce, tag and commitment', () => {
    const sealed = seal(key, '', aad)
    for (let length = 0; length < 72; length++) expect(key.open(sealed.subarray(0, length), aad)).toBeNull()
    expect(key.open(sealed, aad)).toEqual(Buffer.alloc(0))
  })

  it('compares the commitment in constant time, and makes no decipher if it differs', () => {
    const sealed = seal(key, 'plaintext', aad)
    recorded.on = true
    expect(key.open(sealed, aad)).toEqual(Buffer.from('plaintext'))
    expect(recorded.calls).toEqual(['timingSafeEqual', 'createDecipheriv'])

    recorded.calls.length = 0
    expect(key.open(flipBit(sealed, sealed.length * 8 - 1), aad)).toBeNull()
    expect(recorded.calls).toEqual(['timingSafeEqual'])
  })
})

describe('nonces', () => {
  const key = importKey(generateKey())
  const xaes = new XaesKey(generateKey())
  const nonceOf = (sealed: Buffer, length: number) => sealed.toString('hex', 0, length)

  it('never repeat over 100,000 seals', () => {
    const seen = new Set<string>()
    for (let i = 0; i < 100_000; i++) seen.add(nonceOf(gcmSeal(key, ''), GCM_NONCE_BYTES))
    expect(seen.size).toBe(100_000)
  })

  it('are bytes of the random pool, each used once, even when both lengths alternate', () => {
    reseed()
    recorded.on = true
    const used = new Map<Uint8Array, Set<number>>()
    for (let i = 0; i < 3000; i++) {
      const nonce =
        i % 3 === 0
          ? seal(xaes, '', aad).subarray(0, XAES_NONCE_BYTES)
          : gcmSeal(key, '').subarray(0, GCM_NONCE_BYTES)
      const pool = recorded.random.findLast((bytes) => Buffer.from(bytes).includes(nonce))
      if (pool === undefined) throw new Error(`nonce ${i} did not come from the generator`)
      const offsets = used.get(pool) ?? new Set()
      used.set(pool, offsets)
      const at = Buffer.from(pool).indexOf(nonce)
      for (let offset = at; offset < at + nonce.length; offset++) {
        expect(offsets.has(offset)).toBe(false)
        offsets.add(offset)
      }
    }
    expect(recorded.random.length).toBeGreaterThan(2)
  })

  it('come from fresh random bytes after reseed()', () => {
    gcmSeal(key, '')
    recorded.on = true
    gcmSeal(key, '')
    const before = recorded.random.length
    reseed()
    gcmSeal(key, '')
    expect(recorded.random.length).toBe(before + 1)
  })

  it.each([
    ['is older than a second', 1001, 1],
    ['was made in the future, after the clock was set back', -1, 1],
    ['is younger than a second', 900, 0],
  ])('come from fresh random bytes only if the pool is out of date: it %s', (_, laterMs, fresh) => {
    const now = Date.now()
    const clock = vi.spyOn(Date, 'now').mockReturnValue(now)
    reseed()
    gcmSeal(key, '')
    recorded.on = true
    clock.mockReturnValue(now + laterMs)
    gcmSeal(key, '')
    expect(recorded.random.length).toBe(fresh)
  })

  it('are not taken from the pool for keys: generateKey asks the generator each time', () => {
    recorded.on = true
    const keys = [generateKey(), generateKey()]
    expect(recorded.random.map((bytes) => Buffer.from(bytes))).toEqual(keys)
    expect(keys[0]).not.toEqual(keys[1])
  })
})
