/** The detector of the no-leak tests finds planted secrets: without this, those tests could pass on anything. */
import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { describe, expect, it } from 'vitest'
import { withChangedDatabase } from '../support/bad-databases.js'
import { dialects } from '../support/databases.js'
import { everythingOf, secretForms, textForms } from '../support/leaks.js'

const plaintext = `sk-planted-"\n${randomBytes(18).toString('base64url')}`

describe('the detector itself', () => {
  const bytes = randomBytes(60)
  const has = (value: unknown) => secretForms(bytes).some((form) => everythingOf(value).includes(form))

  it.each<[string, unknown]>([
    ['a message in hexadecimal', new Error(`key ${bytes.toString('hex')}`)],
    ['a message in base64', new Error(`key ${bytes.toString('base64')}`)],
    ['a message in base64url', new Error(`key ${bytes.toString('base64url')}`)],
    ['the middle of a wrapped key', new Error(`key ${bytes.toString('hex', 28, 44)}`)],
    ['a property that is a Buffer', Object.assign(new Error('x'), { params: [bytes] })],
    ['a property that is a Uint8Array', Object.assign(new Error('x'), { key: new Uint8Array(bytes) })],
    ['a number array in JSON', { toJSON: () => [...bytes] }],
    [
      'a property that is not enumerable',
      Object.defineProperty(new Error('x'), 'detail', { value: bytes, enumerable: false }),
    ],
    [
      'the cause of a cause',
      new Error('x', { cause: new Error('y', { cause: new Error(bytes.toString('hex')) }) }),
    ],
    ['a part of an AggregateError', new AggregateError([new Error(bytes.toString('hex'))])],
    ['a nested property', Object.assign(new Error('x'), { query: { a: { b: { c: { d: { e: bytes } } } } } })],
  ])('sees %s', (_, value) => {
    expect(has(value)).toBe(true)
  })

  it('sees nothing in an error without the secret', () => {
    expect(has(new Error('x', { cause: new Error(`key ${randomBytes(60).toString('hex')}`) }))).toBe(false)
  })

  it.runIf(dialects.includes('postgres'))(
    "sees the wrapped key in Postgres' own error of the same CHECK violation",
    async () => {
      await expect(
        withChangedDatabase('postgres', 'select 1', async (url) => {
          const client = new pg.Client(url)
          await client.connect()
          try {
            await client.query(
              'insert into encryption_keys (user_id, version, encrypted_key, created_at) values ($1, 0, $2, now())',
              ['x', bytes],
            )
          } catch (error) {
            throw has(error) ? new Error('seen') : new Error('not seen')
          } finally {
            await client.end()
          }
        }),
      ).rejects.toThrow(/^seen$/)
    },
  )

  it('sees a planted text as it is, escaped, and as bytes', () => {
    for (const value of [
      new Error(plaintext),
      { [plaintext]: 1 },
      [Buffer.from(plaintext)],
      encodeURIComponent(plaintext),
    ]) {
      expect(textForms(plaintext).some((form) => everythingOf(value).includes(form))).toBe(true)
    }
  })
})
