/** The crypto service: tokens in and out, for users whose keys it finds in, or mints into, a KeyStore. */
import { DataKeys } from './data-keys.js'
import { invalidArgument, KeystoreError } from './errors.js'
import type { KeystoreEvent } from './events.js'
import { primaryKekId } from './key-wrap.js'
import { keyringOf, type MasterKey, type MasterKeyring } from './master-key.js'
import { checkMasterKeys } from './master-key-check.js'
import { type EncryptOptions, PoolCrypto, refuseToken } from './pool-crypto.js'
import type { KeyStore } from './store.js'
import { type Format, openV2, parseToken, sealV2, textOf } from './token.js'
import {
  assertBytes,
  assertContext,
  assertPlaintext,
  assertUserId,
  type EncryptionContext,
} from './validate.js'

export interface EnvelopeCryptoOptions {
  /** Where wrapped keys are kept: `openKeyStore(url)`, or an adapter's factory. */
  readonly store: KeyStore
  /** `masterKeysFromEnv()`, a keyring, or one master key. */
  readonly masterKeys: MasterKeyring | MasterKey
  /** The format that is written. Only the reference's exists so far. Default `'v2'`. */
  readonly format?: 'v2'
  /** Opens even when rows need master keys that were not given; those users' values then fail one by one. Default false. */
  readonly allowUnknownMasterKeys?: boolean
  /** Called synchronously; what it throws is the caller's to catch. */
  readonly onEvent?: (event: KeystoreEvent) => void
  /** Whether `close()` closes the store too. Default true. */
  readonly closeStore?: boolean
}

/**
 * Per-user envelope encryption.
 *
 * @example
 * const envelope = await EnvelopeCrypto.open({ store: await openKeyStore('data/keystore.db'), masterKeys: masterKeysFromEnv() })
 * const token = await envelope.encrypt('alice', 'sk-…')
 * const apiKey = await envelope.decrypt('alice', token)
 * await envelope.close()
 */
export class EnvelopeCrypto {
  /** Secrets that belong to no single user. */
  readonly pool: PoolCrypto
  readonly #store: KeyStore
  readonly #keys: DataKeys
  readonly #closeStore: boolean
  #closed = false

  private constructor(store: KeyStore, keyring: MasterKeyring, format: Format, closeStore: boolean) {
    this.#store = store
    this.#keys = new DataKeys(store, keyring, { format, acceptKeys: [format] })
    this.#closeStore = closeStore
    this.pool = new PoolCrypto(keyring.local, () => this.#assertOpen())
  }

  /**
   * Checks that the master keys open what is stored, and writes nothing: a read-only role can open.
   *
   * @throws ERR_UNKNOWN_MASTER_KEY (names KEK ids and counts) · ERR_INVALID_ARGUMENT · ERR_STORE · ERR_SCHEMA
   */
  static async open(options: EnvelopeCryptoOptions): Promise<EnvelopeCrypto> {
    const {
      store,
      masterKeys,
      format = 'v2',
      allowUnknownMasterKeys = false,
      onEvent,
      closeStore = true,
    } = options
    if (format !== 'v2') throw invalidArgument(`format must be 'v2', the only one so far`)
    const keyring = keyringOf(masterKeys)
    primaryKekId(keyring, format)
    await checkMasterKeys(store, keyring, {
      acceptKeys: [format],
      allowUnknown: allowUnknownMasterKeys,
      emit: (event) => onEvent?.(event),
    })
    return new EnvelopeCrypto(store, keyring, format, closeStore)
  }

  /**
   * Encrypts a string for a user, whose key is minted on first use.
   *
   * @param context ignored by v2 tokens, which bind nothing; checked all the same
   * @returns a token to store
   * @throws ERR_INVALID_ARGUMENT · ERR_KEY_SHREDDED · ERR_UNWRAP_FAILED · ERR_UNKNOWN_MASTER_KEY · ERR_STORE · ERR_CLOSED
   */
  async encrypt(
    userId: string,
    plaintext: string,
    context?: EncryptionContext,
    options: EncryptOptions = {},
  ): Promise<string> {
    this.#assertOpen()
    assertUserId(userId)
    assertPlaintext(plaintext)
    assertContext(context)
    refuseToken(plaintext, options)
    return sealV2(await this.#keys.getOrMint(userId), plaintext)
  }

  /** {@link encrypt} for bytes. */
  async encryptBytes(userId: string, plaintext: Uint8Array, context?: EncryptionContext): Promise<string> {
    this.#assertOpen()
    assertUserId(userId)
    assertBytes('plaintext', plaintext)
    assertContext(context)
    return sealV2(await this.#keys.getOrMint(userId), plaintext)
  }

  /**
   * Decrypts a token of a user. Never mints.
   *
   * @throws ERR_INVALID_ARGUMENT · ERR_NOT_ENCRYPTED · ERR_MALFORMED_TOKEN · ERR_FORMAT_NOT_ACCEPTED (all before the
   *   store is asked) · ERR_KEY_NOT_FOUND · ERR_KEY_SHREDDED · ERR_DECRYPTION_FAILED · ERR_UNWRAP_FAILED ·
   *   ERR_UNKNOWN_MASTER_KEY · ERR_STORE · ERR_CLOSED
   */
  async decrypt(userId: string, token: string, context?: EncryptionContext): Promise<string> {
    return textOf(await this.#open(userId, token, context))
  }

  /** {@link decrypt} for bytes: opens tokens whose plaintext is not UTF-8, too. */
  async decryptBytes(userId: string, token: string, context?: EncryptionContext): Promise<Uint8Array> {
    return this.#open(userId, token, context)
  }

  /**
   * The raw 32 bytes of version 1 of a user's key, minted if there is none, as the reference gives them. The caller owns
   * them, and wipes them after use.
   */
  async getOrCreateUserKey(userId: string): Promise<Uint8Array> {
    this.#assertOpen()
    assertUserId(userId)
    return this.#keys.getOrMintBytes(userId)
  }

  /** Ends the service, and its store unless `closeStore` is false. Idempotent; every later call is ERR_CLOSED. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    if (this.#closeStore) await this.#store.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #open(userId: string, token: string, context: EncryptionContext | undefined): Promise<Buffer> {
    this.#assertOpen()
    assertUserId(userId)
    assertContext(context)
    const { version, sealed } = parseToken(token)
    return openV2(await this.#keys.get({ userId, version }), sealed)
  }

  #assertOpen(): void {
    if (this.#closed) throw new KeystoreError('ERR_CLOSED', 'This EnvelopeCrypto was closed')
  }
}
