/** The reader of n8n's values reads what CryptoJS, openssl and n8n's cipher make. */
import { createCipheriv, createHash, randomBytes } from 'node:crypto'
import CryptoJS from 'crypto-js'
import { describe, expect, it } from 'vitest'
import { n8nReader } from '../../../src/reencrypt/index.js'
import { damaged, readBy, refusalBy } from '../../support/legacy-readers.js'

const KEY = 'the encryption key of n8n'
const TEXTS = [
  JSON.stringify({ accessToken: 'ya29', region: 'eu' }),
  '',
  'pw',
  'schlüssel 🔑',
  'x'.repeat(100_000),
]

const cryptoJs = (text: string, key = KEY) => CryptoJS.AES.encrypt(text, key).toString()

/** As Cipher.encrypt of n8n-core (n8n-io/n8n, packages/core/src/encryption), whose package starts a server's worth of code. */
function n8n(text: string, encryptionKey = KEY): string {
  const salt = randomBytes(8)
  const password = Buffer.concat([Buffer.from(encryptionKey, 'binary'), salt])
  const md5 = (...pieces: Buffer[]) => createHash('md5').update(Buffer.concat(pieces)).digest()
  const first = md5(password)
  const second = md5(first, password)
  const cipher = createCipheriv('aes-256-cbc', Buffer.concat([first, second]), md5(second, password))
  return Buffer.concat([Buffer.from('Salted__'), salt, cipher.update(text), cipher.final()]).toString(
    'base64',
  )
}

describe('n8nReader', () => {
  it.each(TEXTS)('reads values of CryptoJS and of n8n', async (text) => {
    const reader = n8nReader({ encryptionKey: KEY })
    for (let round = 0; round < 20; round += 1) {
      expect(await readBy(reader, cryptoJs(text))).toBe(text)
      expect(await readBy(reader, n8n(text))).toBe(text)
    }
  })

  it('knows that both take a key beyond ASCII differently', async () => {
    const key = 'schlüssel 🔑'
    for (let round = 0; round < 20; round += 1) {
      expect(await readBy(n8nReader({ encryptionKey: key }), cryptoJs('token', key))).toBe('token')
      expect(await readBy(n8nReader({ encryptionKey: key }), n8n('token', key))).toBe('token')
    }
  })

  it('refuses what a wrong key makes of a value', async () => {
    const reader = n8nReader({ encryptionKey: 'another' })
    for (let round = 0; round < 1000; round += 1) {
      const value = cryptoJs(round % 2 === 0 ? 'pw' : 'a longer secret of two blocks')
      await refusalBy(reader, value, [KEY, 'secret of two'])
    }
  })

  it('refuses a value that was cut, and one whose padding was changed', async () => {
    const reader = n8nReader({ encryptionKey: KEY })
    const value = n8n('a secret of more than one block, to be damaged')
    for (const cut of [1, 4, 8, 40]) await refusalBy(reader, value.slice(0, -cut))
    await refusalBy(reader, damaged(value, -6))
    await refusalBy(reader, value.slice(0, 12))
  })

  it('lets its check decide', async () => {
    const isJson = (text: string) => text.startsWith('{')
    expect(await readBy(n8nReader({ encryptionKey: KEY, check: isJson }), n8n('{"a":1}'))).toBe('{"a":1}')
    await refusalBy(n8nReader({ encryptionKey: KEY, check: isJson }), n8n('no JSON'))
  })

  it('leaves alone what begins otherwise', () => {
    const reader = n8nReader({ encryptionKey: KEY })
    for (const value of ['', 'Salted__', 'U2FsdGVkX1', randomBytes(40).toString('base64'), 'v2:x'])
      expect(reader.test(value)).toBe(false)
  })

  it.each([[{}], [{ encryptionKey: '' }], [{ encryptionKey: KEY, check: 1 }]])(
    'refuses options %j',
    (options) => {
      expect(() => n8nReader(options as never)).toThrow(/must be a/)
    },
  )
})
