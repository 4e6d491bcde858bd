/** The frozen vectors of v2 and v3 in a runtime: made again, opened, and refused where they must be. */
import assert from 'node:assert/strict'
import {
  apiKeyHash,
  contextPieces,
  DataKey,
  decryptWithKey,
  derivePoolKey,
  encryptWithKey,
  hmacSha256,
  importKey,
  isEncrypted,
  localMasterKey,
  masterKeyring,
  parseToken,
  preAuthEncode,
  preAuthExtend,
  tokenAad,
  unwrapDataKey,
  XaesKey,
} from './internals.mjs'

const fromHex = (hex) => Buffer.from(hex, 'hex')

/** @param vectors the contents of test/vectors: `{ v3, reference }` */
export function vectorTests({ describe, it }, { v3, reference }) {
  const keyring = masterKeyring({ primary: localMasterKey(fromHex(v3.master_key)) })
  const dekOf = ({ user, version }) =>
    fromHex(v3.wraps.find((wrap) => wrap.user === user && wrap.version === version).dek)
  const keyOf = (token) =>
    new DataKey(
      { userId: token.user, version: token.version, encryptedKey: new Uint8Array(), createdAt: new Date() },
      dekOf(token),
    )
  const plaintextOf = ({ plaintext, plaintext_hex }) => {
    if (plaintext_hex !== undefined) return fromHex(plaintext_hex)
    return Buffer.from(typeof plaintext === 'string' ? plaintext : plaintext.repeat.repeat(plaintext.count))
  }
  const recordOf = ({ user, version, wrapped, kek_id }) => ({
    userId: user,
    version,
    encryptedKey: new Uint8Array(fromHex(wrapped)),
    kekId: kek_id === undefined ? v3.kek_id : kek_id,
    createdAt: new Date(),
    wrappedAt: null,
    shreddedAt: null,
  })

  describe('the vectors of v3', () => {
    it('have wraps that open, and are made again', async () => {
      for (const wrap of v3.wraps) {
        const dek = await unwrapDataKey(keyring, recordOf(wrap), ['v3'])
        assert.equal(Buffer.from(dek).toString('hex'), wrap.dek)
        const aad = fromHex(wrap.aad)
        const sealed = new XaesKey(fromHex(v3.wrap_key)).sealWithNonce(fromHex(wrap.nonce), dek, aad)
        assert.equal(`03${sealed.toString('hex')}`, wrap.wrapped)
      }
    })

    it('have tokens that are made again, and open', () => {
      for (const token of v3.tokens) {
        const { user, version, context } = token
        const label = preAuthEncode(['drizzle-keystore/token-key/v3', user, String(version)])
        const tokenKey = hmacSha256(importKey(dekOf(token)), label)
        const aad = preAuthExtend(tokenAad({ userId: user, version }), contextPieces(context))
        const header = Buffer.alloc(4)
        header.writeUInt32BE(version)
        const sealed = new XaesKey(tokenKey).sealWithNonce(fromHex(token.nonce), plaintextOf(token), aad)
        const text = `v3:${Buffer.concat([header, sealed]).toString('base64url')}`
        if (typeof token.token === 'string') assert.equal(text, token.token)
        else assert.equal(apiKeyHash(text), token.token.sha256)
        const opened = keyOf(token).open(parseToken(text, ['v3']), contextPieces(context))
        assert.ok(opened.equals(plaintextOf(token)))
      }
    })

    it('have tokens that must not open', () => {
      for (const token of v3.invalid_tokens) {
        const open = () => keyOf(token).open(parseToken(token.token, ['v3']), contextPieces(token.context))
        assert.throws(open, { code: token.error }, token.what)
      }
    })

    it('have wraps that must not open', async () => {
      for (const wrap of v3.invalid_wraps) {
        const named = wrap.kek_id === null || keyring.find(wrap.kek_id) !== null
        const code = named ? wrap.error : 'ERR_UNKNOWN_MASTER_KEY'
        await assert.rejects(() => unwrapDataKey(keyring, recordOf(wrap), ['v2', 'v3']), { code }, wrap.what)
      }
    })

    it('have fingerprints that are made again', () => {
      for (const { user, name, value, key, fingerprint } of v3.fingerprints) {
        const dek = dekOf({ user, version: 1 })
        const made = hmacSha256(
          importKey(dek),
          preAuthEncode(['drizzle-keystore/fingerprint/v1', user, name]),
        )
        assert.equal(made.toString('hex'), key)
        const mac = hmacSha256(importKey(made), Buffer.from(value)).toString('base64url')
        assert.equal(`f1:${mac}`, fingerprint)
      }
    })
  })

  describe('the vectors of v2', () => {
    const users = reference.users.map((user) => ({ ...user, key: fromHex(user.key_hex) }))

    it('have tokens that open', () => {
      for (const { key, tokens } of users)
        for (const { plaintext, token } of tokens) assert.equal(decryptWithKey(token, key), plaintext)
      const pool = derivePoolKey(Buffer.from(reference.master_key_b64, 'base64url'))
      assert.equal(Buffer.from(pool).toString('hex'), reference.pool_key_hex)
      for (const { plaintext, token } of reference.pool_tokens)
        assert.equal(decryptWithKey(token, pool), plaintext)
      const { user_id, plaintext, token } = reference.no_prefix
      assert.equal(decryptWithKey(token, users.find((user) => user.user_id === user_id).key), plaintext)
    })

    it('are opened by another implementation when they are made here', async () => {
      for (const { key, tokens } of users) {
        const name = { name: 'AES-GCM' }
        const imported = await globalThis.crypto.subtle.importKey('raw', key, name, false, ['decrypt'])
        for (const { plaintext } of tokens) {
          const sealed = Buffer.from(encryptWithKey(plaintext, key).slice(3), 'base64url')
          const opened = await globalThis.crypto.subtle.decrypt(
            { ...name, iv: sealed.subarray(0, 12) },
            imported,
            sealed.subarray(12),
          )
          assert.equal(Buffer.from(opened).toString(), plaintext)
        }
      }
    })

    it('have tokens that must not open, and hashes and prefixes that are made again', () => {
      for (const { case: what, user_id, token } of reference.bad_tokens) {
        const key = users.find((user) => user.user_id === user_id).key
        assert.throws(() => decryptWithKey(token, key), { name: 'KeystoreError' }, what)
      }
      for (const { api_key, sha256_hex } of reference.hashes) assert.equal(apiKeyHash(api_key), sha256_hex)
      for (const { value, result } of reference.is_encrypted) assert.equal(isEncrypted(value), result)
    })
  })
}
