/** One version of one user's data key, open, and everything that it encrypts and decrypts. Synchronous. */

import type { EmitEvent } from '../events.js'
import { importKey, type KeyObject } from '../format/aead.js'
import { currentCore } from '../format/chosen-core.js'
import { columnIn } from '../format/context.js'
import type { OpenedText, V2Key, V3Key } from '../format/core.js'
import { preAuthExtend } from '../format/encoding.js'
import { type FingerprintKind, fingerprintOf } from '../format/fingerprint.js'
import type { Format } from '../format/formats.js'
import {
  authentic,
  authenticText,
  decryptionFailed,
  deriveTokenKey,
  type ParsedToken,
  type Token,
  tokenAad,
} from '../format/token.js'
import { TenantKey } from '../master-keys/tenant-keys.js'
import { type KeyRecord, tenantIdOf } from '../table.js'

/** Which row, and which data key it holds. */
export type KeyRow = Omit<KeyRecord, 'shreddedAt'>

/** The right to use what a row holds, and what is wrapped under it. */
export interface Right {
  readonly userId: string
  /** Whether it was erased, or revoked, as far as this process knows. */
  readonly ended: boolean
  /** With `ended`: the row is still there, and has to be opened again by who may. */
  readonly revoked: boolean
  /** Whether it is gone from the store, though nobody is known to have erased it. */
  readonly keysLost: boolean
}

export class DataKey implements KeyRow {
  readonly userId: string
  readonly version: number
  /** The wrapped key in the row that this key was opened from. With {@link createdAt} it tells whether a row still holds this key. */
  readonly encryptedKey: Uint8Array
  readonly kekId: string | null
  /** When that row was made. */
  readonly createdAt: Date
  readonly wrappedAt: Date | null
  /** Of the tenant's key that wraps this one; null if a master key does. */
  readonly tenant: Right | null
  /** If this is a tenant's key: the right to use it. */
  right: Right | null = null
  readonly #key: KeyObject
  #tenantKey: TenantKey | null = null
  /** Made at the first v3 token; holds the AES cipher that all of them need. */
  #tokenKey: V3Key | null = null
  /** Made at the first v2 token. */
  #v2TokenKey: V2Key | null = null
  /** What all v3 tokens are bound to, made once; their contexts are added. */
  #aadWithoutContext: Buffer | null = null

  /** @param bytes the 32 bytes of the key; they are wiped */
  constructor(row: KeyRow, bytes: Uint8Array, tenant: Right | null = null) {
    const { userId, version, encryptedKey, kekId, createdAt, wrappedAt } = row
    this.userId = userId
    this.version = version
    this.encryptedKey = encryptedKey
    this.kekId = kekId
    this.createdAt = createdAt
    this.wrappedAt = wrappedAt
    this.tenant = tenant
    this.#key = importKey(bytes)
    bytes.fill(0)
  }

  /** @param context from `contextPieces`; format v2 does not bind it */
  seal(format: Format, plaintext: Uint8Array | string, context: readonly string[]): Token {
    if (format === 'v2') return this.#v2().sealToken(plaintext)
    return this.#v3().sealToken(this.version, plaintext, this.#aadWith(context))
  }

  /** @throws ERR_DECRYPTION_FAILED: changed, or of another key, user, version or context */
  open(token: ParsedToken, context: readonly string[]): Buffer {
    if (token.version !== this.version) throw decryptionFailed()
    const isV2 = token.format === 'v2'
    return authentic(isV2 ? this.#v2().openToken(token) : this.#v3().openToken(token, this.#aadWith(context)))
  }

  /** {@link open} as a text; undefined if the bytes are not UTF-8. */
  openText(token: ParsedToken, context: readonly string[]): string | undefined {
    if (token.version !== this.version) throw decryptionFailed()
    const isV2 = token.format === 'v2'
    return authentic<OpenedText>(
      isV2 ? this.#v2().openTokenText(token) : this.#v3().openTokenText(token, this.#aadWith(context)),
    )
  }

  /** {@link open} of a v3 token that was not parsed. @returns null where {@link open} throws, and for a malformed one */
  openUnparsed(token: string, context: readonly string[]): Buffer | null {
    return this.#v3().openUnparsed(token, this.#aadWith(context))
  }

  openUnparsedText(token: string, context: readonly string[]): OpenedText {
    return this.#v3().openUnparsedText(token, this.#aadWith(context))
  }

  /** Another version gives another fingerprint of the same value. */
  fingerprint(kind: FingerprintKind, value: string): string {
    return fingerprintOf(this.#key, this, kind, value)
  }

  /** This key, which is a tenant's own, as the one that wraps the keys of the tenant's users. */
  get tenantKey(): TenantKey {
    const tenantId = tenantIdOf(this.userId)
    if (tenantId === null) throw new TypeError('only the key of a tenant wraps keys')
    this.#tenantKey ??= new TenantKey({ tenantId, version: this.version }, this.#key)
    return this.#tenantKey
  }

  /** The raw 32 bytes, the caller's to wipe. */
  export(): Uint8Array {
    return this.#key.export()
  }

  #v2(): V2Key {
    this.#v2TokenKey ??= currentCore().v2Key(this.#key)
    return this.#v2TokenKey
  }

  #v3(): V3Key {
    this.#tokenKey ??= deriveTokenKey(this.#key, this, this.#aad())
    return this.#tokenKey
  }

  #aad(): Buffer {
    this.#aadWithoutContext ??= tokenAad(this)
    return this.#aadWithoutContext
  }

  /** Undefined without a context: the key has that of its own. */
  #aadWith(context: readonly string[]): Buffer | undefined {
    return context.length === 0 ? undefined : aadFor(this.#aad(), context)
  }
}

/** The last AAD with a context: lists of values are often of one key and one context. It holds nothing secret, and no key. */
let lastMade: { readonly base: Buffer; readonly context: readonly string[]; readonly aad: Buffer } | null =
  null

/** @param base without a context; of one key */
function aadFor(base: Buffer, context: readonly string[]): Buffer {
  if (lastMade === null || lastMade.base !== base || !isSame(lastMade.context, context))
    lastMade = { base, context, aad: preAuthExtend(base, context) }
  return lastMade.aad
}

function isSame(a: readonly string[], b: readonly string[]): boolean {
  return a === b || (a.length === b.length && a.every((piece, at) => piece === b[at]))
}

/** Tokens as bytes, or as texts. */
export interface OpenAs<Plaintext> {
  /** @throws ERR_DECRYPTION_FAILED, with an event */
  parsed(key: DataKey, token: ParsedToken, context: readonly string[], emit: EmitEvent): Plaintext
  /** @returns null, and says nothing: {@link parsed} tells why */
  unparsed(key: DataKey, token: string, context: readonly string[]): Plaintext | null
}

export const AS_BYTES: OpenAs<Buffer> = {
  parsed: openToken,
  unparsed: (key, token, context) => key.openUnparsed(token, context),
}

export const AS_TEXT: OpenAs<string> = {
  parsed: openTokenText,
  unparsed: (key, token, context) => key.openUnparsedText(token, context) ?? null,
}

/** {@link DataKey.open}, and an event when the token does not open. */
export function openToken(
  key: DataKey,
  token: ParsedToken,
  context: readonly string[],
  emit: EmitEvent,
): Buffer {
  try {
    return key.open(token, context)
  } catch (error) {
    emitFailure(key, token, context, emit)
    throw error
  }
}

/** {@link openToken} as a text. @throws also ERR_DECRYPTION_FAILED, without an event, if the bytes are not UTF-8 */
export function openTokenText(
  key: DataKey,
  token: ParsedToken,
  context: readonly string[],
  emit: EmitEvent,
): string {
  let text: string | undefined
  try {
    text = key.openText(token, context)
  } catch (error) {
    emitFailure(key, token, context, emit)
    throw error
  }
  return authenticText(text)
}

function emitFailure(key: DataKey, token: ParsedToken, context: readonly string[], emit: EmitEvent): void {
  const { userId } = key
  const { version, format } = token
  emit({ type: 'decryptFailed', userId, version, format, ...columnIn(context) })
}
