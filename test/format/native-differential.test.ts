/** Both cores with the same input: the same bytes, the same refusals. JavaScript is the reference. */
import { createCipheriv, randomBytes } from 'node:crypto'
import { expect, it } from 'vitest'
import { importKey, XaesKey } from '../../src/format/aead.js'
import type { Core, ParsedToken, V2Key, V3Key } from '../../src/format/core.js'
import { javascriptCore } from '../../src/format/javascript-core.js'
import type { NativeAddon } from '../../src/format/native-addon.js'
import { nativeCore } from '../../src/format/native-core.js'
import { builtAddon, describeNative, nativeWithNonces } from '../support/native.js'
import { RandomTokens } from '../support/random-tokens.js'
import { slow } from '../support/slow.js'

/** Tokens in the random comparison; each is also opened after six changes. */
const TOKENS = slow ? 150_000 : 2000

const built = <T>(make: (addon: NativeAddon) => T): T =>
  builtAddon === null ? (undefined as never) : make(builtAddon)

/** What a core makes of a token: malformed, refused, or its version and plaintext both ways. */
function outcome(core: Core, keys: { v2: V2Key; v3: V3Key }, token: string, aad: Uint8Array) {
  const parsed = core.parse(token)
  if (parsed === null) return 'malformed'
  const isV2 = parsed.format === 'v2'
  const bytes = isV2 ? keys.v2.openToken(parsed) : keys.v3.openToken(parsed, aad)
  const text = isV2 ? keys.v2.openTokenText(parsed) : keys.v3.openTokenText(parsed, aad)
  return {
    format: parsed.format,
    version: parsed.version,
    sealed: parsed.sealed.toString('hex'),
    bytes: bytes === null ? 'refused' : bytes.toString('hex'),
    text: text === null ? 'refused' : text === undefined ? 'no text' : text,
  }
}

/** The same without that the token is parsed. */
function unparsed(key: V3Key, token: string, aad: Uint8Array) {
  const text = key.openUnparsedText(token, aad)
  return {
    bytes: key.openUnparsed(token, aad)?.toString('hex') ?? 'refused',
    text: text === null ? 'refused' : text === undefined ? 'no text' : text,
  }
}

describeNative('the native core and JavaScript', () => {
  const native = built(nativeCore)
  const parts = built(nativeWithNonces)

  function keysOf(bytes: Buffer) {
    const of = (core: Core) => ({
      v2: core.v2Key(importKey(bytes)),
      v3: core.v3Key(() => Buffer.from(bytes)),
    })
    return { native: of(native), javascript: of(javascriptCore) }
  }

  /** Compares what both make of a token. @returns what it is */
  function compare(keys: ReturnType<typeof keysOf>, token: string, aad: Uint8Array, what: string) {
    const wanted = outcome(javascriptCore, keys.javascript, token, aad)
    const message = `${what}: ${JSON.stringify(token)}`
    expect(outcome(native, keys.native, token, aad), message).toEqual(wanted)
    const isV3 = wanted !== 'malformed' && wanted.format === 'v3'
    for (const { v3 } of [keys.native, keys.javascript])
      expect(unparsed(v3, token, aad), message).toEqual(
        isV3 ? { bytes: wanted.bytes, text: wanted.text } : { bytes: 'refused', text: 'refused' },
      )
    const version = native.versionAtStart(token)
    if (isV3 && token.length <= 8192) expect(version, message).toBe(wanted.version)
    else if (wanted !== 'malformed') expect(version, message).toBe(0)
    else expect(version >= 0 && version < 2 ** 31, message).toBe(true)
    return wanted
  }

  /** The token of a nonce, as JavaScript makes it. */
  function sealedAgain(key: Buffer, nonce: Buffer, version: number, plaintext: string | Buffer, aad: Buffer) {
    const header = Buffer.alloc(4)
    header.writeUInt32BE(version)
    const v3 = Buffer.concat([header, new XaesKey(key).sealWithNonce(nonce, plaintext, aad)])
    const cipher = createCipheriv('aes-256-gcm', key, nonce.subarray(0, 12))
    const ciphertext = Buffer.concat([cipher.update(Buffer.from(plaintext)), cipher.final()])
    const v2 = Buffer.concat([nonce.subarray(0, 12), ciphertext, cipher.getAuthTag()]).toString('base64url')
    return { v3: `v3:${v3.toString('base64url')}`, v2: `v2:${v2}${'='.repeat(-v2.length & 3)}` }
  }

  it(
    'make the same tokens of random plaintexts, and the same of changed tokens',
    () => {
      const seed = randomBytes(4).readUInt32LE()
      const random = new RandomTokens(seed)
      const seen = { malformed: 0, refused: 0, opened: 0, illFormed: 0 }
      for (let count = 0; count < TOKENS; count++) {
        const what = `seed ${seed}, token ${count}`
        const [key, nonce, aad] = [random.bytes(32), random.bytes(24), random.bytes(random.below(90))]
        const version = 1 + random.below(random.pick([3, 2 ** 31 - 1]))
        const plaintext = random.below(2) === 0 ? random.text() : random.plaintextBytes()
        const [v3, v2] = [new parts.V3Key(key), new parts.V2Key(key)]
        parts.nextNonce(nonce)
        const made = { v3: v3.sealToken(version, plaintext, aad), v2: '' as string | null }
        parts.nextNonce(nonce)
        made.v2 = v2.sealToken(plaintext)
        if (typeof plaintext === 'string' && !plaintext.isWellFormed()) {
          expect(made, what).toEqual({ v3: null, v2: null })
          seen.illFormed++
          continue
        }
        const wanted = sealedAgain(key, nonce, version, plaintext, aad)
        expect(made, what).toEqual(wanted)
        const keys = keysOf(key)
        for (const token of [wanted.v3, wanted.v2]) {
          const whole = compare(keys, token, aad, what)
          expect(whole, what).toMatchObject({ bytes: Buffer.from(plaintext).toString('hex') })
          for (let change = 0; change < 3; change++) {
            const found = compare(keys, random.changed(token), aad, what)
            if (found === 'malformed') seen.malformed++
            else if (found.bytes === 'refused') seen.refused++
            else seen.opened++
          }
        }
      }
      // The changes reach every answer. Some leave a token as it was: a v2 token without its padding, say.
      for (const [answer, times] of Object.entries(seen)) expect(times, answer).toBeGreaterThan(TOKENS / 100)
    },
    slow ? 3_600_000 : 60_000,
  )

  const aad = Buffer.from('of a user')
  const key = Buffer.alloc(32, 0x5a)
  const samples = ['', 'x', 'sk-proj-0123456789', 'Schlüssel 🔑'].flatMap((text) => {
    const { v3, v2 } = sealedAgain(key, Buffer.alloc(24, 7), 1, text, aad)
    return [v3, v2]
  })

  it.each(samples)('cut at every length: %s', (token) => {
    const keys = keysOf(key)
    for (let length = 0; length < token.length; length++)
      compare(keys, token.slice(0, length), aad, `${length}`)
  })

  it.each(samples)('with every bit flipped: %s', (token) => {
    const keys = keysOf(key)
    const bytes = Buffer.from(token.slice(3), 'base64url')
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const changed = Buffer.from(bytes)
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      const found = compare(keys, token.slice(0, 3) + changed.toString('base64url'), aad, `bit ${bit}`)
      // What binds a version is the AAD, which is the same here.
      const isOfVersion = token.startsWith('v3') && bit < 32
      if (!isOfVersion) expect(found).toMatchObject({ bytes: 'refused' })
    }
  })

  it.each(samples)('with every last character, and each that could follow: %s', (token) => {
    const keys = keysOf(key)
    const end = token.replace(/=+$/, '').length
    for (let code = 0; code < 0x180; code++) {
      const character = String.fromCharCode(code)
      compare(keys, token.slice(0, end - 1) + character + token.slice(end), aad, `last ${code}`)
      compare(keys, token + character, aad, `one more ${code}`)
    }
  })

  it('long texts and tokens, around the length from which JavaScript works on both', () => {
    const keys = keysOf(key)
    for (const length of [
      700,
      1023,
      1024,
      1450,
      2047,
      2048,
      2049,
      8100,
      8191,
      8192,
      8193,
      8200,
      100_000,
      2 ** 20,
    ]) {
      for (const unit of ['x', 'ü', 'Ł', '🔑']) {
        const text = unit.repeat(length / unit.length)
        for (const [from, to] of [
          [keys.native, keys.javascript],
          [keys.javascript, keys.native],
        ] as const) {
          const [v3, v2] = [from.v3.sealToken(1, text, aad), from.v2.sealToken(text)]
          for (const core of [native, javascriptCore]) {
            const [parsedV3, parsedV2] = [core.parse(v3) as ParsedToken, core.parse(v2) as ParsedToken]
            const texts = [to.v3.openTokenText(parsedV3, aad), to.v2.openTokenText(parsedV2)]
            texts.push(to.v3.openUnparsedText(v3, aad))
            expect(
              texts.map((opened) => opened === text),
              `${length} of ${unit}`,
            ).toEqual([true, true, true])
            expect(core.parse(`${v3.slice(0, -1)}*`)).toBeNull()
          }
        }
      }
    }
  })

  it(
    'the addon alone, with long texts: the token of any length is that of JavaScript',
    () => {
      const sizes = [100_000, 2 ** 20 + 1, ...(slow ? [64 * 2 ** 20] : [])]
      const [v3, v2] = [new parts.V3Key(key), new parts.V2Key(key)]
      const nonce = Buffer.alloc(24, 9)
      for (const size of sizes) {
        // One of UTF-8 that takes two bytes a character, so that the text is 64 MiB of UTF-8.
        for (const text of ['x'.repeat(size), 'ü'.repeat(size / 2)]) {
          parts.nextNonce(nonce)
          const [madeV3, wanted] = [v3.sealToken(1, text, aad), sealedAgain(key, nonce, 1, text, aad)]
          parts.nextNonce(nonce)
          expect(madeV3 === wanted.v3 && v2.sealToken(text) === wanted.v2, `${size}`).toBe(true)
          expect(v3.openTokenText(wanted.v3, 0, aad) === text, `${size}`).toBe(true)
          expect(v2.openTokenText(wanted.v2, 0) === text, `${size}`).toBe(true)
          expect(v3.openToken(wanted.v3.replace(/.$/, '*'), 0, aad)).toBeNull()
        }
      }
    },
    slow ? 600_000 : 60_000,
  )

  it('wraps of either are opened by the other, and any change is refused', () => {
    const [a, b] = [keysOf(key).native, keysOf(key).javascript]
    const dataKey = randomBytes(32)
    for (const [from, to] of [
      [a, b],
      [b, a],
    ] as const) {
      const [v3, v2] = [from.v3.wrap(dataKey, aad), from.v2.wrap(dataKey)]
      expect([v3.length, v2.length]).toEqual([105, 60])
      expect(to.v3.unwrap(v3, aad)).toEqual(dataKey)
      expect(to.v2.unwrap(v2)).toEqual(dataKey)
      expect(to.v3.unwrap(v3, Buffer.from('of another'))).toBeNull()
      for (const [wrapped, unwrap] of [
        [v3, (bytes: Buffer) => to.v3.unwrap(bytes, aad)],
        [v2, (bytes: Buffer) => to.v2.unwrap(bytes)],
      ] as const) {
        for (let bit = 0; bit < wrapped.length * 8; bit++) {
          const changed = Buffer.from(wrapped)
          changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7))
          expect(unwrap(changed)).toBeNull()
        }
        for (let length = 0; length < wrapped.length; length++)
          expect(unwrap(wrapped.subarray(0, length))).toBeNull()
        expect(unwrap(Buffer.concat([wrapped, Buffer.of(0)]))).toBeNull()
      }
    }
  })

  it('opens the token that it is given, whichever was checked last, and any number of times', () => {
    const { v3, v2 } = keysOf(key).native
    const texts = ['one', 'another', 'a third']
    const parsed = texts.flatMap((text) =>
      [v3.sealToken(1, text, aad), v2.sealToken(text)].map((token) => native.parse(token) as ParsedToken),
    )
    const opened = (token: ParsedToken) =>
      token.format === 'v2' ? v2.openTokenText(token) : v3.openTokenText(token, aad)
    const wanted = texts.flatMap((text) => [text, text])
    expect(parsed.map(opened)).toEqual(wanted)
    expect(parsed.toReversed().map(opened)).toEqual(wanted.toReversed())
    for (const [index, { text }] of parsed.entries()) {
      const again = native.parse(text) as ParsedToken
      expect([opened(again), opened(again)]).toEqual([wanted[index], wanted[index]])
      // A text that is malformed leaves nothing of the token before it.
      expect(native.parse('v3:malformed')).toBeNull()
      expect(opened(again)).toBe(wanted[index])
    }
  })

  it('refuses a lone surrogate as the service does, though it passed no check before', () => {
    const { v3, v2 } = keysOf(key).native
    const refused = expect.objectContaining({
      code: 'ERR_INVALID_ARGUMENT',
      message: expect.stringContaining('lone surrogate'),
    })
    expect(() => v3.sealToken(1, 'a\ud800', aad)).toThrow(refused)
    expect(() => v2.sealToken('\udc00a')).toThrow(refused)
  })
})
