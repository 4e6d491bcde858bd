/** The sweep does not take other libraries' ciphertext for plaintext, where no reader was given for it. */
import { createCipheriv, randomBytes } from 'node:crypto'
import { encryptString, generateKey } from '@47ng/cloak'
import { symmetricEncrypt } from 'better-auth/crypto'
import CryptoJS from 'crypto-js'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { ciphertextForm } from '../../src/reencrypt/legacy/ciphertext-form.js'
import { dialects } from '../support/databases.js'
import { everythingOf } from '../support/leaks.js'
import { freshSqlSources, INVALID, type SqlSourceTest } from '../support/sql-sources.js'

function aesParts(encoding: 'hex' | 'base64', separator = ':', ivBytes = 12): string {
  const iv = randomBytes(ivBytes)
  const cipher = createCipheriv('aes-256-gcm', randomBytes(32), iv)
  const ciphertext = Buffer.concat([cipher.update('sk-a plaintext'), cipher.final()])
  return [iv, cipher.getAuthTag(), ciphertext].map((part) => part.toString(encoding)).join(separator)
}

async function ciphertexts(): Promise<[reader: string, value: string][]> {
  return [
    ['cloakReader', await encryptString('sk-a plaintext', generateKey())],
    ['n8nReader', CryptoJS.AES.encrypt('sk-a plaintext', 'a passphrase').toString()],
    [
      'betterAuthReader',
      await symmetricEncrypt({
        key: { keys: new Map([[2, 'a secret']]), currentVersion: 2 },
        data: 'sk-a plaintext',
      }),
    ],
    ['aesPartsReader', aesParts('hex')],
    ['aesPartsReader', aesParts('base64')],
  ]
}

describe('ciphertextForm', () => {
  it('knows what the libraries make, and AES with its IV in many forms', async () => {
    for (const [reader, value] of await ciphertexts())
      expect(ciphertextForm(value)?.reader, value).toBe(reader)
    for (let round = 0; round < 200; round += 1) {
      const all = [
        aesParts('hex', '.', 16),
        aesParts('base64', '.', 16),
        `v3:${aesParts('hex')}`,
        `v1:${aesParts('base64')}`,
        `v3:${randomBytes(16).toString('hex')}:${randomBytes(1 + round).toString('hex')}`,
        `${randomBytes(16).toString('base64')}:${randomBytes(32).toString('base64')}`,
      ]
      for (const value of all) expect(ciphertextForm(value)?.reader, value).toBe('aesPartsReader')
    }
  })

  it('takes no IV that begins like JSON in base64 for the header of a JSON Web Token', () => {
    const value = 'eyJ7gKzhljoqsSJjfQUVMA==.ub/lkvUmGLL6kU2S6YgJ5Q==.BrnDgtdyiUNxtXk5vY4='
    expect(ciphertextForm(value)?.reader).toBe('aesPartsReader')
  })

  it('leaves plaintexts alone', () => {
    const jwt = [{ alg: 'HS256', typ: 'JWT' }, { sub: 'alice' }].map((part) =>
      Buffer.from(JSON.stringify(part)).toString('base64url'),
    )
    const plaintexts = [
      '',
      'sk-proj-0123456789abcdef',
      'user:password',
      'a:b:c',
      'https://user:password@example.com:443/',
      '12:34:56',
      'fe80::1',
      '1.2.3',
      `${jwt.join('.')}.${randomBytes(32).toString('base64url')}`,
      `${jwt.join('.')}.${randomBytes(16).toString('base64url')}`,
      randomBytes(32).toString('hex'),
      randomBytes(64).toString('hex'),
      randomBytes(32).toString('base64'),
      `${randomBytes(16).toString('base64url')}:${randomBytes(32).toString('base64url')}`,
      '{"a":1}',
    ]
    for (const value of plaintexts) expect(ciphertextForm(value), value).toBeNull()
  })
})

describe.each(dialects)('a sweep on %s', (dialect) => {
  let test: SqlSourceTest
  beforeEach(async () => {
    test = await freshSqlSources(dialect)
    await test.create()
  })
  afterEach(() => test.remove())
  const fill = (values: readonly string[]) =>
    test.host.insert(
      'credentials',
      values.map((api_key, id) => ({ id, user_id: `user ${id % 3}`, api_key })),
    )
  const stored = async () =>
    (await test.host.query('select api_key from credentials order by id')).map(({ api_key }) =>
      String(api_key),
    )

  it('leaves such values and names the reader, unless it is told that they are plaintext', async () => {
    const values = (await ciphertexts()).map(([, value]) => value)
    await fill([...values, 'sk-plain'])
    for (const dryRun of [true, false]) {
      const report = await test.sweep(await test.sourceOf(), { dryRun })
      expect(report).toMatchObject({ changed: 1, before: { plaintext: 6 }, left: 5, failedCount: 5 })
      expect(report.failed[0]).toMatchObject({
        code: 'ERR_NOT_ENCRYPTED',
        reason: expect.stringContaining('cloakReader'),
      })
      expect(report.findings).toMatchObject(
        ['cloakReader', 'n8nReader', 'betterAuthReader', 'aesPartsReader'].map((reader) => ({
          severity: 'warning',
          kind: 'ciphertext',
          column: 'api_key',
          reason: expect.stringMatching(
            new RegExp(
              `: ${reader === 'aesPartsReader' ? '2 values look' : '1 value looks'} .*${reader}.*ciphertextAsPlaintext`,
            ),
          ),
        })),
      )
      for (const value of values) expect(everythingOf(report)).not.toContain(value.slice(14, 40))
      expect((await stored()).slice(0, 5)).toEqual(values)
    }

    const told = await test.sweep(await test.sourceOf(), { ciphertextAsPlaintext: true })
    expect(told).toMatchObject({ changed: 5, left: 0 })
    expect(told.findings).toHaveLength(4)
    const tokens = await stored()
    expect(await test.decrypt('user 0', tokens[0])).toBe(values[0])
    const refused = test.sweep(await test.sourceOf(), { plaintext: false, ciphertextAsPlaintext: true })
    await expect(refused).rejects.toMatchObject(INVALID)
  })

  it('says for how many users it encrypts, and how many of them have no key', async () => {
    await test.envelope.encrypt('user 1', 'x')
    await fill(['a', 'b', 'c', 'd', 'e'])
    for (const dryRun of [true, false])
      expect(await test.sweep(await test.sourceOf(), { dryRun, batchSize: 1 })).toMatchObject({
        changed: 5,
        owners: { count: 3, withoutKey: 2 },
      })
    expect(await test.sweep(await test.sourceOf())).toMatchObject({ owners: { count: 0, withoutKey: 0 } })
  })

  it('names an empty owner, and what to do', async () => {
    await test.host.insert('credentials', [{ id: 1, user_id: '', api_key: 'sk-1' }])
    const { failed } = await test.sweep(await test.sourceOf())
    expect(failed).toMatchObject([
      {
        key: 1,
        column: 'api_key',
        ...INVALID,
        reason: expect.stringMatching(/names '' as the owner: write the id/),
      },
    ])
  })

  it('does not bury tokens that are inside of other texts, or were changed at more than one place', async () => {
    const v3 = await test.envelope.encrypt('alice', 'a secret of some length', { column: 'c' })
    const v2 = `v2:${Buffer.from(Array.from({ length: 60 }, (_, at) => (at * 97 + 250) & 255)).toString('base64')}`
    const damaged = [
      v3 + v3,
      `${v3}:old`,
      `${v3},${v3}`,
      `${v3.slice(0, 40)}:${v3.slice(41)}`,
      `"${v3.slice(0, 60)}`,
      ` ${v3.slice(0, 60)}`,
      encodeURIComponent(v3),
      `[${v3}]`,
      `v3:aAAA${v3.slice(7, 60)}`,
      `V3:${v3.slice(3)}`,
      `${v2.slice(0, 40)}\ufffd${v2.slice(41)}`,
      v2.replaceAll('+', '%2B').replaceAll('=', '%3D'),
      v2 + v2,
    ]
    await fill(damaged)
    const report = await test.sweep(await test.sourceOf(), { ciphertextAsPlaintext: true })
    expect(report).toMatchObject({ changed: 0, before: { unopenable: damaged.length } })
    expect(await stored()).toEqual(damaged)
  })
})
