/** Everything that the Python reference has written, read by the pure functions. */
import { describe, expect, it } from 'vitest'
import {
  apiKeyHash,
  decryptWithKey,
  derivePoolKey,
  encryptWithKey,
  isEncrypted,
  localMasterKey,
  resolveMasterKey,
} from '../../src/index.js'
import { fromHex, referenceVectors } from '../support/vectors.js'
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

describe('a wanted difference: foreign characters in a token are ERR_MALFORMED_TOKEN, while Python skips them', () => {
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

  it('isEncrypted is true for the prefix v3: too, and false for what is no string', () => {
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
      note: wanted
        ? ' (a wanted difference: Python refuses base64 without padding, the library accepts it)'
        : '',
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
    'a wanted difference: a key with %j inside is unusable, while Python skips the character',
    async (character) => {
      const text = reference.master_key_b64
      const env = { API_KEY_MASTER_KEY: text.slice(0, 9) + character + text.slice(9) }
      const warnings = await warningsOf(() => expect(resolveMasterKey(env)).toBeNull())
      expect(warnings.map(({ code }) => code)).toEqual(['KEYSTORE_MASTER_KEY'])
      expect(warnings[0]?.message).not.toContain(text.slice(9, 21))
    },
  )
})
