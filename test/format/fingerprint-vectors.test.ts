/** The frozen vectors of fingerprints, which other implementations have made from docs/FORMAT.md, and the form of a fingerprint. */
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { hmacSha256, importKey } from '../../src/format/aead.js'
import { preAuthEncode } from '../../src/format/encoding.js'
import { fingerprintKind, fingerprintOf, fingerprintVersion } from '../../src/format/fingerprint.js'
import { fingerprintVectors, fromHex, tenantVectors } from '../support/vectors.js'

const { fingerprints } = fingerprintVectors()

describe('the vectors of fingerprints', () => {
  it.each(fingerprints)(
    'user $user, version $version, name $name, value $value, $normalize $bits',
    (entry) => {
      const { user: userId, version, dek, name, normalize, bits, value, key, fingerprint } = entry
      const kind = fingerprintKind({ name, ...(normalize && { normalize }), ...(bits && { bits }) })
      const made = fingerprintOf(importKey(fromHex(dek)), { userId, version }, kind, value)
      expect(made).toBe(fingerprint)
      const whose =
        version === 1
          ? ['drizzle-keystore/fingerprint/v1', userId]
          : ['drizzle-keystore/fingerprint/v2', userId, String(version)]
      const derived = hmacSha256(importKey(fromHex(dek)), preAuthEncode([...whose, ...kind.pieces]))
      expect(derived.toString('hex')).toBe(key)
      expect(fingerprintVersion(fingerprint, kind)).toBe(version)
    },
  )

  it('of the other implementation', () => {
    const { fingerprints: others } = tenantVectors()
    for (const { user: userId, version, dek, name, value, fingerprint } of others) {
      const key = hmacSha256(
        importKey(fromHex(dek)),
        preAuthEncode(['drizzle-keystore/fingerprint/v2', userId, String(version), name]),
      )
      expect(`f2:${version}:${hmacSha256(key, value).toString('base64url')}`).toBe(fingerprint)
      if (version === 1) continue
      const made = fingerprintOf(
        importKey(fromHex(dek)),
        { userId, version },
        fingerprintKind({ name }),
        value,
      )
      expect(made).toBe(fingerprint)
    }
    expect(others.some(({ version }) => version > 1)).toBe(true)
  })

  it('differ by user, version, name, normalization and bits, as far as their bits go', () => {
    const whole = fingerprints
      .filter(({ bits = 256 }) => bits >= 63)
      .map(({ fingerprint }) => fingerprint.slice(-10))
    const values = fingerprints.filter(({ bits = 256 }) => bits >= 63)
    const distinct = new Set(
      values.map(({ value, normalize, ...rest }) =>
        JSON.stringify({
          ...rest,
          key: '',
          normalize: normalize && [...normalize].sort(),
          value: normalized(value, normalize),
        }),
      ),
    )
    expect(new Set(whole).size).toBe(distinct.size)
  })

  it('are those of the worked examples in docs/FORMAT.md', () => {
    const page = readFileSync('docs/FORMAT.md', 'utf8')
    const shown = fingerprints.filter(({ fingerprint }) => page.includes(`\`${fingerprint}\``))
    expect(shown.some(({ version, bits }) => version === 2 && bits === undefined)).toBe(true)
    expect(shown.some(({ bits, normalize }) => bits === 12 && normalize !== undefined)).toBe(true)
    for (const { dek, key } of shown) expect([page.includes(dek), page.includes(key)]).toEqual([true, true])
  })
})

function normalized(value: string, normalize: readonly ('trim' | 'lowercase' | 'nfc')[] = []): string {
  return fingerprintKind({ name: '', normalize }).normalized(value)
}

describe('the form of a fingerprint', () => {
  const [first, second] = [1, 2].map(
    (version) => fingerprints.find((entry) => entry.version === version)?.fingerprint as string,
  ) as [string, string]

  it.each([
    ['empty', ''],
    ['a plaintext', 'sk-1'],
    ['another prefix', first.replace('f1:', 'f3:')],
    ['a space after it', `${first} `],
    ['a line break after it', `${first}\n`],
    ['a character less', first.slice(0, -1)],
    ['a character more', `${first}A`],
    ['spare bits that are not zero', `${first.slice(0, -1)}${first.endsWith('B') ? 'C' : 'B'}`],
    ['padding', `${first}=`],
    ['version 0', second.replace('f2:2', 'f2:0')],
    ['version 1, which is f1', second.replace('f2:2', 'f2:1')],
    ['a leading zero', second.replace('f2:2', 'f2:02')],
    ['a version beyond 2^31 - 1', second.replace('f2:2', 'f2:2147483648')],
  ])('is not that of %s', (_, text) => {
    expect(fingerprintVersion(text, { bits: 256 })).toBeNull()
  })

  it('has its bits, and no other number of them', () => {
    for (const { fingerprint, bits = 256 } of fingerprints) {
      for (const other of [1, 4, 7, 8, 9, 12, 16, 63, 128, 255, 256]) {
        const isSame = fingerprintVersion(fingerprint, { bits: other }) !== null
        if (other === bits) expect(isSame).toBe(true)
        // A length says how many bytes there are, and zeros at the end may be chance.
        else if (Math.ceil(other / 8) !== Math.ceil(bits / 8)) expect(isSame).toBe(false)
      }
    }
  })
})

describe('a function as normalization', () => {
  it('is applied, bound as one, and shows no value when it fails', () => {
    const kind = fingerprintKind({ name: 'n', normalize: (value) => value.replaceAll('-', '') })
    const key = importKey(fromHex(fingerprints[0]?.dek as string))
    const ref = { userId: 'alice', version: 1 }
    expect(fingerprintOf(key, ref, kind, '12-34')).toBe(fingerprintOf(key, ref, kind, '1234'))
    expect(fingerprintOf(key, ref, kind, '1234')).not.toBe(
      fingerprintOf(key, ref, fingerprintKind({ name: 'n' }), '1234'),
    )
    for (const normalize of [
      () => 7 as never,
      () => 'hush\ud800',
      (value: string) => {
        throw new Error(value)
      },
    ])
      expect(() => fingerprintOf(key, ref, fingerprintKind({ name: 'n', normalize }), 'hush')).toThrow(
        expect.objectContaining({
          code: 'ERR_INVALID_ARGUMENT',
          message: expect.not.stringContaining('hush'),
        }),
      )
  })
})
