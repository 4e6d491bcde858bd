/** Everything that the Python reference wrote, through the pure functions; and v3's wraps by an independent implementation. */
import { describe, expect, it } from 'vitest'
import { hmacSha256, XaesKey } from '../../src/format/aead.js'
import {
  apiKeyHash,
  decryptWithKey,
  derivePoolKey,
  encryptWithKey,
  isEncrypted,
  type KeyRecord,
  localMasterKey,
  masterKeyring,
  resolveMasterKey,
} from '../../src/index.js'
import { unwrapDataKey, wrapDataKey } from '../../src/master-keys/key-wrap.js'
import { fromHex, referenceVectors, v3Vectors } from '../support/vectors.js'
import { warningsOf } from '../support/warnings.js'

const reference = referenceVectors()
const masterKey = Buffer.from(reference.master_key_b64, 'base64url')
const poolKey = fromHex(reference.pool_key_hex)

function keyOf(userId: string): Buffer {
  const user = reference.users.find(({ user_id }) => user_id === userId)
  if (user === undefined) throw new Error(`no such user in the vectors: ${userId}`)
  return fromHex(user.key_hex)
}

function codeOf(work: () => unknown): unknown {
  try {
    work()
  } catch (error) {
    return error instanceof Error && 'code' in error ? error.code : error
  }
  return null
}

/** A token whose first, middle and last characters can be changed. */
const [sample] = reference.users.flatMap(({ user_id, tokens }) =>
  tokens.map((token) => ({ user_id, ...token })),
)
if (sample === undefined) throw new Error('the vectors hold no token')

describe('tokens of the Python reference', () => {
  it.each(reference.users.map((user) => ({ ...user, id: JSON.stringify(user.user_id).slice(0, 50) })))(
    'every token of user $id opens under its key',
    ({ key_hex, tokens }) => {
      expect(tokens.length).toBeGreaterThan(0)
      for (const { token, plaintext } of tokens)
        expect(decryptWithKey(token, fromHex(key_hex))).toBe(plaintext)
    },
  )

  it('every plaintext makes a token of the same form and length, which opens, and never the same one twice', () => {
    for (const { key_hex, tokens } of reference.users) {
      for (const { plaintext, token } of tokens) {
        const ours = encryptWithKey(plaintext, fromHex(key_hex))
        expect(ours).toMatch(/^v2:[\w-]+={0,2}$/)
        expect(ours.length).toBe(token.length)
        expect(ours).not.toBe(encryptWithKey(plaintext, fromHex(key_hex)))
        expect(decryptWithKey(ours, fromHex(key_hex))).toBe(plaintext)
      }
    }
  })

  it('a token opens without its prefix', () => {
    const { user_id, token, plaintext } = reference.no_prefix
    expect(token.startsWith('v2:')).toBe(false)
    expect(decryptWithKey(token, keyOf(user_id))).toBe(plaintext)
  })

  it('a token opens in both base64 alphabets, with and without padding', () => {
    for (const { key_hex, tokens } of reference.users) {
      for (const { plaintext, token } of tokens) {
        const standard = token.replaceAll('-', '+').replaceAll('_', '/')
        for (const text of [standard, token.replaceAll('=', ''), standard.replaceAll('=', '')]) {
          expect(decryptWithKey(text, fromHex(key_hex))).toBe(plaintext)
        }
      }
    }
  })

  it('no token opens under the key of another user', () => {
    const other = keyOf('bob')
    for (const { token } of reference.users[0]?.tokens ?? []) {
      expect(codeOf(() => decryptWithKey(token, other))).toBe('ERR_DECRYPTION_FAILED')
    }
  })
})

describe('tokens that the Python reference refuses', () => {
  const codes = { ValueError: 'ERR_MALFORMED_TOKEN', InvalidTag: 'ERR_DECRYPTION_FAILED' } as const

  it.each(reference.bad_tokens)('$case: $python_raises there', ({ user_id, token, python_raises }) => {
    expect(codeOf(() => decryptWithKey(token, keyOf(user_id)))).toBe(codes[python_raises])
  })

  it('every failed decryption has the same message, whatever was wrong', () => {
    const failed = reference.bad_tokens.filter(({ python_raises }) => python_raises === 'InvalidTag')
    const messages = failed.map(({ user_id, token }) => {
      try {
        return decryptWithKey(token, keyOf(user_id))
      } catch (error) {
        return String(error)
      }
    })
    expect(new Set(messages).size).toBe(1)
  })
})

describe('wanted difference: foreign characters in a token are ERR_MALFORMED_TOKEN, where Python skips them', () => {
  const { user_id, token } = sample
  const at = (index: number, character: string) => token.slice(0, index) + character + token.slice(index)

  it.each([
    ['a space in the middle', at(20, ' ')],
    ['a newline at the end', `${token}\n`],
    ['a space after the prefix', at(3, ' ')],
    ['a dot', at(20, '.')],
    ['a NUL', at(20, '\0')],
    ['U+0141, whose low byte is "A"', at(20, '\u0141')],
    ['four foreign characters, which keep the length a multiple of four', at(20, '....')],
    ['text after the padding', `${token}QUJD`],
  ])('%s', (_, text) => {
    expect(codeOf(() => decryptWithKey(text, keyOf(user_id)))).toBe('ERR_MALFORMED_TOKEN')
  })
})

describe('the shared pool of the Python reference', () => {
  it('derivePoolKey gives its key', () => {
    expect(Buffer.from(derivePoolKey(masterKey))).toEqual(poolKey)
  })

  it('a local master key derives the same one off the event loop', async () => {
    expect(Buffer.from(await localMasterKey(masterKey).derivePoolKey())).toEqual(poolKey)
  })

  it('every pool token opens under it', () => {
    expect(reference.pool_tokens.length).toBe(4)
    for (const { token, plaintext } of reference.pool_tokens) {
      expect(decryptWithKey(token, poolKey)).toBe(plaintext)
    }
  })
})

describe('small functions of the Python reference', () => {
  it.each(reference.hashes.map(({ api_key, sha256_hex }) => [api_key.slice(0, 60), api_key, sha256_hex]))(
    'apiKeyHash(%j)',
    (_, apiKey, hex) => {
      expect(apiKeyHash(apiKey)).toBe(hex)
    },
  )

  it.each(reference.is_encrypted)('isEncrypted($value) is $result', ({ value, result }) => {
    expect(isEncrypted(value)).toBe(result)
  })

  it('isEncrypted knows the prefix v3: too, and says false to what is no string', () => {
    expect(isEncrypted('v3:')).toBe(true)
    for (const value of [null, undefined, 2, ['v2:'], { value: 'v2:' }])
      expect(isEncrypted(value)).toBe(false)
  })
})

describe('resolveMasterKey', () => {
  const isWantedDifference = (name: string) => name === 'no padding'
  const cases = reference.resolve_master_key.map((testCase) => {
    const wanted = isWantedDifference(testCase.case)
    return {
      name: testCase.case,
      env: testCase.value === null ? {} : { API_KEY_MASTER_KEY: testCase.value },
      hex: wanted
        ? reference.resolve_master_key.find(({ value }) => value?.trim() === reference.master_key_b64)
            ?.result_hex
        : testCase.result_hex,
      note: wanted ? ' (wanted difference: Python refuses base64 without padding, we accept it)' : '',
    }
  })

  it.each(cases)('$name$note', async ({ env, hex }) => {
    let key: Uint8Array | null = null
    const warnings = await warningsOf(() => {
      key = resolveMasterKey(env)
    })
    expect(key === null ? null : Buffer.from(key).toString('hex')).toBe(hex)
    expect(warnings.length).toBe(hex === null ? 1 : 0)
    const value = env.API_KEY_MASTER_KEY?.trim()
    for (const { message } of warnings) {
      expect(message).toContain('API_KEY_MASTER_KEY')
      if (value) expect(message).not.toContain(value.slice(0, 12))
    }
  })

  it('the difference has a case in the vectors, which Python answers with None', () => {
    const differences = reference.resolve_master_key.filter((testCase) => isWantedDifference(testCase.case))
    expect(differences.map(({ result_hex }) => result_hex)).toEqual([null])
  })

  it.each([' ', '.', '\u0141', '\n'])(
    'wanted difference: a key with %j inside is unusable, where Python skips the character',
    async (character) => {
      const text = reference.master_key_b64
      const env = { API_KEY_MASTER_KEY: text.slice(0, 9) + character + text.slice(9) }
      const warnings = await warningsOf(() => expect(resolveMasterKey(env)).toBeNull())
      expect(warnings.map(({ code }) => code)).toEqual(['KEYSTORE_MASTER_KEY'])
      expect(warnings[0]?.message).not.toContain(text.slice(9, 21))
    },
  )
})

describe('v3, by an independent implementation', () => {
  const v3 = v3Vectors()
  const local = localMasterKey(fromHex(v3.master_key))
  const keyring = masterKeyring({ primary: local })
  const recordOf = (wrap: (typeof v3.wraps)[number]): KeyRecord => ({
    userId: wrap.user,
    version: wrap.version,
    encryptedKey: fromHex(wrap.wrapped),
    kekId: v3.kek_id,
    createdAt: new Date(0),
    wrappedAt: null,
    shreddedAt: null,
  })
  const unwrap = async (record: KeyRecord) => {
    const dataKey = await unwrapDataKey(keyring, record, ['v3'])
    return Buffer.from(dataKey).toString('hex')
  }
  const refused = (record: KeyRecord) =>
    expect(unwrap(record)).rejects.toMatchObject({ code: 'ERR_UNWRAP_FAILED' })

  it('the KEK id of its master key is the same, and of the v2 wraps that we write, local-v2: with the same fingerprint', () => {
    expect(local.id).toBe(v3.kek_id)
    expect(local.v2Id).toBe(v3.kek_id.replace('local:', 'local-v2:'))
  })

  it('the wrap key is derived by its label', () => {
    const label = 'drizzle-keystore/wrap-key/v3'
    expect(hmacSha256(fromHex(v3.master_key), label).toString('hex')).toBe(v3.wrap_key)
  })

  it('every wrap opens to its data key', async () => {
    expect(v3.wraps.length).toBeGreaterThan(0)
    for (const wrap of v3.wraps) expect(await unwrap(recordOf(wrap))).toBe(wrap.dek)
  })

  it('every wrap is what the wrap key seals with its nonce', () => {
    const wrapKey = new XaesKey(fromHex(v3.wrap_key))
    for (const { nonce, dek, aad, wrapped } of v3.wraps) {
      const sealed = wrapKey.sealWithNonce(fromHex(nonce), fromHex(dek), fromHex(aad))
      expect(`03${sealed.toString('hex')}`).toBe(wrapped)
    }
  })

  it('a wrap of ours opens again, for its own row only', async () => {
    const dataKey = fromHex(v3.wraps[0]?.dek ?? '')
    const ref = { userId: 'carol', version: 3 }
    const times = { createdAt: new Date(0), wrappedAt: null, shreddedAt: null }
    const record = { ...ref, ...times, ...(await wrapDataKey(keyring, ref, dataKey, 'v3')) }
    expect(record.encryptedKey.length).toBe(105)
    expect(record.kekId).toBe(local.id)
    expect(await unwrap(record)).toBe(dataKey.toString('hex'))
    await refused({ ...record, version: 4 })
    await refused({ ...record, userId: 'dave' })
  })

  it("no wrap opens as another user's, as another version, or when any byte is changed", async () => {
    const [wrap] = v3.wraps
    if (wrap === undefined) throw new Error('the vectors hold no wrap')
    const record = recordOf(wrap)
    await refused({ ...record, userId: 'bob' })
    await refused({ ...record, version: 2 })
    await refused({ ...record, kekId: local.v2Id })
    for (let at = 0; at < record.encryptedKey.length; at++) {
      const changed = Buffer.from(record.encryptedKey)
      changed[at] = (changed[at] ?? 0) ^ 1
      await refused({ ...record, encryptedKey: changed })
    }
    for (const length of [0, 59, 61, 104]) {
      await refused({ ...record, encryptedKey: record.encryptedKey.subarray(0, length) })
    }
  })

  it('a v3 wrap without a KEK id, and one where only v2 is accepted, is refused', async () => {
    const [wrap] = v3.wraps
    if (wrap === undefined) throw new Error('the vectors hold no wrap')
    await refused({ ...recordOf(wrap), kekId: null })
    await expect(unwrapDataKey(keyring, recordOf(wrap), ['v2'])).rejects.toMatchObject({
      code: 'ERR_FORMAT_NOT_ACCEPTED',
    })
  })
})
