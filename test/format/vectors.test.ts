/**
 * The frozen vectors of format v3, which another implementation in another language has made from docs/FORMAT.md: each is
 * checked in several ways. The bytes in the page's examples are those of the vectors.
 */
import { isUtf8 } from 'node:buffer'
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { hmacSha256, importKey, XaesKey } from '../../src/format/aead.js'
import { contextPieces } from '../../src/format/context.js'
import { preAuthEncode, preAuthExtend } from '../../src/format/encoding.js'
import { parseToken, tokenAad } from '../../src/format/token.js'
import {
  type EnvelopeCrypto,
  type KeyRecord,
  KeystoreError,
  localMasterKey,
  masterKeyring,
} from '../../src/index.js'
import { DataKey } from '../../src/keys/data-key.js'
import { unwrapDataKey } from '../../src/master-keys/key-wrap.js'
import { backends, freshStore, type TestStore } from '../support/fresh-store.js'
import { randomRecord } from '../support/rows.js'
import { fromHex, referenceVectors, type V3Token, v3Vectors } from '../support/vectors.js'

const vectors = v3Vectors()
const { wraps, tokens } = vectors
const masterKey = localMasterKey(fromHex(vectors.master_key))
const keyring = masterKeyring({ primary: masterKey })

const dekOf = (user: string, version: number) => {
  const wrap = wraps.find((entry) => entry.user === user && entry.version === version)
  if (wrap === undefined) throw new Error(`the vectors have no key of ${user}, ${version}`)
  return fromHex(wrap.dek)
}
const keyOf = (user: string, version: number) =>
  new DataKey(
    {
      userId: user,
      version,
      encryptedKey: new Uint8Array(),
      kekId: null,
      createdAt: new Date(),
      wrappedAt: null,
    },
    dekOf(user, version),
  )
const recordOf = (wrap: {
  readonly user: string
  readonly version: number
  readonly wrapped: string
  readonly kek_id?: string | null
}): KeyRecord =>
  randomRecord(wrap.user, {
    version: wrap.version,
    encryptedKey: fromHex(wrap.wrapped),
    kekId: wrap.kek_id === undefined ? vectors.kek_id : wrap.kek_id,
  })
const plaintextOf = ({ plaintext, plaintext_hex }: V3Token): Buffer => {
  if (plaintext_hex !== undefined) return fromHex(plaintext_hex)
  if (typeof plaintext === 'string') return Buffer.from(plaintext)
  return Buffer.from((plaintext?.repeat ?? '').repeat(plaintext?.count ?? 0))
}

describe('the vectors', () => {
  it('are at least 80 cases, positive and negative', () => {
    const { invalid_tokens, invalid_wraps, fingerprints } = vectors
    expect(tokens.length + wraps.length + fingerprints.length).toBeGreaterThanOrEqual(80)
    expect(invalid_tokens.length + invalid_wraps.length).toBeGreaterThanOrEqual(80)
  })

  it('have the KEK id of their master key', () => {
    expect(masterKey.id).toBe(vectors.kek_id)
  })

  it.each(wraps)('wrap of $user, version $version: opens, and is made again from its nonce', async (wrap) => {
    const dek = await unwrapDataKey(keyring, recordOf(wrap), ['v3'])
    expect(Buffer.from(dek).toString('hex')).toBe(wrap.dek)
    const aad = preAuthEncode(['drizzle-keystore/wrap/v3', wrap.user, String(wrap.version), vectors.kek_id])
    expect(aad.toString('hex')).toBe(wrap.aad)
    const again = new XaesKey(fromHex(vectors.wrap_key)).sealWithNonce(fromHex(wrap.nonce), dek, aad)
    expect(`03${again.toString('hex')}`).toBe(wrap.wrapped)
  })

  it.each(tokens.map((token, index) => ({ index, token })))(
    'token $index: is made again from its nonce, and opens',
    ({ token }) => {
      const { user, version, context } = token
      const dek = importKey(dekOf(user, version))
      const tokenKey = hmacSha256(
        dek,
        preAuthEncode(['drizzle-keystore/token-key/v3', user, String(version)]),
      )
      expect(tokenKey.toString('hex')).toBe(token.token_key)
      const pieces = contextPieces(context)
      const aad = preAuthExtend(tokenAad({ userId: user, version }), pieces)
      expect(aad.toString('hex')).toBe(token.aad)
      const header = Buffer.alloc(4)
      header.writeUInt32BE(version)
      const sealed = new XaesKey(tokenKey).sealWithNonce(fromHex(token.nonce), plaintextOf(token), aad)
      const text = `v3:${Buffer.concat([header, sealed]).toString('base64url')}`
      if (typeof token.token === 'string') expect(text).toBe(token.token)
      else expect(createHash('sha256').update(text).digest('hex')).toBe(token.token.sha256)
      expect(
        keyOf(user, version)
          .open(parseToken(text, ['v3']), pieces)
          .equals(plaintextOf(token)),
      ).toBe(true)
    },
  )

  it.each(vectors.invalid_tokens)('no token: $what', ({ user, version, context, token, error }) => {
    let code = 'opened'
    try {
      keyOf(user, version).open(parseToken(token, ['v3']), contextPieces(context))
    } catch (failure) {
      if (!(failure instanceof KeystoreError)) throw failure
      code = failure.code
    }
    expect(code).toBe(error)
  })

  it.each(vectors.invalid_wraps)('no wrap: $what', async ({ error, ...wrap }) => {
    const failed = unwrapDataKey(keyring, recordOf(wrap), ['v2', 'v3'])
    // A KEK id of no given master key has an error of its own: the wrap was not tried.
    const named = wrap.kek_id === null || keyring.find(wrap.kek_id) !== null
    await expect(failed).rejects.toMatchObject({ code: named ? error : 'ERR_UNKNOWN_MASTER_KEY' })
  })
})

describe.each(backends)('the vectors through a store: %s', (backend) => {
  let fresh: TestStore
  let envelope: EnvelopeCrypto
  beforeAll(async () => {
    fresh = await freshStore(backend)
    // A store takes version n only after n - 1, so higher versions are left out.
    const storable = wraps.filter(({ version }) => version <= 2)
    await fresh.store.insertIfAbsent(storable.map(recordOf))
    envelope = await fresh.open({ masterKeys: masterKey })
  })
  afterAll(() => fresh.remove())

  it('open one by one, in bulk, as bytes and in a handle', async () => {
    const stored = await fresh.store.getAll(wraps.map(({ user }) => user))
    const has = ({ user, version }: V3Token) =>
      stored.get(user)?.some((row) => row.version === version) === true
    const usable = tokens.filter(
      (token) => typeof token.token === 'string' && token.user !== '' && has(token),
    )
    expect(usable.length).toBeGreaterThan(60)
    const items = usable.map(({ user, token, context }) => ({ userId: user, token: String(token), context }))
    const bulk = await envelope.decryptMany(items)
    for (const [index, token] of usable.entries()) {
      const expected = plaintextOf(token)
      const { userId, token: text, context } = items[index] ?? { userId: '', token: '', context: {} }
      expect(Buffer.from(await envelope.decryptBytes(userId, text, context)).equals(expected)).toBe(true)
      expect(Buffer.from((await envelope.user(userId)).decryptBytes(text, context)).equals(expected)).toBe(
        true,
      )
      const result = bulk[index]
      if (isUtf8(expected)) expect(result).toEqual({ ok: true, value: expected.toString() })
      else expect(result).toMatchObject({ ok: false, error: { code: 'ERR_DECRYPTION_FAILED' } })
    }
    for (const token of tokens.filter(({ user, version }) => user === '' && version === 1)) {
      if (typeof token.token !== 'string' || !isUtf8(plaintextOf(token))) continue
      expect(await envelope.pool.decrypt(token.token, token.context)).toBe(plaintextOf(token).toString())
    }
  })
})

describe('docs/FORMAT.md', () => {
  const page = readFileSync('docs/FORMAT.md', 'utf8').replace(/\s+/g, ' ')
  const compact = page.replaceAll(' ', '')
  const token = tokens.find(({ context, user }) => user === 'alice' && context.provider === 'openai')
  const [referenceUser] = referenceVectors().users

  it('shows the bytes of the vectors in its worked examples', () => {
    const [wrap] = wraps
    const keys = [
      vectors.master_key,
      vectors.wrap_key,
      vectors.kek_id,
      wrap?.dek,
      token?.token_key,
      token?.token,
    ]
    for (const value of keys) expect(page).toContain(value)
    // The page shows these bytes in columns with words between them, so they are compared piece by piece.
    const wrapped = fromHex(wrap?.wrapped ?? '')
    const body = Buffer.from(String(token?.token).slice(3), 'base64url')
    const end = body.length
    const pieces = [
      wrapped.subarray(1, 25),
      wrapped.subarray(25, 57),
      wrapped.subarray(57, 73),
      wrapped.subarray(73),
      body.subarray(4, 28),
      body.subarray(28, end - 48),
      body.subarray(end - 48, end - 32),
      body.subarray(end - 32),
    ]
    for (const piece of pieces) expect(compact).toContain(piece.toString('hex'))
    expect(page).toContain(vectors.fingerprints[0]?.fingerprint)
    expect(page).toContain(referenceUser?.key_hex)
    expect(page).toContain(referenceUser?.tokens[2]?.token)
  })
})
