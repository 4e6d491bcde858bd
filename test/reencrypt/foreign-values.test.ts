/** What begins like a token and is none: other libraries' ciphertexts, plaintexts, and tokens that were damaged. */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { isDamagedToken } from '../../src/format/token.js'
import {
  aesPartsReader,
  betterAuthReader,
  cloakReader,
  type LegacyReader,
  n8nReader,
  payloadReader,
} from '../../src/reencrypt/index.js'
import { dialects } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { everythingOf } from '../support/leaks.js'
import { CONTEXT, freshSqlSources, INVALID, type SqlSourceTest } from '../support/sql-sources.js'
import { ACCEPT_V2, v2Token } from '../support/tokens.js'

const key = randomBytes(32)

/** LibreChat's encryptV3 (packages/data-schemas/src/crypto/index.ts). */
function chatToken(text: string, secret = key): string {
  const iv = randomBytes(16)
  const cipher = createCipheriv('aes-256-ctr', secret, iv)
  return `v3:${iv.toString('hex')}:${cipher.update(text, 'utf8', 'hex')}${cipher.final('hex')}`
}

/** As applications write that have had AES-CBC, and call this the second version. */
function gcmToken(text: string): string {
  const iv = randomBytes(12)
  const cipher = createCipheriv('aes-256-gcm', key, iv)
  const ciphertext = cipher.update(text, 'utf8', 'hex') + cipher.final('hex')
  return ['v2', iv.toString('hex'), cipher.getAuthTag().toString('hex'), ciphertext].join(':')
}

const legacy = [
  aesPartsReader({ name: 'chat', key, cipher: 'aes-256-ctr', encoding: 'hex', prefix: 'v3:' }),
  aesPartsReader({ name: 'gcm', key, cipher: 'aes-256-gcm', encoding: 'hex', prefix: 'v2:' }),
]

describe.each(dialects)('the sweep of a table on %s', (dialect) => {
  let test: SqlSourceTest
  beforeEach(async () => {
    test = await freshSqlSources(dialect)
    await test.create()
  })
  afterEach(() => test.remove())

  const fill = (values: readonly string[]) =>
    test.host.insert(
      'credentials',
      values.map((api_key, id) => ({ id, user_id: 'alice', api_key })),
    )
  const stored = async () =>
    (await test.host.query('select api_key from credentials order by id')).map(({ api_key }) =>
      String(api_key),
    )

  it('reads other libraries’ values that begin like tokens, and takes what no reader claims for plaintext', async () => {
    const texts = [
      'a key of sixteen or more',
      'another key of that length',
      'v2:my-plain-key',
      'v3:',
      'v2:',
      'v3:other:parts',
    ]
    await fill([chatToken(texts[0] ?? ''), gcmToken(texts[1] ?? ''), ...texts.slice(2)])
    expect(await test.sweep(await test.sourceOf(), { legacy, plaintext: false })).toMatchObject({
      changed: 2,
      before: { 'legacy:chat': 1, 'legacy:gcm': 1, plaintext: 4 },
      left: 4,
    })
    expect(await test.sweep(await test.sourceOf(), { legacy })).toMatchObject({ changed: 4, left: 0 })
    const now = await stored()
    expect(await Promise.all(now.map((token) => test.decrypt('alice', token)))).toEqual(texts)
  })

  it('leaves what a reader claims and cannot decrypt, and names it without the value', async () => {
    const values = [
      chatToken('a key of sixteen or more', randomBytes(32)),
      `${gcmToken('a key')}00`,
      gcmToken('short').slice(0, -1),
    ]
    await fill(values)
    const report = await test.sweep(await test.sourceOf(), { legacy })
    expect(report).toMatchObject({
      changed: 0,
      left: 3,
      after: { 'legacy:chat': 1, 'legacy:gcm': 2, plaintext: 0 },
    })
    expect(report.failed.map(({ code }) => code)).toEqual(Array(3).fill('ERR_DECRYPTION_FAILED'))
    for (const value of values) expect(everythingOf(report)).not.toContain(value.slice(5, 30))
    expect(await stored()).toEqual(values)
  })

  it('does not bury a damaged token under a good one, with every reader that there is', async () => {
    const v3 = await test.envelope.encrypt('alice', 'a secret of some length', { column: CONTEXT })
    const v2 = await v2Token(test.envelope, 'alice', 'a secret of some length')
    const damaged = [
      v3.slice(0, 12),
      v3.slice(0, 90),
      `${v3.slice(0, 50)}*${v3.slice(51)}`,
      `${v3.slice(0, 50)}…`,
      `${v3}=`,
      `v3:____${v3.slice(7)}`,
      `${v3.slice(0, 76)}\n${v3.slice(76)}`,
      v2.replaceAll('=', '').slice(0, 48),
      `${v2.replaceAll('=', '').slice(0, 52)}=`,
      `${v3}${v3}`,
      `${v3},${v3}`,
      `${v3}:old`,
      `${v3.slice(0, 20)}:${v3.slice(21)}`,
      `${v3.slice(0, 40)}:${v3.slice(41)}`,
      `"${v3.slice(0, 60)}`,
      ` ${v3.slice(0, 20)}`,
      `[${v3}]`,
      `{"old":"${v3}"}`,
      encodeURIComponent(v3),
      v3.replace(':', '&#58;'),
      v3.replace(':', '&#x3A;'),
      `v3:aAAA${v3.slice(7, 60)}`,
      `V3${v3.slice(2, 60)}`,
      `${v2.slice(0, 30)}\ufffd${v2.slice(31)}`,
      encodeURIComponent(v2),
      `${v2}${v2}`,
      `[${v2}]`,
    ]
    await fill(damaged)
    const all = [
      ...legacy,
      cloakReader({ keys: [`k1.aesgcm256.${randomBytes(32).toString('base64url')}=`] }),
      betterAuthReader({ secret: 'x' }),
      n8nReader({ encryptionKey: 'x' }),
      payloadReader({ secret: 'x' }),
    ]
    const report = await test.sweep(await test.sourceOf(), { legacy: all })
    expect(report.failed.map(({ key, code }) => [key, code])).toEqual(
      damaged.map((_, id) => [id, 'ERR_MALFORMED_TOKEN']),
    )
    expect(report).toMatchObject({ changed: 0, before: { unopenable: damaged.length }, left: damaged.length })
    expect(await stored()).toEqual(damaged)
    // The way out, for what is a plaintext after all.
    const plain = {
      name: 'plain',
      test: (value: string) => value === damaged[0],
      decrypt: (value: string) => value,
    }
    expect(await test.sweep(await test.sourceOf(), { legacy: [plain] })).toMatchObject({
      changed: 1,
      before: { 'legacy:plain': 1 },
    })
  })
})

describe.each(dialects)('what has the form of a whole v2 token on %s', (dialect) => {
  const hex = `v2:${'0123456789abcdef'.repeat(2)}01234567`
  const packed = (text: string) => {
    const iv = randomBytes(12)
    const cipher = createCipheriv('aes-256-gcm', key, iv)
    const ciphertext = [cipher.update(text), cipher.final()]
    return `v2:${Buffer.concat([iv, ...ciphertext, cipher.getAuthTag()]).toString('base64')}`
  }
  const packedReader: LegacyReader = {
    name: 'packed',
    test: (value) => value.startsWith('v2:') && value !== hex,
    decrypt(value) {
      const bytes = Buffer.from(value.slice(3), 'base64')
      const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, 12))
      decipher.setAuthTag(bytes.subarray(-16))
      return decipher.update(bytes.subarray(12, -16), undefined, 'utf8') + decipher.final('utf8')
    },
  }
  const plainReader: LegacyReader = {
    name: 'hex',
    test: (value) => /^v2:[0-9a-f]{40}$/.test(value),
    decrypt: (value) => value,
  }

  it.each([
    ['that are not accepted', false],
    ['that are accepted', true],
  ])('goes to the readers, and is else reported, with v2 tokens %s', async (_, accepted) => {
    const test = await freshSqlSources(dialect, accepted ? { accept: ACCEPT_V2 } : {})
    try {
      await test.create()
      await test.envelope.encrypt('bob', 'has a key')
      const own = await v2Token(test.envelope, 'alice', 'a token of ours')
      const values = [packed('sk-legacy'), hex, own]
      await test.host.insert(
        'credentials',
        ['bob', 'bob', 'alice'].map((user_id, id) => ({ id, user_id, api_key: values[id] })),
      )
      const report = await test.sweep(await test.sourceOf(), { dryRun: true })
      expect(report).toMatchObject({ changed: accepted ? 1 : 0, before: { plaintext: 0 } })
      expect(report.failed.map(({ key }) => key)).toEqual(accepted ? [0, 1] : [0, 1, 2])
      const readers = [packedReader, plainReader]
      expect(await test.sweep(await test.sourceOf(), { legacy: readers })).toMatchObject({
        before: { 'legacy:packed': accepted ? 1 : 2, 'legacy:hex': 1, v2: accepted ? 1 : 0 },
        changed: accepted ? 3 : 2,
      })
      const [first, second, third] = await test.host.query('select api_key from credentials order by id')
      expect(await test.decrypt('bob', first?.api_key)).toBe('sk-legacy')
      expect(await test.decrypt('bob', second?.api_key)).toBe(hex)
      if (accepted) expect(await test.decrypt('alice', third?.api_key)).toBe('a token of ours')
      else expect(third?.api_key).toBe(own)
      expect(await errorOf(test.envelope.encrypt('bob', hex))).toMatchObject(INVALID)
    } finally {
      await test.remove()
    }
  })
})

function jsonWebToken(length: number): string {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const claims = { sub: randomBytes(length).toString('hex') }
  return [part({ alg: 'HS256', typ: 'JWT' }), part(claims), randomBytes(32).toString('base64url')].join('.')
}

describe('isDamagedToken', () => {
  it('is linear in time', () => {
    const began = performance.now()
    for (const part of ['v2:', 'v3:AAAA', 'v3:', 'v2:a', 'aA', '%3a', 'v3:AAAA:', ' ', '['])
      isDamagedToken(part.repeat(3_000_000 / part.length))
    expect(performance.now() - began).toBeLessThan(20_000)
  })

  it('tells what can only be a damaged token from plaintexts and other ciphertexts', () => {
    for (let round = 0; round < 2000; round += 1) {
      const length = 1 + (round % 60)
      // One in 260,000 ends like a token's prefix.
      const iv = randomBytes(12).toString('base64').replace(/v\d$/i, 'xx')
      const others = [
        `v3:${randomBytes(16).toString('hex')}:${randomBytes(length).toString('hex')}`,
        `v2:${iv}:${randomBytes(16).toString('base64')}:${randomBytes(length).toString('base64')}`,
        `v2:sk-${randomBytes(12).toString('base64url')}`,
        `v3:k${randomBytes(24).toString('base64url')}`,
        `v3:${randomBytes(32 + length).toString('hex')}`.slice(0, 104),
        `id v2:${randomBytes(32).toString('hex')}`,
        `v2:${iv}:${randomBytes(30 + length).toString('base64')}`,
        `v2:${jsonWebToken(length)}`,
        `v3:${jsonWebToken(length)}`,
        `https://host/v2:80/${randomBytes(24).toString('base64url')}?v3=1`,
        `env2:${randomBytes(40).toString('base64url')}`,
        'see v2:a-long-name-with-hyphens-and-no-capital-letters-at-all',
        randomBytes(60).toString('base64'),
      ]
      expect(others.filter(isDamagedToken)).toEqual([])
    }
    expect(
      ['', 'v2:', 'v3:', 'v2:my-plain-key', 'v3:AAAA:x', 'v3: is what I call it', 'AAAA'].filter(
        isDamagedToken,
      ),
    ).toEqual([])
  })
})
