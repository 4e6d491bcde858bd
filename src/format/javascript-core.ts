/** Keys and tokens on node:crypto: what runs everywhere, and the reference that the native core is held against. */
import { MAX_KEY_VERSION } from '../table.js'
import { gcmEncrypt, gcmOpen, gcmSeal, type KeyObject, XaesKey } from './aead.js'
import {
  type Core,
  isV2Wrap,
  isV3Wrap,
  type OpenedText,
  type ParsedToken,
  type Token,
  V2_LEAST_BYTES,
  V2_PREFIX,
  type V2Key,
  V3_LEAST_BYTES,
  V3_PREFIX,
  V3_WRAP_HEADER,
  type V3Key,
  VERSION_BYTES,
} from './core.js'
import {
  decodeBase64,
  decodeBase64UrlStrict,
  decodeUtf8,
  encodeBase64Url,
  encodeBase64UrlPadded,
} from './encoding.js'

export const javascriptCore: Core = {
  name: 'javascript',
  v3Key: (derive, aad) => new JavaScriptV3Key(derive, aad),
  v2Key: (key) => new JavaScriptV2Key(key),
  parse(value) {
    if (value.startsWith(V2_PREFIX)) {
      const sealed = decodeBase64(value.slice(V2_PREFIX.length))
      const isWhole = sealed !== null && sealed.length >= V2_LEAST_BYTES
      return isWhole ? { format: 'v2', version: 1, text: value, sealed } : null
    }
    if (!value.startsWith(V3_PREFIX)) return null
    const bytes = decodeBase64UrlStrict(value.slice(V3_PREFIX.length))
    if (bytes === null || bytes.length < V3_LEAST_BYTES) return null
    const version = bytes.readUInt32BE(0)
    if (version < 1 || version > MAX_KEY_VERSION) return null
    return { format: 'v3', version, text: value, sealed: bytes.subarray(VERSION_BYTES) }
  },
  // To parse a token is to decode it, which is half of what opening it takes.
  versionAtStart: () => 0,
}

const NO_AAD = new Uint8Array()
const WRAP_HEADER = Uint8Array.of(V3_WRAP_HEADER)

class JavaScriptV3Key implements V3Key {
  readonly #key: XaesKey
  readonly #aad: Uint8Array

  constructor(derive: () => Buffer, aad: Uint8Array = NO_AAD) {
    this.#aad = aad
    const key = derive()
    try {
      this.#key = new XaesKey(key)
    } finally {
      key.fill(0)
    }
  }

  sealToken(version: number, plaintext: Uint8Array | string, aad = this.#aad): Token {
    const header = Buffer.allocUnsafe(VERSION_BYTES)
    header.writeUInt32BE(version, 0)
    return (V3_PREFIX + encodeBase64Url([header, ...this.#key.encrypt(plaintext, aad)], 2)) as Token
  }

  openToken({ sealed }: ParsedToken, aad = this.#aad): Buffer | null {
    return this.#key.open(sealed, aad)
  }

  openTokenText({ sealed }: ParsedToken, aad = this.#aad): OpenedText {
    return textOf(this.#key.open(sealed, aad))
  }

  openUnparsed(text: string, aad = this.#aad): Buffer | null {
    const token = javascriptCore.parse(text)
    return token === null ? null : this.openToken(token, aad)
  }

  openUnparsedText(text: string, aad = this.#aad): OpenedText {
    return textOf(this.openUnparsed(text, aad))
  }

  wrap(key: Uint8Array, aad: Uint8Array): Buffer {
    return Buffer.concat([WRAP_HEADER, ...this.#key.encrypt(key, aad)])
  }

  unwrap(wrapped: Uint8Array, aad: Uint8Array): Buffer | null {
    return isV3Wrap(wrapped) ? this.#key.open(wrapped.subarray(1), aad) : null
  }
}

class JavaScriptV2Key implements V2Key {
  readonly #key: KeyObject

  constructor(key: KeyObject) {
    this.#key = key
  }

  sealToken(plaintext: Uint8Array | string): Token {
    return (V2_PREFIX + encodeBase64UrlPadded(gcmEncrypt(this.#key, plaintext), 1)) as Token
  }

  openToken({ sealed }: ParsedToken): Buffer | null {
    return gcmOpen(this.#key, sealed)
  }

  openTokenText({ sealed }: ParsedToken): OpenedText {
    return textOf(gcmOpen(this.#key, sealed))
  }

  wrap(key: Uint8Array): Buffer {
    return gcmSeal(this.#key, key)
  }

  unwrap(wrapped: Uint8Array): Buffer | null {
    return isV2Wrap(wrapped) ? gcmOpen(this.#key, wrapped) : null
  }
}

function textOf(plaintext: Buffer | null): OpenedText {
  return plaintext && (decodeUtf8(plaintext) ?? undefined)
}
