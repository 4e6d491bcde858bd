/** The reader of Better Auth's values reads what the real library makes, and nothing that only looks like it. */
import { randomBytes } from 'node:crypto'
import { symmetricEncrypt } from 'better-auth/crypto'
import { describe, expect, it } from 'vitest'
import { betterAuthReader } from '../../../src/reencrypt/index.js'
import { damaged, readBy, refusalBy } from '../../support/legacy-readers.js'

const SECRET = 'a secret of Better Auth, long enough'
const NEWER = 'the newer secret of Better Auth, long enough'
const TEXTS = ['ya29.a0AfH6', '', 'schlüssel 🔑', 'x'.repeat(100_000), '\ufeffwith a mark']

/** Of Better Auth with the option `secrets`. */
const versioned = (version: number, data: string) =>
  symmetricEncrypt({
    key: {
      keys: new Map([
        [1, SECRET],
        [2, NEWER],
      ]),
      currentVersion: version,
    },
    data,
  })

describe('betterAuthReader', () => {
  it.each(TEXTS)('reads values without a key id', async (text) => {
    const value = await symmetricEncrypt({ key: SECRET, data: text })
    expect(await readBy(betterAuthReader({ secret: SECRET }), value)).toBe(text)
  })

  it.each(TEXTS)('reads values with a key id, each with the secret of its version', async (text) => {
    const reader = betterAuthReader({
      secrets: [
        { version: 2, value: NEWER },
        { version: 1, value: SECRET },
      ],
    })
    for (const version of [1, 2]) {
      const value = await versioned(version, text)
      expect(value).toMatch(new RegExp(`^\\$ba\\$${version}\\$[0-9a-f]+$`))
      expect(await readBy(reader, value)).toBe(text)
    }
  })

  it('reads private keys of the JWT plugin, which are stored in quotes', async () => {
    const jwk = JSON.stringify({ kty: 'OKP', d: 'private' })
    const reader = betterAuthReader({ secret: SECRET, secrets: [{ version: 2, value: NEWER }] })
    for (const value of [await symmetricEncrypt({ key: SECRET, data: jwk }), await versioned(2, jwk)])
      expect(await readBy(reader, JSON.stringify(value))).toBe(jwk)
  })

  it('refuses values of another secret, or of a version that was not given', async () => {
    const bare = await symmetricEncrypt({ key: SECRET, data: 'refresh-token' })
    const second = await versioned(2, 'refresh-token')
    const secrets = ['refresh-token', SECRET, NEWER]
    expect(await refusalBy(betterAuthReader({ secret: NEWER }), bare, secrets)).toContain('wrong')
    expect(await refusalBy(betterAuthReader({ secret: NEWER }), second, secrets)).toContain(
      'no secret was given of version 2',
    )
    const withVersions = betterAuthReader({ secrets: [{ version: 2, value: SECRET }] })
    expect(await refusalBy(withVersions, second, secrets)).toContain('wrong')
    expect(await refusalBy(withVersions, bare, secrets)).toContain('without a key id')
  })

  it('refuses a value that was changed or cut', async () => {
    const reader = betterAuthReader({ secret: SECRET, secrets: [{ version: 2, value: NEWER }] })
    const bare = await symmetricEncrypt({ key: SECRET, data: 'a long enough refresh token' })
    const second = await versioned(2, 'a long enough refresh token')
    for (const value of [bare, second]) {
      for (const at of [6, 60, -1]) await refusalBy(reader, damaged(value, at))
      await refusalBy(reader, value.slice(0, -2))
    }
    for (const cut of [second.slice(0, -1), second.slice(0, 40), '$ba$2$']) await refusalBy(reader, cut)
  })

  it('leaves alone what Better Auth does not write, and reports what only looks like it', async () => {
    const reader = betterAuthReader({ secret: SECRET })
    const others = [
      'ya29.a0AfH6',
      'gho_16C7e42F292c6912E7710c838347Ae178B4a',
      '',
      '$ba$',
      '$ba$x$ab',
      'v3:abcd',
    ]
    for (const value of [...others, randomBytes(39).toString('hex'), `${randomBytes(50).toString('hex')}a`])
      expect(reader.test(value)).toBe(false)
    await refusalBy(reader, randomBytes(40).toString('hex'))
  })

  it.each([
    [{}, 'secret or secrets'],
    [{ secret: '' }, 'secret must be a non-empty string'],
    [{ secrets: 'abc' }, 'secrets must be an array'],
    [{ secrets: [{ version: 1.5, value: 'x' }] }, 'whole number'],
    [{ secrets: [{ version: 1, value: 7 }] }, 'value of an entry of secrets'],
    [
      {
        secrets: [
          { version: 1, value: 'x' },
          { version: 1, value: 'y' },
        ],
      },
      'version 1 twice',
    ],
  ])('refuses options %j', (options, message) => {
    expect(() => betterAuthReader(options as never)).toThrow(message)
  })
})
