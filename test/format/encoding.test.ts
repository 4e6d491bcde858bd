/** Base64 against an oracle, fatal UTF-8, padded base64url, pre-authentication encoding. */
import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  decodeBase64,
  decodeUtf8,
  encodeBase64Url,
  encodeBase64UrlPadded,
  preAuthEncode,
  preAuthExtend,
} from '../../src/format/encoding.js'
import { slow } from '../support/slow.js'
import { v3Vectors } from '../support/vectors.js'

const runs = { numRuns: slow ? 200_000 : 2_000 }

const STANDARD = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'
const URL_SAFE = `${STANDARD.slice(0, 62)}-_`

/** RFC 4648 §4 and §5, padded in full or not at all. */
const BASE64 = /^(?:[\w+/-]{4})*(?:[\w+/-]{2}(?:==)?|[\w+/-]{3}=?)?$/

/** Decodes by the text of RFC 4648, one character of six bits after the other. */
function oracle(text: string): number[] | null {
  if (!BASE64.test(text)) return null
  let bits = ''
  for (const character of text.replaceAll('=', '')) {
    const value = Math.max(STANDARD.indexOf(character), URL_SAFE.indexOf(character))
    bits += value.toString(2).padStart(6, '0')
  }
  return Array.from({ length: bits.length >> 3 }, (_, i) => Number.parseInt(bits.slice(i * 8, i * 8 + 8), 2))
}

/** Padding, characters that Node or Python skips, characters whose low byte is a letter (U+0141 → "A"), lone surrogates. */
const foreign = [
  '=',
  ' ',
  '\n',
  '\r',
  '\t',
  '.',
  ',',
  '~',
  '\0',
  '\x7f',
  '\u00c1',
  '\u0141',
  '\u3042',
  '🔑',
  '\ud841',
]
const mixed = fc.oneof(
  { weight: 12, arbitrary: fc.constantFrom(...STANDARD, '-', '_') },
  { weight: 1, arbitrary: fc.constantFrom(...foreign) },
)

const decoded = (text: string) => {
  const bytes = decodeBase64(text)
  return bytes === null ? null : [...bytes]
}

describe('decodeBase64', () => {
  it('takes and refuses exactly what the oracle does, over mixed strings', () => {
    fc.assert(
      fc.property(fc.string({ unit: mixed, maxLength: 40 }), (text) => {
        expect(decoded(text)).toEqual(oracle(text))
      }),
      runs,
    )
  })

  it('takes and refuses exactly what the oracle does, for every short string of a small alphabet', () => {
    const alphabet = ['A', '9', '/', '_', '=', ' ', '\u0141']
    let texts = ['']
    for (let length = 0; length < 5; length++) {
      for (const text of texts) expect([text, decoded(text)]).toEqual([text, oracle(text)])
      texts = texts.flatMap((text) => alphabet.map((character) => text + character))
    }
  })

  it('reads what Buffer writes, in both alphabets, padded or not', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        const buffer = Buffer.from(bytes)
        const standard = buffer.toString('base64')
        const urlSafe = buffer.toString('base64url')
        for (const text of [
          standard,
          standard.replaceAll('=', ''),
          urlSafe,
          encodeBase64UrlPadded([buffer], 0),
        ]) {
          expect(decodeBase64(text)).toEqual(buffer)
        }
      }),
      runs,
    )
  })

  it('refuses valid base64 into which one foreign character was put, wherever it stands', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 1, maxLength: 60 }),
        fc.constantFrom(...foreign.filter((character) => character !== '=')),
        fc.nat(),
        fc.boolean(),
        (bytes, character, position, replace) => {
          const text = encodeBase64UrlPadded([Buffer.from(bytes)], 0)
          const at = position % text.length
          expect(decodeBase64(text.slice(0, at) + character + text.slice(at + (replace ? 1 : 0)))).toBeNull()
        },
      ),
      runs,
    )
  })

  it.each([
    ['U+0141, whose low byte is "A"', '\u0141BCD'],
    ['U+0141 four times', '\u0141'.repeat(4)],
    ['U+0141 before padding', 'Q\u0141=='],
    ['a letter beyond the BMP', '\u{1d400}AA'],
    ['a lone surrogate whose low byte is "A"', '\ud841BCD'],
  ])('refuses %s', (_, text) => {
    expect(decodeBase64(text)).toBeNull()
  })

  it.each([
    ['', []],
    ['QQ', [65]],
    ['QQ==', [65]],
    ['QUI', [65, 66]],
    ['QUI=', [65, 66]],
    ['QUJD', [65, 66, 67]],
    ['+/-_', [251, 255, 191]],
  ])('reads %j', (text, bytes) => {
    expect(decoded(text)).toEqual(bytes)
  })

  it.each([
    'Q',
    'QUJDQ',
    'QQ=',
    'QUI==',
    'QUJD=',
    'QUJD==',
    'QUJD====',
    'Q===',
    '=',
    '==',
    '====',
    'QQ==QQ==',
    '=QQ=',
  ])('refuses %j, whose padding is missing in part, too much or in the middle', (text) => {
    expect(decodeBase64(text)).toBeNull()
  })
})

describe('encodeBase64Url', () => {
  it.each([0, 4080, 8000])('encodes pieces as if they were one, with a long one from %i bytes', (least) => {
    const lengths = fc.array(fc.nat(40), { maxLength: 4 })
    fc.assert(
      fc.property(lengths, fc.nat(40), lengths, (before, more, after) => {
        const pieces = [...before, least + more, ...after].map((length) => randomBytes(length))
        const all = Buffer.concat(pieces)
        expect(encodeBase64Url(pieces, before.length)).toBe(all.toString('base64url'))
        const padded = encodeBase64UrlPadded(pieces, before.length)
        expect(padded.length % 4).toBe(0)
        expect(decodeBase64(padded)?.equals(all)).toBe(true)
      }),
      runs,
    )
  })
})

describe('encodeBase64UrlPadded', () => {
  it.each([
    [[], ''],
    [[255], '_w=='],
    [[255, 255], '__8='],
    [[251, 239, 190], '----'],
  ])('%j is %j', (bytes, text) => {
    expect(encodeBase64UrlPadded([Buffer.from(bytes)], 0)).toBe(text)
  })
})

describe('decodeUtf8', () => {
  it('keeps a byte order mark, at the start and elsewhere', () => {
    expect(decodeUtf8(Buffer.from([0xef, 0xbb, 0xbf, 0x61]))).toBe('\ufeffa')
    expect(decodeUtf8(Buffer.from('a\ufeff\ufeff'))).toBe('a\ufeff\ufeff')
  })

  it.each([
    ['a lone continuation byte', [0x80]],
    ['a cut sequence', [0xe2, 0x82]],
    ['an overlong slash', [0xc0, 0xaf]],
    ['an encoded surrogate', [0xed, 0xa0, 0x80]],
    ['beyond U+10FFFF', [0xf4, 0x90, 0x80, 0x80]],
    ['a bad byte after good ones', [0x61, 0xff]],
  ])('returns null for %s', (_, bytes) => {
    expect(decodeUtf8(Buffer.from(bytes))).toBeNull()
  })

  it('agrees with a fatal TextDecoder on any bytes, and returns every well-formed string', () => {
    const fatal = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 12 }), (bytes) => {
        let expected: string | null
        try {
          expected = fatal.decode(bytes)
        } catch {
          expected = null
        }
        expect(decodeUtf8(Buffer.from(bytes))).toBe(expected)
      }),
      runs,
    )
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        expect(decodeUtf8(Buffer.from(text))).toBe(text)
      }),
      runs,
    )
  })
})

describe('preAuthEncode', () => {
  /** Decodes by the definition, which is possible only because the encoding is injective. */
  function decodePieces(encoded: Buffer): Buffer[] {
    let at = 0
    const le64 = () => {
      at += 8
      return Number(encoded.readBigUInt64LE(at - 8))
    }
    const pieces = Array.from({ length: le64() }, () => {
      const length = le64()
      at += length
      return encoded.subarray(at - length, at)
    })
    expect(at).toBe(encoded.length)
    return pieces
  }

  // https://github.com/paseto-standard/paseto-spec/blob/master/docs/01-Protocol-Versions/Common.md, "PAE Definition"
  it.each([
    ['no piece', [], '0000000000000000'],
    ['one empty piece', [''], '01000000000000000000000000000000'],
    ['one piece, test', ['test'], '0100000000000000040000000000000074657374'],
  ])("is PASETO's published example: %s", (_, pieces, hex) => {
    expect(preAuthEncode(pieces).toString('hex')).toBe(hex)
  })

  it.each([
    [
      ['ab', 'c'],
      ['a', 'bc'],
    ],
    [['a'], ['a', '']],
    [[''], []],
    [
      ['', 'a'],
      ['a', ''],
    ],
    [['\x01\0\0\0\0\0\0\0a'], ['a']],
  ])('keeps %j and %j apart', (left, right) => {
    expect(preAuthEncode(left).equals(preAuthEncode(right))).toBe(false)
  })

  it('can be decoded again, so that no two lists share an encoding', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 6 }), (pieces) => {
        expect(decodePieces(preAuthEncode(pieces))).toEqual(pieces.map((piece) => Buffer.from(piece)))
      }),
      runs,
    )
  })

  it('takes a string as its UTF-8 bytes', () => {
    expect(preAuthEncode(['ключ🔑'])).toEqual(preAuthEncode([Buffer.from('ключ🔑')]))
  })

  it('extends an encoding as if all pieces had been there at once', () => {
    const pieces = fc.array(fc.oneof(fc.string({ unit: 'grapheme' }), fc.uint8Array()))
    fc.assert(
      fc.property(pieces, pieces, (first, more) => {
        expect(preAuthExtend(preAuthEncode(first), more)).toEqual(preAuthEncode([...first, ...more]))
      }),
    )
  })

  it('gives the associated data of every wrap of v3.json', () => {
    const { wraps, kek_id } = v3Vectors()
    for (const { user, version, aad } of wraps) {
      const pieces = ['drizzle-keystore/wrap/v3', user, String(version), kek_id]
      expect(preAuthEncode(pieces).toString('hex')).toBe(aad)
    }
  })
})
