/** The crypto service: encrypts and decrypts for users whose keys are kept in a KeyStore. */

import { invalidArgument, KeystoreError } from '../errors.js'
import { isTurnDue, nextTurn, weightOf } from '../event-loop.js'
import type { EmitEvent } from '../events.js'
import { whyNativeIsUnusable } from '../format/chosen-core.js'
import { contextPieces, type EncryptionContext } from '../format/context.js'
import { assertFingerprintArguments, type FingerprintOptions } from '../format/fingerprint.js'
import type { Format } from '../format/formats.js'
import type { Token } from '../format/token.js'
import { endedKeysIn } from '../key-log/ended-keys.js'
import { refuseOlderCopy } from '../key-log/older-copy.js'
import { KeyCache, type Rotation } from '../keys/cache.js'
import type { CacheStats } from '../keys/cache-options.js'
import { AS_BYTES, AS_TEXT, type DataKey, type OpenAs } from '../keys/data-key.js'
import { type TenantMove, type TenantRotation, Tenants } from '../keys/tenants.js'
import { checkMasterKeys } from '../master-keys/check.js'
import { assertMasterKey } from '../master-keys/keyring.js'
import type { MasterKey } from '../master-keys/master-key.js'
import type { ShredReceipt, ShredUserOptions } from '../shred.js'
import type { KeyStore } from '../store.js'
import { tenantUserId } from '../table.js'
import { traceMethods } from '../traced-calls.js'
import { assertTenantId, assertUserId, ownOptions } from '../validate.js'
import { BulkCrypto, type DecryptItem, type EncryptItem, type ItemResult } from './bulk.js'
import { eraseKeys } from './erase.js'
import { type EnvelopeCryptoOptions, type ResolvedOptions, resolveOptions } from './options.js'
import { POOL_USER_ID, PoolCrypto } from './pool-crypto.js'
import { runInScope, scopeArguments } from './scope.js'
import { Secret } from './secret.js'
import { type EncryptOptions, refuseToken, type TokenPolicy } from './token-policy.js'
import { TRACED } from './traced.js'
import { type ScopeOptions, UserHandle, type UserOptions } from './user-handle.js'

/**
 * Per-user envelope encryption.
 *
 * @example
 * const masterKeys = masterKeysFromEnv() // first: without a master key no store is made
 * const envelope = await EnvelopeCrypto.open({ store: await openKeyStore('data/keystore.db'), masterKeys })
 * const token = await envelope.encrypt('alice', 'sk-…', { provider: 'openai' })
 * const apiKey = await envelope.decrypt('alice', token, { provider: 'openai' })
 * await envelope.close()
 */
export class EnvelopeCrypto {
  /** Secrets that belong to no single user. */
  readonly pool: PoolCrypto
  /** The format that is written. */
  readonly format: Format
  /** The longest token that is read or written, in bytes. */
  readonly maxTokenBytes: number
  readonly #store: KeyStore
  readonly #keys: KeyCache
  readonly #tenants: Tenants
  readonly #bulk: BulkCrypto
  readonly #policy: TokenPolicy
  readonly #closeStore: boolean
  readonly #emit: EmitEvent
  #closed = false
  #closing: Promise<void> | undefined

  static {
    traceMethods(EnvelopeCrypto.prototype, TRACED)
  }

  private constructor(resolved: ResolvedOptions) {
    // TypeScript refuses it, JavaScript does not: the master keys would then be checked by nobody.
    if (resolved?.tokenPolicy === undefined)
      throw invalidArgument('Use await EnvelopeCrypto.open({ store, masterKeys }), not new EnvelopeCrypto()')
    const { store, keyring, format, acceptKeys, tokenPolicy, cache, closeStore, emit, mints, keyLogPath } =
      resolved
    this.#store = store
    this.format = format
    this.maxTokenBytes = tokenPolicy.maxTokenBytes
    this.#policy = tokenPolicy
    this.#closeStore = closeStore
    this.#emit = emit
    const hasEnded = keyLogPath === undefined ? null : endedKeysIn(keyLogPath)
    const policy = { format, acceptKeys, mints, hasEnded }
    this.#tenants = new Tenants(store, keyring, policy, cache, emit)
    this.#keys = new KeyCache(store, keyring, this.#tenants, policy, cache, emit)
    const assertOpen = () => this.#assertOpen()
    this.#bulk = new BulkCrypto({ keys: this.#keys, policy: tokenPolicy, emit, assertOpen })
    const shred = (options: ShredUserOptions) => eraseKeys(store, this.#keys, emit, POOL_USER_ID, options)
    this.pool = new PoolCrypto(this.#keys, this.#bulk, keyring.local, tokenPolicy, emit, assertOpen, shred)
  }

  /**
   * Checks that the master keys open what is stored, and writes nothing: a read-only role can open. If it rejects, it has closed the store,
   * unless `closeStore` is false. A key service that cannot be reached, or refuses, is the event `masterKeyUnavailable`: users of other
   * master keys are not to suffer from it.
   *
   * @throws ERR_UNKNOWN_MASTER_KEY (names KEK ids and counts) · ERR_FORMAT_NOT_ACCEPTED (all keys are in format v2) ·
   *   ERR_MASTER_KEY (a wrong one, or one that cannot do its work from the beginning) ·
   *   ERR_KEYS_LOST (by its key log, the store is an older copy) · ERR_INVALID_ARGUMENT · ERR_STORE · ERR_SCHEMA
   */
  static async open(options: EnvelopeCryptoOptions): Promise<EnvelopeCrypto> {
    try {
      const resolved = resolveOptions(options)
      const { store, keyring, keyLogPath, emit } = resolved
      await checkMasterKeys(store, keyring, resolved)
      if (keyLogPath !== undefined) await refuseOlderCopy(store, keyLogPath, emit)
      if (resolved.plaintext === 'pass-through') emit({ type: 'plaintextPassThrough' })
      const reason = whyNativeIsUnusable()
      if (reason !== null) emit({ type: 'nativeCore', reason })
      return new EnvelopeCrypto(resolved)
    } catch (error) {
      await closeGivenStore(options)
      throw error
    }
  }

  /**
   * Encrypts a string for a user. The user's key is minted on first use.
   *
   * @param context authenticated by the token and not stored in it: `decrypt` needs the same; format v2 ignores it
   * @returns a token to store
   * @throws ERR_INVALID_ARGUMENT · ERR_KEY_NOT_FOUND (`mint: 'never'`) · ERR_KEY_SHREDDED · ERR_UNWRAP_FAILED ·
   *   ERR_FORMAT_NOT_ACCEPTED · ERR_UNKNOWN_MASTER_KEY · ERR_STORE · ERR_CLOSED
   */
  async encrypt(
    userId: string,
    plaintext: string,
    context?: EncryptionContext,
    options: EncryptOptions = {},
  ): Promise<Token> {
    this.#assertOpen()
    assertUserId(userId)
    this.#policy.assertPlaintext(plaintext)
    const pieces = contextPieces(context)
    refuseToken(plaintext, options)
    if (isTurnDue(weightOf(plaintext))) await nextTurn()
    const key = this.#keys.cachedForWriting(userId) ?? (await this.#keys.forWriting(userId))
    return key.seal(this.#policy.format, plaintext, pieces)
  }

  /** {@link encrypt} for bytes. */
  async encryptBytes(userId: string, plaintext: Uint8Array, context?: EncryptionContext): Promise<Token> {
    this.#assertOpen()
    assertUserId(userId)
    this.#policy.assertPlaintextBytes(plaintext)
    const pieces = contextPieces(context)
    const isDue = isTurnDue(weightOf(plaintext))
    const cached = isDue ? undefined : this.#keys.cachedForWriting(userId)
    if (cached !== undefined) return cached.seal(this.#policy.format, plaintext, pieces)
    // The caller may wipe its bytes before the key is there.
    const held = Uint8Array.from(plaintext)
    try {
      if (isDue) await nextTurn()
      return (await this.#keys.forWriting(userId)).seal(this.#policy.format, held, pieces)
    } finally {
      held.fill(0)
    }
  }

  /**
   * Decrypts a token of a user. Never mints.
   *
   * @throws ERR_INVALID_ARGUMENT · ERR_NOT_ENCRYPTED · ERR_MALFORMED_TOKEN · ERR_FORMAT_NOT_ACCEPTED (all before the
   *   store is asked) · ERR_KEY_NOT_FOUND · ERR_KEY_SHREDDED · ERR_DECRYPTION_FAILED · ERR_UNWRAP_FAILED ·
   *   ERR_UNKNOWN_MASTER_KEY · ERR_STORE · ERR_CLOSED
   */
  async decrypt(userId: string, token: string, context?: EncryptionContext): Promise<string> {
    if (isTurnDue(weightOf(token))) await nextTurn()
    if (this.#policy.passesThrough(token)) return this.#passThrough(userId, token, context)
    return this.#open(userId, token, context, AS_TEXT)
  }

  /** {@link decrypt}, as a value that no log, JSON or template shows. */
  async decryptSecret(userId: string, token: string, context?: EncryptionContext): Promise<Secret> {
    return new Secret(await this.decrypt(userId, token, context))
  }

  /** {@link decrypt} for bytes: opens tokens whose plaintext is not UTF-8, too. */
  async decryptBytes(userId: string, token: string, context?: EncryptionContext): Promise<Uint8Array> {
    if (isTurnDue(weightOf(token))) await nextTurn()
    if (this.#policy.passesThrough(token)) return Buffer.from(this.#passThrough(userId, token, context))
    return this.#open(userId, token, context, AS_BYTES)
  }

  /**
   * Encrypts values of any number of users. One query looks up the keys of a thousand users, and one insert mints those that are missing.
   *
   * @returns a result for each item, in their order; one bad item never fails the rest
   * @throws ERR_INVALID_ARGUMENT (no array) · ERR_CLOSED
   */
  async encryptMany(items: readonly EncryptItem[]): Promise<ItemResult<Token>[]> {
    return this.#bulk.encrypt(items)
  }

  /** Decrypts values of any number of users, with one look-up of keys. See {@link encryptMany}. */
  async decryptMany(items: readonly DecryptItem[]): Promise<ItemResult<string>[]> {
    return this.#bulk.decrypt(items)
  }

  /**
   * A user's keys in hand, for synchronous use.
   *
   * @throws ERR_INVALID_ARGUMENT · ERR_KEY_NOT_FOUND (without `mint`) · ERR_KEY_SHREDDED · ERR_STORE · ERR_CLOSED …
   */
  async user(userId: string, options: UserOptions = {}): Promise<UserHandle> {
    this.#assertOpen()
    assertUserId(userId)
    const { mint = true } = ownOptions(options)
    if (isTurnDue()) await nextTurn()
    const keys = await this.#keys.all(userId, mint)
    return new UserHandle(userId, keys, this.#policy, this.#emit, () => this.#assertOpen())
  }

  /**
   * Runs `work` with the user's keys in force for encrypted columns, until what it returns has settled. The scope of the pool
   * (`envelope.pool.scope`) may stand in it or around it.
   *
   * @param options `onUnreadable` decides what becomes of a stored value that cannot be read; by default its query fails
   * @throws like {@link user}
   * @example
   * const rows = await envelope.scope('alice', () => db.select().from(credentials))
   */
  async scope<T>(
    userId: string,
    work: (handle: UserHandle) => T | PromiseLike<T>,
    options: ScopeOptions = {},
  ): Promise<T> {
    const onUnreadable = scopeArguments(work, options)
    return runInScope('user', { handle: await this.user(userId, options), onUnreadable }, work)
  }

  /**
   * Makes a fingerprint of a user's value: equal for equal values of one user, name, `normalize` and `bits`. Use it for unique indexes, and to
   * find a value without decrypting. Rotations do not change it. It is made with the lowest live version of the user's key, so it changes
   * when version 1 is pruned (docs/OPERATIONS.md). Who holds the user's data key can test guesses against it.
   *
   * @returns `f1:…`, 46 characters, or `f2:VERSION:…`; fewer with `bits`
   * @throws ERR_INVALID_ARGUMENT · ERR_KEY_SHREDDED · ERR_KEY_NOT_FOUND · ERR_UNWRAP_FAILED · ERR_STORE · ERR_CLOSED …
   * @example
   * const fingerprint = await envelope.fingerprint('alice', 'sk-…', { name: 'credentials.api_key' })
   */
  async fingerprint(userId: string, value: string, options: FingerprintOptions): Promise<string> {
    this.#assertOpen()
    assertUserId(userId)
    const kind = assertFingerprintArguments(value, options)
    if (isTurnDue()) await nextTurn()
    return (await this.#keys.lowest(userId)).fingerprint(kind, value)
  }

  /**
   * All fingerprints that a stored one of this value may be: one for each live version of the user's key, that of {@link fingerprint} first.
   * Mostly one; more while versions are being pruned.
   *
   * @throws like {@link fingerprint}
   * @example
   * const found = inArray(table.fingerprint, await envelope.fingerprints('alice', 'sk-…', { name: 'credentials.api_key' }))
   */
  async fingerprints(userId: string, value: string, options: FingerprintOptions): Promise<string[]> {
    const kind = assertFingerprintArguments(value, options)
    return (await this.user(userId)).fingerprintsOf(value, kind)
  }

  /**
   * The raw 32 bytes of version 1 of a user's key, minted if there is none, as the reference gives them. The caller owns
   * them, and wipes them after use.
   */
  async getOrCreateUserKey(userId: string): Promise<Uint8Array> {
    this.#assertOpen()
    assertUserId(userId)
    if (isTurnDue()) await nextTurn()
    return (await this.#keys.first(userId)).export()
  }

  /**
   * Makes a new version of a user's key for new writes. Tokens of earlier versions still open. This process uses the new version at once;
   * other processes use it within 2 s if the store announces changes, else within `cache.ttlMs`. If another process has rotated since this
   * one last read the user's rows, nothing is made and `rotated` is false.
   *
   * @throws ERR_INVALID_ARGUMENT (also under format v2, which has version 1 only) · ERR_KEY_NOT_FOUND (nothing to rotate) ·
   *   ERR_KEY_SHREDDED · ERR_STORE · ERR_CLOSED …
   * @example
   * const { version } = await envelope.rotateUserKey('alice')
   */
  async rotateUserKey(userId: string): Promise<Rotation> {
    this.#assertOpen()
    assertUserId(userId)
    if (isTurnDue()) await nextTurn()
    return this.#keys.rotate(userId)
  }

  /**
   * Erases all of a user's keys in the live database. Nothing that was encrypted under them can be decrypted any more: in this process at
   * once, in other processes within 2 s if the store announces changes, else within `cache.ttlMs`. Every later use is ERR_KEY_SHREDDED. The
   * erasure is final once every copy (backup, write-ahead log, replica, snapshot) has expired, or every master key that the receipt names is
   * destroyed.
   *
   * @param options `forget: true` removes the rows too, so that the user may be minted anew
   * @throws ERR_INVALID_ARGUMENT · ERR_STORE (call again: what was begun is finished) · ERR_CLOSED
   */
  async shredUser(userId: string, options: ShredUserOptions = {}): Promise<ShredReceipt> {
    this.#assertOpen()
    assertUserId(userId)
    return eraseKeys(this.#store, this.#keys, this.#emit, userId, options)
  }

  /**
   * Makes a new version of a tenant's key. New keys of the tenant's users are wrapped under it; those that there are stay under the version
   * that wraps them, until `rewrapAll` brings them along. It goes under the root that `tenantRoot` gives (null: the primary);
   * without `tenantRoot` in the keyring, under the root that wraps the newest one. ERR_UNKNOWN_MASTER_KEY: that root was not given.
   *
   * @throws ERR_INVALID_ARGUMENT · ERR_KEY_NOT_FOUND (the tenant has no key) · ERR_KEY_SHREDDED · ERR_MASTER_KEY · ERR_STORE · ERR_CLOSED
   * @example
   * const { version } = await envelope.rotateTenantKey('acme')
   */
  async rotateTenantKey(tenantId: string): Promise<TenantRotation> {
    this.#assertOpen()
    assertTenantId(tenantId)
    return this.#tenants.rotate(tenantId)
  }

  /**
   * Erases a tenant's key, and with it all that its users have: in this process at once, in others within 2 s, handles included. Every
   * later use, also by new users of the tenant, is ERR_KEY_SHREDDED. It is as final as {@link shredUser}. Asks no root.
   *
   * @param options `forget: true` removes the tenant's rows too. Its users' rows stay (ERR_KEY_NOT_FOUND), and until all of them are forgotten
   *   (`shredUser` with `forget`, or `keystore shred-tenant --forget --with-users`) the tenant gets no new key: ERR_KEYS_LOST
   * @returns `userId` is that of the tenant's own rows
   * @throws ERR_INVALID_ARGUMENT · ERR_STORE (call again: what was begun is finished) · ERR_CLOSED
   * @example
   * const receipt = await envelope.shredTenant('acme')
   */
  async shredTenant(tenantId: string, options: ShredUserOptions = {}): Promise<ShredReceipt> {
    this.#assertOpen()
    assertTenantId(tenantId)
    return eraseKeys(this.#store, this.#tenants, this.#emit, tenantUserId(tenantId), options)
  }

  /**
   * Wraps a tenant's key under another root: all versions of it, and nothing of its users. Each new wrap is opened again before it is written.
   * The old root has to be one that this service finds: what `tenantRoot` gives, or a key of the keyring.
   *
   * Before the call all processes, this one too, must find the new root: by `tenantRoot`, or in `previous`. Those that do not cannot open the
   * keys of the tenant's users afterwards (ERR_UNKNOWN_MASTER_KEY). After the call have `tenantRoot` give it.
   *
   * @throws ERR_INVALID_ARGUMENT · ERR_KEY_NOT_FOUND · ERR_KEY_SHREDDED · ERR_STORE · ERR_CLOSED · ERR_MASTER_KEY, ERR_UNKNOWN_MASTER_KEY,
   *   ERR_UNWRAP_FAILED (of either root). The message says which versions are left where they were: call again
   * @example
   * await envelope.moveTenant('acme', customersKey)
   */
  async moveTenant(tenantId: string, root: MasterKey): Promise<TenantMove> {
    this.#assertOpen()
    assertTenantId(tenantId)
    assertMasterKey('root', root)
    return this.#tenants.move(tenantId, root)
  }

  /**
   * Makes every process forget a tenant's key and the keys of its users: this one at once, others within 2 s. Handles of its users end
   * (ERR_KEY_NOT_FOUND, `retryable`: get a new one). The next use asks the tenant's root again. Asks no root itself, so that it also works
   * when the root refuses: what the customer has taken away is then out of use everywhere.
   *
   * @throws ERR_INVALID_ARGUMENT · ERR_KEY_NOT_FOUND (the tenant has no key) · ERR_KEY_SHREDDED · ERR_STORE (this process has forgotten; others
   *   may not) · ERR_CLOSED
   * @example
   * await envelope.evictTenant('acme')
   */
  async evictTenant(tenantId: string): Promise<void> {
    this.#assertOpen()
    assertTenantId(tenantId)
    await this.#tenants.evict(tenantId)
  }

  /** How often a key was in memory. */
  get cacheStats(): CacheStats {
    return this.#keys.stats
  }

  /** Closes the service, and its store unless `closeStore` is false. Idempotent. Every later call is ERR_CLOSED. */
  async close(): Promise<void> {
    if (!this.#closed) {
      this.#closed = true
      this.#keys.close()
      this.#tenants.close()
      this.pool.close()
      this.#closing = this.#closeStore ? this.#store.close() : Promise.resolve()
    }
    await this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** Returns the plaintext itself, and no promise, if the key is cached. */
  #open<Plaintext>(
    userId: string,
    token: string,
    context: EncryptionContext | undefined,
    openAs: OpenAs<Plaintext>,
  ): Plaintext | Promise<Plaintext> {
    this.#assertOpen()
    assertUserId(userId)
    const pieces = contextPieces(context)
    const version = this.#policy.versionAtStart(token)
    const known = version === 0 ? undefined : this.#keys.cachedBeforeLookUp(userId, version)
    if (known !== undefined) {
      const plaintext = openAs.unparsed(known, token, pieces)
      if (plaintext !== null) return plaintext
    }
    const parsed = this.#policy.parse(token)
    const ref = { userId, version: parsed.version }
    const open = (key: DataKey) => openAs.parsed(key, parsed, pieces, this.#emit)
    const cached = known ?? this.#keys.cached(ref)
    return cached === undefined ? this.#keys.get(ref).then(open) : open(cached)
  }

  /** Checks the arguments as decrypt does, so that a mistake shows before the first real token. */
  #passThrough(userId: string, value: string, context: EncryptionContext | undefined): string {
    this.#assertOpen()
    assertUserId(userId)
    contextPieces(context)
    return value
  }

  #assertOpen(): void {
    if (this.#closed) throw new KeystoreError('ERR_CLOSED', 'This EnvelopeCrypto was closed')
  }
}

/** Closes a store that nobody else would close: an open connection would keep the process alive. */
async function closeGivenStore(options: EnvelopeCryptoOptions): Promise<void> {
  try {
    const { store, closeStore } = ownOptions(options)
    if (closeStore !== false && typeof store?.close === 'function') await store.close()
  } catch {
    // What made `open` reject says more.
  }
}
