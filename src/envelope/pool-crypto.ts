/** The shared pool: secrets that belong to no single user. */

import { invalidArgument, MasterKeyError } from '../errors.js'
import { isTurnDue, nextTurn, weightOf } from '../event-loop.js'
import type { EmitEvent } from '../events.js'
import { importKey } from '../format/aead.js'
import { currentCore } from '../format/chosen-core.js'
import { columnIn, contextPieces, type EncryptionContext } from '../format/context.js'
import type { V2Key } from '../format/core.js'
import { assertFingerprintArguments, type FingerprintOptions } from '../format/fingerprint.js'
import { decryptionFailed, type ParsedToken, type Token, textOf } from '../format/token.js'
import type { KeyCache, Rotation } from '../keys/cache.js'
import { openToken } from '../keys/data-key.js'
import type { LocalMasterKey } from '../master-keys/local.js'
import type { ShredReceipt, ShredUserOptions } from '../shred.js'
import { traceMethods } from '../traced-calls.js'
import { ownOptions } from '../validate.js'
import type { BulkCrypto, ItemResult, PoolDecryptItem, PoolEncryptItem } from './bulk.js'
import { runInScope, scopeArguments } from './scope.js'
import { Secret } from './secret.js'
import { type EncryptOptions, refuseToken, type TokenPolicy } from './token-policy.js'
import { TRACED_OF_POOL } from './traced.js'
import { type ScopeOptions, UserHandle, type UserOptions } from './user-handle.js'

/** The owner of the pool's key. No user can have this id. */
export const POOL_USER_ID = ''

/**
 * Secrets that belong to no single user, with the calls that EnvelopeCrypto has for users. In format v3 the pool has a data key of its own,
 * minted at its first write. In format v2 its key is derived from the master key, so a rewrap does not change it, and the calls that
 * need a data key (`handle`, `scope`, `rotate`, `shred`) throw ERR_INVALID_ARGUMENT.
 */
export class PoolCrypto {
  readonly #keys: KeyCache
  readonly #bulk: BulkCrypto
  readonly #masterKeys: readonly LocalMasterKey[]
  readonly #policy: TokenPolicy
  readonly #emit: EmitEvent
  readonly #assertOpen: () => void
  readonly #shred: (options: ShredUserOptions) => Promise<ShredReceipt>
  /** By master key id. Derived on first use, since each costs 100,000 rounds of PBKDF2. A failure is not kept. */
  readonly #derived = new Map<string, Promise<V2Key>>()

  static {
    traceMethods(PoolCrypto.prototype, TRACED_OF_POOL, 'pool.')
  }

  /** @param masterKeys local ones, primary first @internal */
  constructor(
    keys: KeyCache,
    bulk: BulkCrypto,
    masterKeys: readonly LocalMasterKey[],
    policy: TokenPolicy,
    emit: EmitEvent,
    assertOpen: () => void,
    shred: (options: ShredUserOptions) => Promise<ShredReceipt>,
  ) {
    this.#keys = keys
    this.#bulk = bulk
    this.#shred = shred
    this.#masterKeys = masterKeys
    this.#policy = policy
    this.#emit = emit
    this.#assertOpen = assertOpen
  }

  /** @throws ERR_INVALID_ARGUMENT · ERR_KEY_SHREDDED · ERR_MASTER_KEY (format v2 without a local key) · ERR_STORE · ERR_CLOSED … */
  async encrypt(
    plaintext: string,
    context?: EncryptionContext,
    options: EncryptOptions = {},
  ): Promise<Token> {
    this.#assertOpen()
    this.#policy.assertPlaintext(plaintext)
    const pieces = contextPieces(context)
    refuseToken(plaintext, options)
    if (isTurnDue(weightOf(plaintext))) await nextTurn()
    return this.#seal(plaintext, pieces)
  }

  /** {@link encrypt} for bytes. */
  async encryptBytes(plaintext: Uint8Array, context?: EncryptionContext): Promise<Token> {
    this.#assertOpen()
    this.#policy.assertPlaintextBytes(plaintext)
    const pieces = contextPieces(context)
    // The caller may wipe its bytes before the key is there.
    const held = Uint8Array.from(plaintext)
    try {
      if (isTurnDue(weightOf(plaintext))) await nextTurn()
      return await this.#seal(held, pieces)
    } finally {
      held.fill(0)
    }
  }

  /**
   * A v2 token is tried with the derived key of every local master key, primary first.
   *
   * @throws ERR_INVALID_ARGUMENT · ERR_NOT_ENCRYPTED · ERR_MALFORMED_TOKEN · ERR_FORMAT_NOT_ACCEPTED · ERR_KEY_NOT_FOUND ·
   *   ERR_DECRYPTION_FAILED · ERR_MASTER_KEY · ERR_STORE · ERR_CLOSED …
   */
  async decrypt(token: string, context?: EncryptionContext): Promise<string> {
    const opened = await this.#open(token, context)
    return typeof opened === 'string' ? opened : textOf(opened)
  }

  /** {@link decrypt}, as a value that no log, JSON or template shows. */
  async decryptSecret(token: string, context?: EncryptionContext): Promise<Secret> {
    return new Secret(await this.decrypt(token, context))
  }

  /** {@link decrypt} for bytes: opens tokens whose plaintext is not UTF-8, too. */
  async decryptBytes(token: string, context?: EncryptionContext): Promise<Uint8Array> {
    const opened = await this.#open(token, context)
    return typeof opened === 'string' ? Buffer.from(opened) : opened
  }

  /**
   * Encrypts values, with one look-up of the pool's key.
   *
   * @returns a result for each item, in their order; one bad item never fails the rest
   * @throws ERR_INVALID_ARGUMENT (no array) · ERR_CLOSED
   */
  async encryptMany(items: readonly PoolEncryptItem[]): Promise<ItemResult<Token>[]> {
    return this.#bulk.encryptFor(POOL_USER_ID, items, (plaintext) => this.#sealV2(plaintext))
  }

  /** Decrypts values. See {@link encryptMany}. */
  async decryptMany(items: readonly PoolDecryptItem[]): Promise<ItemResult<string>[]> {
    return this.#bulk.decryptFor(POOL_USER_ID, items, (token, context) => this.#openDerived(token, context))
  }

  /**
   * Makes a fingerprint under the pool's key. It shows which values of all users are equal, and outlives the shredding of any user. Use it
   * to find out whose a leaked key is. See `envelope.fingerprint`.
   *
   * @throws ERR_INVALID_ARGUMENT · ERR_KEY_SHREDDED · ERR_STORE · ERR_CLOSED …
   */
  async fingerprint(value: string, options: FingerprintOptions): Promise<string> {
    this.#assertOpen()
    const kind = assertFingerprintArguments(value, options)
    if (isTurnDue()) await nextTurn()
    return (await this.#keys.lowest(POOL_USER_ID)).fingerprint(kind, value)
  }

  /** {@link fingerprint} under every live version of the pool's key: see `envelope.fingerprints`. */
  async fingerprints(value: string, options: FingerprintOptions): Promise<string[]> {
    this.#assertOpen()
    const kind = assertFingerprintArguments(value, options)
    const keys = await this.#keys.all(POOL_USER_ID, true)
    return new UserHandle(POOL_USER_ID, keys, this.#policy, this.#emit, this.#assertOpen).fingerprintsOf(
      value,
      kind,
    )
  }

  /**
   * The pool's keys in hand, for synchronous use: what `envelope.user` is for a user. Where tokens of format v2 are accepted, it opens those
   * of the pool, too.
   *
   * @throws ERR_INVALID_ARGUMENT (format v2 derives the pool's key) · ERR_KEY_NOT_FOUND (without `mint`) · ERR_KEY_SHREDDED ·
   *   ERR_STORE · ERR_CLOSED …
   */
  async handle(options: UserOptions = {}): Promise<UserHandle> {
    this.#assertOpen()
    const { mint = true } = ownOptions(options)
    this.#assertDataKey('a handle')
    const derived = this.#policy.accepts('v2') ? await this.#derivedKeys() : []
    const keys = await this.#keys.all(POOL_USER_ID, mint)
    const openV2 = (token: ParsedToken, context: readonly string[]) =>
      this.#openUnder(derived, token, context)
    return new UserHandle(POOL_USER_ID, keys, this.#policy, this.#emit, this.#assertOpen, openV2)
  }

  /**
   * Runs `work` with the pool's keys in force for encrypted columns with `owner: 'pool'`, until what it returns has settled. The scope of a
   * user may stand in it or around it: each column has the keys of its own.
   *
   * @param options like those of `envelope.scope`
   * @throws like {@link handle}
   * @example
   * const keys = await envelope.pool.scope(() => db.select().from(jwks))
   */
  async scope<T>(work: (handle: UserHandle) => T | PromiseLike<T>, options: ScopeOptions = {}): Promise<T> {
    const onUnreadable = scopeArguments(work, options)
    return runInScope('pool', { handle: await this.handle(options), onUnreadable }, work)
  }

  /**
   * Makes a new version of the pool's key for new writes: see `envelope.rotateUserKey`.
   *
   * @throws ERR_INVALID_ARGUMENT (format v2) · ERR_KEY_NOT_FOUND (nothing to rotate) · ERR_KEY_SHREDDED · ERR_STORE · ERR_CLOSED …
   */
  async rotate(): Promise<Rotation> {
    this.#assertOpen()
    this.#assertDataKey('a rotation')
    if (isTurnDue()) await nextTurn()
    return this.#keys.rotate(POOL_USER_ID)
  }

  /**
   * Erases the pool's key: see `envelope.shredUser`. ALL values of the pool are lost, whoever they belong to, and so is the meaning of its
   * fingerprints. Tokens of format v2 are not: their key is derived from the master key.
   *
   * @param options with `forget: true` the next write makes a new key; without it every later use is ERR_KEY_SHREDDED
   * @throws ERR_INVALID_ARGUMENT (format v2) · ERR_STORE (call again: what was begun is finished) · ERR_CLOSED
   */
  async shred(options: ShredUserOptions = {}): Promise<ShredReceipt> {
    this.#assertOpen()
    this.#assertDataKey('shredding')
    return this.#shred(options)
  }

  /** Drops the derived keys. @internal */
  close(): void {
    this.#derived.clear()
  }

  async #seal(plaintext: string | Uint8Array, context: readonly string[]): Promise<Token> {
    if (this.#policy.format === 'v2') return this.#sealV2(plaintext)
    const key = this.#keys.cachedForWriting(POOL_USER_ID) ?? (await this.#keys.forWriting(POOL_USER_ID))
    return key.seal('v3', plaintext, context)
  }

  async #sealV2(plaintext: string | Uint8Array): Promise<Token> {
    const [primary] = this.#localKeys()
    return (await this.#derivedKey(primary)).sealToken(plaintext)
  }

  /** @returns a text that passes through as it is */
  async #open(token: string, context: EncryptionContext | undefined): Promise<Buffer | string> {
    this.#assertOpen()
    const pieces = contextPieces(context)
    if (this.#policy.passesThrough(token)) return token
    const parsed = this.#policy.parse(token)
    if (isTurnDue(weightOf(token))) await nextTurn()
    if (parsed.format === 'v2') return this.#openDerived(parsed, pieces)
    const ref = { userId: POOL_USER_ID, version: parsed.version }
    const key = this.#keys.cached(ref) ?? (await this.#keys.get(ref))
    return openToken(key, parsed, pieces, this.#emit)
  }

  /** A key is derived only when those before it have not opened the token. */
  async #openDerived(token: ParsedToken, context: readonly string[]): Promise<Buffer> {
    for (const masterKey of this.#localKeys()) {
      const opened = openV2OrNull([await this.#derivedKey(masterKey)], token)
      if (opened !== null) return opened
    }
    return this.#openUnder([], token, context)
  }

  #openUnder(derived: readonly V2Key[], token: ParsedToken, context: readonly string[]): Buffer {
    const opened = openV2OrNull(derived, token)
    if (opened !== null) return opened
    const { version, format } = token
    this.#emit({ type: 'decryptFailed', userId: POOL_USER_ID, version, format, ...columnIn(context) })
    throw decryptionFailed()
  }

  /** Of all local master keys, primary first. */
  #derivedKeys(): Promise<V2Key[]> {
    return Promise.all(this.#masterKeys.map((masterKey) => this.#derivedKey(masterKey)))
  }

  #assertDataKey(what: string): void {
    if (this.#policy.format === 'v2')
      throw invalidArgument(
        `format 'v2' derives the pool's key from the master key: open with format 'v3' for ${what}`,
      )
  }

  #localKeys(): readonly [LocalMasterKey, ...LocalMasterKey[]] {
    const [primary, ...previous] = this.#masterKeys
    if (primary === undefined) {
      throw new MasterKeyError(
        'ERR_MASTER_KEY',
        'The pool of format v2 needs a local master key; the keyring has none',
      )
    }
    return [primary, ...previous]
  }

  #derivedKey(masterKey: LocalMasterKey): Promise<V2Key> {
    const known = this.#derived.get(masterKey.id)
    if (known) return known
    const derived = masterKey.derivePoolKey().then((bytes) => {
      const key = currentCore().v2Key(importKey(bytes))
      bytes.fill(0)
      return key
    })
    this.#derived.set(masterKey.id, derived)
    derived.catch(() => this.#derived.delete(masterKey.id))
    return derived
  }
}

/** @returns null if none of the keys opens it */
function openV2OrNull(keys: readonly V2Key[], token: ParsedToken): Buffer | null {
  for (const key of keys) {
    const opened = key.openToken(token)
    if (opened !== null) return opened
  }
  return null
}
