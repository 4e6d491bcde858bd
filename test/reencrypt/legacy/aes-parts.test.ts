/** The reader of home-grown AES ciphertexts, in the forms that applications write, with node:crypto as they do. */
import { createCipheriv, randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { type AesPartsReaderOptions, aesPartsReader } from '../../../src/reencrypt/index.js'
import { damaged, readBy, refusalBy } from '../../support/legacy-readers.js'

type Form = Omit<AesPartsReaderOptions, 'key'> & { readonly ivBytes?: number }

const key = randomBytes(32)

/** As an application would. */
function write(
  { cipher, parts, encoding, prefix = '', separator = ':', ivBytes = 16 }: Form,
  text: string,
): string {
  const iv = randomBytes(ivBytes)
  const sealing = createCipheriv(cipher as 'aes-256-gcm', key, iv)
  const ciphertext = Buffer.concat([sealing.update(text, 'utf8'), sealing.final()])
  const tag = cipher === 'aes-256-gcm' ? sealing.getAuthTag() : Buffer.alloc(0)
  const order = parts ?? (cipher === 'aes-256-gcm' ? ['iv', 'tag', 'ciphertext'] : ['iv', 'ciphertext'])
  return (
    prefix + order.map((part) => ({ iv, tag, ciphertext })[part as 'iv'].toString(encoding)).join(separator)
  )
}

/** LibreChat's `v3:` (packages/data-schemas/src/crypto) is the first, its encryptV2 the second. */
const FORMS: readonly (readonly [name: string, form: Form])[] = [
  ['v3:<iv>:<ciphertext>, CTR', { cipher: 'aes-256-ctr', encoding: 'hex', prefix: 'v3:', check: () => true }],
  ['<iv>:<ciphertext>, CBC', { cipher: 'aes-256-cbc', encoding: 'hex' }],
  ['<iv>:<tag>:<ciphertext>, GCM in hex', { cipher: 'aes-256-gcm', encoding: 'hex', ivBytes: 12 }],
  [
    'v2:<iv>:<tag>:<ciphertext>, GCM in base64',
    { cipher: 'aes-256-gcm', encoding: 'base64', prefix: 'v2:', ivBytes: 12 },
  ],
  [
    '<iv>.<ciphertext>.<tag>, GCM with an IV of 16 bytes',
    { cipher: 'aes-256-gcm', encoding: 'base64', separator: '.', parts: ['iv', 'ciphertext', 'tag'] },
  ],
  [
    'enc$<ciphertext>$<iv>, CBC in base64',
    {
      cipher: 'aes-256-cbc',
      encoding: 'base64',
      prefix: 'enc$',
      separator: '$',
      parts: ['ciphertext', 'iv'],
    },
  ],
]

describe.each(FORMS)('aesPartsReader of %s', (_, { ivBytes, ...form }) => {
  const value = (text: string) => write({ ...form, ...(ivBytes === undefined ? {} : { ivBytes }) }, text)
  const reader = aesPartsReader({ ...form, key })

  it('reads what an application wrote', async () => {
    for (const text of ['sk-live-0123456789', '', 'schlüssel 🔑', 'x'.repeat(100_000), '{"json": true}'])
      expect(await readBy(reader, value(text))).toBe(text)
  })

  it('refuses what a wrong key makes of a value', async () => {
    const { check: _, ...unchecked } = form
    const other = aesPartsReader({ ...unchecked, key: randomBytes(32) })
    for (let round = 0; round < 300; round += 1)
      await refusalBy(other, value('a secret of some length'), ['secret of some'])
  })

  it('does not claim fewer or more parts, another prefix, or an IV of another length', () => {
    const whole = value('sk-live-0123456789')
    const separator = form.separator ?? ':'
    const others = [
      `x${whole}`,
      whole + separator,
      whole.slice(0, whole.lastIndexOf(separator)),
      'v2:my-plain-key',
      '',
      'a:b:c',
      `v3:${'a'.repeat(40)}`,
    ]
    for (const other of others) expect(reader.test(other), other).toBe(false)
  })
})

describe('aesPartsReader', () => {
  it('refuses a value of GCM that was changed or cut', async () => {
    const form = { cipher: 'aes-256-gcm', encoding: 'hex', prefix: 'v2:' } as const
    const reader = aesPartsReader({ ...form, key })
    const value = write(form, 'a secret, to be damaged')
    for (const at of [3, 10, 40, -1]) await refusalBy(reader, damaged(value, at))
    for (const cut of [1, 2]) await refusalBy(reader, value.slice(0, -cut))
    // A tag that was cut short is easier to guess.
    const [iv, tag, ciphertext] = value.slice(3).split(':')
    await refusalBy(reader, `v2:${iv}:${tag?.slice(0, 8)}:${ciphertext}`)
  })

  it('refuses short texts of CTR without a check', async () => {
    const form = { cipher: 'aes-256-ctr', encoding: 'hex', prefix: 'v3:' } as const
    const value = write(form, 'short')
    expect(await refusalBy(aesPartsReader({ ...form, key }), value)).toContain('give the reader a check')
    expect(await readBy(aesPartsReader({ ...form, key, check: (text) => text === 'short' }), value)).toBe(
      'short',
    )
    await refusalBy(aesPartsReader({ ...form, key, check: (text) => text === 'other' }), value)
  })

  it.each([
    [{ key: 'k'.repeat(32) }, 'key must be a Uint8Array of 32 bytes'],
    [{ key: randomBytes(16) }, 'key must be a Uint8Array of 32 bytes'],
    [{ cipher: 'aes-128-gcm' }, 'cipher must be one of'],
    [{ encoding: 'utf8' }, 'encoding must be'],
    [{ separator: '' }, 'cannot stand between'],
    [{ separator: 'a' }, 'cannot stand between'],
    [{ parts: ['iv', 'ciphertext'] }, 'parts must be iv, tag, ciphertext'],
    [{ parts: ['iv', 'tag', 'tag', 'ciphertext'] }, 'parts must be'],
    [{ prefix: 7 }, 'prefix must be a string'],
    [{ check: true }, 'check must be a function'],
  ])('refuses the options %j', (options, message) => {
    const given = { key, cipher: 'aes-256-gcm', encoding: 'hex', ...options }
    expect(() => aesPartsReader(given as never)).toThrow(message)
  })
})
