/** The native core against every vector: what it makes of a given nonce, and what it opens. */
import { createCipheriv, createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { expect, it } from 'vitest'
import { itIf } from '../support/conditional.js'
import { builtAddon, describeNative, nativeWithNonces } from '../support/native.js'
import { slow } from '../support/slow.js'
import { fromHex, referenceVectors, tenantVectors, v3Vectors, xaesVectors } from '../support/vectors.js'

describeNative('the native core', () => {
  const parts = builtAddon === null ? (undefined as never) : nativeWithNonces()

  it.each(xaesVectors().vectors)('seals and opens the published vector of nonce $nonce', (vector) => {
    const [nonce, aad, plaintext] = [vector.nonce, vector.aad, vector.plaintext].map(fromHex) as Buffer[]
    const key = new parts.V3Key(fromHex(vector.key))
    parts.nextNonce(nonce as Buffer)
    const token = key.sealToken(1, plaintext as Buffer, aad as Buffer) as string
    expect(Buffer.from(token.slice(3), 'base64url').toString('hex')).toBe(
      `00000001${vector.nonce}${vector.ciphertext}${vector.tag}${vector.commitment}`,
    )
    expect(key.openToken(token, 0, aad as Buffer)).toEqual(plaintext)
  })

  const iterations = slow ? (['10000', '1000000'] as const) : (['10000'] as const)
  it.each(iterations)(
    'has the published accumulated hash of %s random inputs',
    (count) => {
      const stream = createHash('shake128', { outputLength: Number(count) * 320 }).digest()
      let at = 0
      const random = (length: number) => {
        at += length
        return stream.subarray(at - length, at)
      }
      const hash = createHash('shake128', { outputLength: 32 })
      for (let i = 0; i < Number(count); i++) {
        const key = new parts.V3Key(random(32))
        parts.nextNonce(random(24))
        const plaintext = random(random(1)[0] ?? 0)
        const aad = random(random(1)[0] ?? 0)
        const token = key.sealToken(1, plaintext, aad) as string
        hash.update(Buffer.from(token.slice(3), 'base64url').subarray(28, -32))
        if (i % 100 === 0) expect(key.openToken(token, 0, aad)).toEqual(Buffer.from(plaintext))
      }
      expect(hash.digest('hex')).toBe(xaesVectors().accumulated[count])
    },
    300_000,
  )

  it('makes every v3 token of the vectors again, as a text and as bytes, and opens it', () => {
    for (const { token_key, nonce, version, aad, token, ...entry } of v3Vectors().tokens) {
      const key = new parts.V3Key(fromHex(token_key))
      const bytes = plaintextOf(entry)
      parts.nextNonce(fromHex(nonce))
      const made = key.sealToken(version, bytes, fromHex(aad)) as string
      const wanted = typeof token === 'string' ? token : token.sha256
      expect(typeof token === 'string' ? made : createHash('sha256').update(made).digest('hex')).toBe(wanted)
      expect(parts.versionOf(made, 0)).toBe(version)
      expect(key.openToken(made, 0, fromHex(aad))?.equals(bytes)).toBe(true)
      const text = entry.plaintext_hex === undefined ? bytes.toString() : undefined
      if (text === undefined) continue
      expect(key.openTokenText(made, 0, fromHex(aad)) === text).toBe(true)
      parts.nextNonce(fromHex(nonce))
      expect(key.sealToken(version, text, fromHex(aad)) === made).toBe(true)
    }
  })

  it('makes every wrap of the vectors again, of master keys and of tenants, and opens it', () => {
    const { wrap_key, wraps } = v3Vectors()
    for (const entry of [...wraps.map((wrap) => ({ ...wrap, wrap_key })), ...tenantVectors().users]) {
      const key = new parts.V3Key(fromHex(entry.wrap_key))
      parts.nextNonce(fromHex(entry.nonce))
      expect(key.wrap(fromHex(entry.dek), fromHex(entry.aad)).toString('hex')).toBe(entry.wrapped)
      expect(key.unwrap(fromHex(entry.wrapped), fromHex(entry.aad))?.toString('hex')).toBe(entry.dek)
      expect(key.unwrap(fromHex(entry.wrapped), Buffer.from('another'))).toBeNull()
    }
  })

  it('opens every v2 token of the reference, and makes it again from its nonce', () => {
    const { users, pool_key_hex, pool_tokens } = referenceVectors()
    const all = [...users, { key_hex: pool_key_hex, tokens: pool_tokens }]
    for (const { key_hex, plaintext, token } of all.flatMap(({ key_hex, tokens }) =>
      tokens.map((sealed) => ({ key_hex, ...sealed })),
    )) {
      const key = new parts.V2Key(fromHex(key_hex))
      expect(key.openTokenText(token, 0)).toBe(plaintext)
      parts.nextNonce(Buffer.from(token.slice(3), 'base64url').subarray(0, 12))
      expect(key.sealToken(plaintext)).toBe(token)
    }
  })

  const file = new URL('../../../shared/vectors/wycheproof-aes-gcm.json', import.meta.url)
  itIf(existsSync(file), '../shared/vectors/wycheproof-aes-gcm.json is not there')(
    'takes what Wycheproof calls valid and refuses what it calls invalid, as far as v2 has such: 256-bit keys, no AAD',
    () => {
      const { testGroups } = JSON.parse(readFileSync(file, 'utf8')) as {
        testGroups: {
          keySize: number
          ivSize: number
          tagSize: number
          tests: Record<'key' | 'iv' | 'aad' | 'msg' | 'ct' | 'tag' | 'result', string>[]
        }[]
      }
      const cases = testGroups
        .filter(({ keySize, ivSize, tagSize }) => keySize === 256 && ivSize === 96 && tagSize === 128)
        .flatMap(({ tests }) => tests.filter(({ aad }) => aad === ''))
      expect(cases.length).toBeGreaterThan(15)
      for (const { key, iv, msg, ct, tag, result } of cases) {
        const token = `v2:${fromHex(iv + ct + tag).toString('base64url')}`
        const opened = new parts.V2Key(fromHex(key)).openToken(token, 0)
        expect(opened?.toString('hex') ?? null).toBe(result === 'valid' ? msg : null)
      }
    },
  )

  it('encrypts v2 as node:crypto does', () => {
    const [key, nonce] = [Buffer.alloc(32, 1), Buffer.alloc(12, 2)]
    const cipher = createCipheriv('aes-256-gcm', key, nonce)
    const ciphertext = Buffer.concat([cipher.update('text'), cipher.final()])
    parts.nextNonce(nonce)
    const token = new parts.V2Key(key).sealToken('text') as string
    const sealed = Buffer.concat([nonce, ciphertext, cipher.getAuthTag()])
    expect(Buffer.from(token.slice(3), 'base64url')).toEqual(sealed)
  })
})

interface Plaintext {
  readonly plaintext?: unknown
  readonly plaintext_hex?: string | undefined
}

function plaintextOf({ plaintext, plaintext_hex }: Plaintext): Buffer {
  if (plaintext_hex !== undefined) return fromHex(plaintext_hex)
  if (typeof plaintext === 'string') return Buffer.from(plaintext)
  const { repeat = '', count = 0 } = (plaintext ?? {}) as { repeat?: string; count?: number }
  return Buffer.from(repeat.repeat(count))
}
