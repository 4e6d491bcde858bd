/** The shared pool: secrets that belong to no single user. */

import { invalidArgument, KeystoreError, MasterKeyError } from '../errors.js'
import { isTurnDue, nextTurn, weightOf } from '../event-loop.js'
import type { EmitEvent } from '../events.js'
import { importKey, type KeyObject } from '../format/aead.js'
import { contextPieces, type EncryptionContext } from '../format/context.js'
import { assertFingerprintArguments, type FingerprintOptions } from '../format/fingerprint.js'
import { openV2, type ParsedToken, sealV2, type Token, textOf } from '../format/token.js'
import type { KeyCache } from '../keys/cache.js'
import { openToken } from '../keys/data-key.js'
import type { LocalMasterKey } from '../master-keys/local.js'
import { traceMethods } from '../traced-calls.js'
import { ownOptions } from '../validate.js'
import { type EncryptOptions, refuseToken, type TokenPolicy } from './token-policy.js'
import { TRACED_OF_POOL } from './traced.js'
import { UserHandle, type UserOptions } from './user-handle.js'

/** The owner of the pool's key. No user can have this id. */
const POOL_USER_ID = ''

/**
 * Secrets that belong to no single user. In format v3 the pool has a data key of its own, minted at its first write. In format v2 its key
 * is derived from the master key, so a rewrap does not change it.
 */
export class PoolCrypto {
  readonly #keys: KeyCache
  readonly #masterKeys: readonly LocalMasterKey[]
  readonly #policy: TokenPolicy
  readonly #emit: EmitEvent
  readonly #assertOpen: () => void
  /** By master key id. Derived on first use, since each costs 100,000 rounds of PBKDF2. A failure is not kept. */
  readonly #derived = new Map<string, Promise<KeyObject>>()

  static {
    traceMethods(PoolCrypto.prototype, TRACED_OF_POOL, 'pool.')
  }

  /** @param masterKeys local ones, primary first @internal */
  constructor(
    keys: KeyCache,
    masterKeys: readonly LocalMasterKey[],
    policy: TokenPolicy,
    emit: EmitEvent,
    assertOpen: () => void,
  ) {
    this.#keys = keys
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
    if (this.#policy.format === 'v2') {
      const [primary] = this.#localKeys()
      return sealV2(await this.#derivedKey(primary), plaintext)
    }
    const key = this.#keys.cachedForWriting(POOL_USER_ID) ?? (await this.#keys.forWriting(POOL_USER_ID))
    return key.seal('v3', plaintext, pieces)
  }

  /**
   * A v2 token is tried with the derived key of every local master key, primary first.
   *
   * @throws ERR_INVALID_ARGUMENT · ERR_NOT_ENCRYPTED · ERR_MALFORMED_TOKEN · ERR_FORMAT_NOT_ACCEPTED · ERR_KEY_NOT_FOUND ·
   *   ERR_DECRYPTION_FAILED · ERR_MASTER_KEY · ERR_STORE · ERR_CLOSED …
   */
  async decrypt(token: string, context?: EncryptionContext): Promise<string> {
    this.#assertOpen()
    const pieces = contextPieces(context)
    if (this.#policy.passesThrough(token)) return token
    const parsed = this.#policy.parse(token)
    if (isTurnDue(weightOf(token))) await nextTurn()
    if (parsed.format === 'v2') return textOf(await this.#openDerived(parsed))
    const ref = { userId: POOL_USER_ID, version: parsed.version }
    const key = this.#keys.cached(ref) ?? (await this.#keys.get(ref))
    return textOf(openToken(key, parsed, pieces, this.#emit))
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
   * The pool's keys of format v3 in hand, for synchronous use: what `envelope.user` is for a user.
   *
   * @throws ERR_INVALID_ARGUMENT (format v2 derives the pool's key) · ERR_KEY_NOT_FOUND (without `mint`) · ERR_KEY_SHREDDED ·
   *   ERR_STORE · ERR_CLOSED …
   */
  async handle(options: UserOptions = {}): Promise<UserHandle> {
    this.#assertOpen()
    const { mint = true } = ownOptions(options)
    if (this.#policy.format === 'v2')
      throw invalidArgument("format 'v2' derives the pool's key: open with format 'v3' for a handle")
    const keys = await this.#keys.all(POOL_USER_ID, mint)
    return new UserHandle(POOL_USER_ID, keys, this.#policy, this.#emit, this.#assertOpen)
  }

  /** Drops the derived keys. @internal */
  close(): void {
    this.#derived.clear()
  }

  async #openDerived({ sealed }: ParsedToken): Promise<Buffer> {
    let failure: unknown
    for (const masterKey of this.#localKeys()) {
      const key = await this.#derivedKey(masterKey)
      try {
        return openV2(key, sealed)
      } catch (error) {
        if (!(error instanceof KeystoreError)) throw error
        failure = error
      }
    }
    this.#emit({ type: 'decryptFailed', userId: POOL_USER_ID, version: 1, format: 'v2' })
    throw failure
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

  #derivedKey(masterKey: LocalMasterKey): Promise<KeyObject> {
    const known = this.#derived.get(masterKey.id)
    if (known) return known
    const derived = masterKey.derivePoolKey().then((bytes) => {
      const key = importKey(bytes)
      bytes.fill(0)
      return key
    })
    this.#derived.set(masterKey.id, derived)
    derived.catch(() => this.#derived.delete(masterKey.id))
    return derived
  }
}
