/** Keys and tokens in the C++ of `@drizzle-keystore/native`, on the OpenSSL that the process has. */
import { assertPlaintext } from '../validate.js'
import { freshNonceBytes, type KeyObject, onReseed } from './aead.js'
import {
  type Core,
  type OpenedText,
  type ParsedToken,
  type Token,
  V2_PREFIX,
  type V2Key,
  V3_PREFIX,
  type V3Key,
} from './core.js'
import { BASE64URL } from './encoding.js'
import { javascriptCore } from './javascript-core.js'
import type { NativeAddon, NativeParts } from './native-addon.js'

/**
 * Above it JavaScript is as fast: what the addon saves is the calls of node:crypto, and Node's base64 has wider instructions. Characters of a text
 * or a token, bytes of a plaintext.
 */
const LONG = 8192

export function nativeCore(addon: NativeAddon): Core {
  const parts = addon.createCore(freshNonceBytes)
  onReseed(() => parts.forgetNonces())
  let tickets = 0
  return {
    name: 'native',
    v3Key: (derive, aad) => new NativeV3Key(parts, derive, aad),
    v2Key: (key) => new NativeV2Key(parts, key),
    parse(value) {
      const isV3 = value.startsWith(V3_PREFIX)
      if (!isV3 && !value.startsWith(V2_PREFIX)) return null
      if (value.length > LONG) return javascriptCore.parse(value)
      tickets += 1
      const version = parts.versionOf(value, tickets)
      return version === 0 ? null : new NativeToken(isV3 ? 'v3' : 'v2', version, value, tickets)
    },
    versionAtStart,
  }
}

function versionAtStart(value: string): number {
  // A long one is JavaScript's, which parses it in any case.
  if (value.length > LONG || !value.startsWith(V3_PREFIX)) return 0
  // Six characters are 36 bits, the last four of which are the nonce's. One that is none of base64url counts as zeros.
  const last = V3_PREFIX.length + 5
  let bits = 0
  for (let at = V3_PREFIX.length; at < last; at += 1)
    bits = (bits << 6) | (BITS_OF_CHARACTERS[value.charCodeAt(at)] as number)
  const version = (bits << 2) | ((BITS_OF_CHARACTERS[value.charCodeAt(last)] as number) >> 4)
  // Bit 31 makes it negative.
  return version > 0 ? version : 0
}

const BITS_OF_CHARACTERS = new Uint8Array(128)
for (const [bits, character] of [...BASE64URL].entries()) BITS_OF_CHARACTERS[character.charCodeAt(0)] = bits

/** It was looked at, and is decoded where it is opened. */
class NativeToken implements ParsedToken {
  readonly format: 'v2' | 'v3'
  readonly version: number
  readonly text: string
  readonly ticket: number

  constructor(format: 'v2' | 'v3', version: number, text: string, ticket: number) {
    this.format = format
    this.version = version
    this.text = text
    this.ticket = ticket
  }

  get sealed(): Buffer {
    return (javascriptCore.parse(this.text) as ParsedToken).sealed
  }
}

class NativeV3Key implements V3Key {
  readonly #key: InstanceType<NativeParts['V3Key']>
  readonly #derive: () => Buffer
  /** Made at the first long token. */
  #long: V3Key | undefined

  readonly #aad: Uint8Array | undefined

  constructor({ V3Key }: NativeParts, derive: () => Buffer, aad: Uint8Array | undefined) {
    this.#derive = derive
    this.#aad = aad
    const key = derive()
    try {
      this.#key = new V3Key(key, aad)
    } finally {
      key.fill(0)
    }
  }

  sealToken(version: number, plaintext: Uint8Array | string, aad?: Uint8Array): Token {
    if (plaintext.length > LONG) return this.#forLong().sealToken(version, plaintext, aad)
    return wellFormed(this.#key.sealToken(version, plaintext, aad), plaintext)
  }

  openToken(token: ParsedToken, aad?: Uint8Array): Buffer | null {
    if (token.text.length > LONG) return this.#forLong().openToken(token, aad)
    return this.#key.openToken(token.text, ticketOf(token), aad)
  }

  openTokenText(token: ParsedToken, aad?: Uint8Array): OpenedText {
    if (token.text.length > LONG) return this.#forLong().openTokenText(token, aad)
    return this.#key.openTokenText(token.text, ticketOf(token), aad)
  }

  openUnparsed(text: string, aad?: Uint8Array): Buffer | null {
    return text.length > LONG
      ? this.#forLong().openUnparsed(text, aad)
      : this.#key.openToken(text, NO_TICKET, aad)
  }

  openUnparsedText(text: string, aad?: Uint8Array): OpenedText {
    return text.length > LONG
      ? this.#forLong().openUnparsedText(text, aad)
      : this.#key.openTokenText(text, NO_TICKET, aad)
  }

  wrap(key: Uint8Array, aad: Uint8Array): Buffer {
    return this.#key.wrap(key, aad)
  }

  unwrap(wrapped: Uint8Array, aad: Uint8Array): Buffer | null {
    return this.#key.unwrap(wrapped, aad)
  }

  #forLong(): V3Key {
    this.#long ??= javascriptCore.v3Key(this.#derive, this.#aad)
    return this.#long
  }
}

class NativeV2Key implements V2Key {
  readonly #key: InstanceType<NativeParts['V2Key']>
  readonly #long: V2Key

  constructor({ V2Key }: NativeParts, key: KeyObject) {
    this.#long = javascriptCore.v2Key(key)
    const bytes = key.export()
    try {
      this.#key = new V2Key(bytes)
    } finally {
      bytes.fill(0)
    }
  }

  sealToken(plaintext: Uint8Array | string): Token {
    if (plaintext.length > LONG) return this.#long.sealToken(plaintext)
    return wellFormed(this.#key.sealToken(plaintext), plaintext)
  }

  openToken(token: ParsedToken): Buffer | null {
    return token.text.length > LONG
      ? this.#long.openToken(token)
      : this.#key.openToken(token.text, ticketOf(token))
  }

  openTokenText(token: ParsedToken): OpenedText {
    return token.text.length > LONG
      ? this.#long.openTokenText(token)
      : this.#key.openTokenText(token.text, ticketOf(token))
  }

  wrap(key: Uint8Array): Buffer {
    return this.#key.wrap(key)
  }

  unwrap(wrapped: Uint8Array): Buffer | null {
    return this.#key.unwrap(wrapped)
  }
}

/** For a token that was not checked before. */
const NO_TICKET = 0

function ticketOf(token: ParsedToken): number {
  return token instanceof NativeToken ? token.ticket : NO_TICKET
}

/** It has no token for a lone surrogate, which JavaScript's core would not see. @throws ERR_INVALID_ARGUMENT */
function wellFormed(token: string | null, plaintext: Uint8Array | string): Token {
  if (token === null) assertPlaintext(plaintext)
  return token as Token
}
