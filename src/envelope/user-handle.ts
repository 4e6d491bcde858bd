/** One user's keys in hand: the same calls as EnvelopeCrypto's, synchronous. */

import { describeUser, isKeystoreError, KeystoreError, keyShredded } from '../errors.js'
import type { EmitEvent } from '../events.js'
import { contextPieces, type EncryptionContext } from '../format/context.js'
import {
  assertFingerprintArguments,
  type FingerprintKind,
  type FingerprintOptions,
} from '../format/fingerprint.js'
import { decryptionFailed, type ParsedToken, type Token, textOf } from '../format/token.js'
import type { UserKeys } from '../keys/cache.js'
import { AS_BYTES, AS_TEXT, type DataKey, type OpenAs, openToken } from '../keys/data-key.js'
import { type EncryptOptions, refuseToken, type TokenPolicy } from './token-policy.js'
import type { OnUnreadable } from './unreadable.js'

/** The options of {@link EnvelopeCrypto.user}. */
export interface UserOptions {
  /** Mint the key if there is none. Default true. */
  readonly mint?: boolean
}

/** The options of {@link EnvelopeCrypto.scope}. */
export interface ScopeOptions extends UserOptions {
  /** What to do with a stored value of an encrypted column that cannot be read. Default `'throw'`. */
  readonly onUnreadable?: OnUnreadable | undefined
}

type OpenV2 = (token: ParsedToken, context: readonly string[]) => Buffer

/** What a token held, and which of the contexts tried is its own. */
interface OpenedToken {
  readonly plaintext: Uint8Array
  readonly context: number
}

/** So many rotations may have happened since a handle was made. */
const MAX_AHEAD = 100

/**
 * A snapshot of a user's live keys, for code that cannot wait: SQLite transactions, column types. Get one with
 * `envelope.user(userId)`. Versions that are made later are missing from it. After a shred it throws.
 *
 * @example
 * const alice = await envelope.user('alice')
 * db.transaction((tx) => {
 *   tx.insert(credentials).values({ apiKey: alice.encrypt('sk-…') }).run()
 * })
 */
export class UserHandle {
  /** Whose keys it has. Empty: the pool's. */
  readonly userId: string
  readonly #keys: UserKeys
  readonly #policy: TokenPolicy
  readonly #emit: EmitEvent
  readonly #assertOpen: () => void
  readonly #openV2: OpenV2 | undefined

  /** @param openV2 opens what is not under a data key: the pool's tokens of format v2 @internal */
  constructor(
    userId: string,
    keys: UserKeys,
    policy: TokenPolicy,
    emit: EmitEvent,
    assertOpen: () => void,
    openV2?: OpenV2,
  ) {
    this.#openV2 = openV2
    this.userId = userId
    this.#keys = keys
    this.#policy = policy
    this.#emit = emit
    this.#assertOpen = assertOpen
  }

  /** @throws ERR_INVALID_ARGUMENT · ERR_KEY_SHREDDED · ERR_CLOSED */
  encrypt(plaintext: string, context?: EncryptionContext, options: EncryptOptions = {}): Token {
    this.assertUsable()
    this.#policy.assertPlaintext(plaintext)
    refuseToken(plaintext, options)
    return this.#keys.active.seal(this.#policy.format, plaintext, contextPieces(context))
  }

  /** {@link encrypt} for bytes. */
  encryptBytes(plaintext: Uint8Array, context?: EncryptionContext): Token {
    this.assertUsable()
    this.#policy.assertPlaintextBytes(plaintext)
    return this.#keys.active.seal(this.#policy.format, plaintext, contextPieces(context))
  }

  /**
   * @throws ERR_INVALID_ARGUMENT · ERR_NOT_ENCRYPTED · ERR_MALFORMED_TOKEN · ERR_FORMAT_NOT_ACCEPTED · ERR_DECRYPTION_FAILED ·
   *   ERR_KEY_NOT_FOUND (`retryable`: a version newer than this snapshot; get a new handle. Else one that was pruned) ·
   *   ERR_UNWRAP_FAILED · ERR_KEY_SHREDDED · ERR_CLOSED
   */
  decrypt(token: string, context?: EncryptionContext): string {
    if (this.#policy.passesThrough(token)) {
      this.assertUsable()
      contextPieces(context)
      return token
    }
    return this.#open(token, context, AS_TEXT, textOf)
  }

  /** {@link decrypt} for bytes: opens tokens whose plaintext is not UTF-8, too. */
  decryptBytes(token: string, context?: EncryptionContext): Uint8Array {
    if (this.#policy.passesThrough(token)) {
      this.assertUsable()
      contextPieces(context)
      return Buffer.from(token)
    }
    return this.#open(token, context, AS_BYTES, (plaintext) => plaintext)
  }

  /** The version of the key that `encrypt` uses. */
  get version(): number {
    return this.#keys.active.version
  }

  /** Tells the key that `encrypt` uses from every other of this user, also from one that was made after they were forgotten. @internal */
  get activeKeyName(): string {
    const { version, createdAt } = this.#keys.active
    return `${version}@${createdAt.getTime()}`
  }

  /**
   * {@link decryptBytes} under the first of some contexts that opens it. One event, if none does.
   *
   * @param token as text, or taken apart
   * @internal
   */
  decryptUnderAny(token: string | ParsedToken, contexts: readonly EncryptionContext[]): OpenedToken {
    this.assertUsable()
    const parsed = typeof token === 'string' ? this.#policy.parse(token) : token
    this.#policy.assertAccepted(parsed)
    const key = this.#version(parsed.version)
    for (const [index, context] of contexts.entries()) {
      const pieces = contextPieces(context)
      try {
        const isLast = index === contexts.length - 1
        const plaintext = isLast ? openToken(key, parsed, pieces, this.#emit) : key.open(parsed, pieces)
        return { plaintext, context: index }
      } catch (error) {
        if (!isKeystoreError(error) || error.code !== 'ERR_DECRYPTION_FAILED') throw error
      }
    }
    throw decryptionFailed()
  }

  /** `envelope.fingerprint`. @throws ERR_INVALID_ARGUMENT · ERR_UNWRAP_FAILED · ERR_KEY_SHREDDED · ERR_CLOSED … */
  fingerprint(value: string, options: FingerprintOptions): string {
    return this.fingerprintUnder('lowest', value, assertFingerprintArguments(value, options))
  }

  /** `envelope.fingerprints`. @throws like {@link fingerprint} */
  fingerprints(value: string, options: FingerprintOptions): string[] {
    return this.fingerprintsOf(value, assertFingerprintArguments(value, options))
  }

  /** The live versions, ascending. @internal */
  get versions(): number[] {
    return [...this.#keys.versions.keys()].sort((a, b) => a - b)
  }

  /** @internal */
  fingerprintUnder(version: 'lowest' | 'newest' | number, value: string, kind: FingerprintKind): string {
    this.assertUsable()
    const named = version === 'lowest' ? (this.versions[0] as number) : this.version
    return this.#version(typeof version === 'number' ? version : named).fingerprint(kind, value)
  }

  /** Under all live versions, ascending. If one of them does not open, it throws: a look-up would miss what is under it. @internal */
  fingerprintsOf(value: string, kind: FingerprintKind): string[] {
    this.assertUsable()
    return this.versions.map((version) => this.#version(version).fingerprint(kind, value))
  }

  #open<Plaintext>(
    token: string,
    context: EncryptionContext | undefined,
    openAs: OpenAs<Plaintext>,
    ofPool: (plaintext: Buffer) => Plaintext,
  ): Plaintext {
    this.assertUsable()
    const pieces = contextPieces(context)
    const key = this.#keys.versions.get(this.#policy.versionAtStart(token))
    if (key !== undefined && !(key instanceof Error)) {
      const plaintext = openAs.unparsed(key, token, pieces)
      if (plaintext !== null) return plaintext
    }
    const parsed = this.#policy.parse(token)
    if (parsed.format === 'v2' && this.#openV2 !== undefined) return ofPool(this.#openV2(parsed, pieces))
    return openAs.parsed(this.#version(parsed.version), parsed, pieces, this.#emit)
  }

  /** @throws ERR_CLOSED · ERR_KEY_SHREDDED · ERR_KEY_NOT_FOUND (moved, evicted or lost) @internal */
  assertUsable(): void {
    this.#assertOpen()
    for (const right of this.#keys.rights) {
      if (right.ended) throw right.revoked ? this.#revoked() : keyShredded(right.userId)
      if (right.keysLost)
        throw new KeystoreError('ERR_KEY_NOT_FOUND', `The keys of ${describeUser(right.userId)} were lost`)
    }
  }

  /** Whether {@link assertUsable} throws nothing. @internal */
  get isUsable(): boolean {
    try {
      this.assertUsable()
      return true
    } catch {
      return false
    }
  }

  #revoked(): KeystoreError {
    const message = `This handle of ${describeUser(this.userId)} has ended: the user or the tenant was moved, or the tenant evicted. Get a new one`
    return new KeystoreError('ERR_KEY_NOT_FOUND', message, { retryable: true })
  }

  #version(version: number): DataKey {
    const key = this.#keys.versions.get(version)
    if (key instanceof Error) throw key
    if (key !== undefined) return key
    const whose = describeUser(this.userId)
    // No version is ever made below the newest. One far above it is none that another process has just made: the token was damaged.
    const isNewer = version > this.version && version <= this.version + MAX_AHEAD
    const message = isNewer
      ? `This handle of ${whose} has no key of version ${version}: get a new one`
      : version < this.version
        ? `The key of version ${version} of ${whose} is not there any more`
        : `There is no key of version ${version} of ${whose}, whose newest is ${this.version}: the token was changed`
    throw new KeystoreError('ERR_KEY_NOT_FOUND', message, { retryable: isNewer })
  }
}
