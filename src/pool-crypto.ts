/** The shared pool: secrets that belong to no single user, under a key derived from the master key itself (format v2). */
import { importKey, type KeyObject } from './aead.js'
import { invalidArgument, KeystoreError, MasterKeyError } from './errors.js'
import type { LocalMasterKey } from './master-key.js'
import { isWholeToken, openV2, parseToken, sealV2, textOf } from './token.js'
import { assertContext, assertPlaintext, type EncryptionContext } from './validate.js'

export interface EncryptOptions {
  /** Encrypt a plaintext that is itself a whole token. Default false: nearly always it was encrypted already. */
  readonly allowToken?: boolean
}

/** @throws ERR_INVALID_ARGUMENT if the plaintext is a whole token; one that merely begins like a token is none */
export function refuseToken(plaintext: string, { allowToken = false }: EncryptOptions): void {
  if (!allowToken && isWholeToken(plaintext)) {
    throw invalidArgument('plaintext is already a token: pass { allowToken: true } to encrypt it once more')
  }
}

export class PoolCrypto {
  readonly #masterKeys: readonly LocalMasterKey[]
  readonly #assertOpen: () => void
  /** Derived on first use, since each costs 100,000 rounds of PBKDF2; a failure is not kept. */
  readonly #derived = new Map<string, Promise<KeyObject>>()

  /** @param masterKeys local ones, primary first @internal */
  constructor(masterKeys: readonly LocalMasterKey[], assertOpen: () => void) {
    this.#masterKeys = masterKeys
    this.#assertOpen = assertOpen
  }

  /** @throws ERR_INVALID_ARGUMENT · ERR_MASTER_KEY (the keyring has no local key) · ERR_CLOSED */
  async encrypt(
    plaintext: string,
    context?: EncryptionContext,
    options: EncryptOptions = {},
  ): Promise<string> {
    this.#assertOpen()
    assertPlaintext(plaintext)
    assertContext(context)
    refuseToken(plaintext, options)
    const [primary] = this.#localKeys()
    return sealV2(await this.#key(primary), plaintext)
  }

  /**
   * Tries the pool key of every local master key, primary first.
   *
   * @throws ERR_INVALID_ARGUMENT · ERR_NOT_ENCRYPTED · ERR_MALFORMED_TOKEN · ERR_FORMAT_NOT_ACCEPTED ·
   *   ERR_DECRYPTION_FAILED · ERR_MASTER_KEY · ERR_CLOSED
   */
  async decrypt(token: string, context?: EncryptionContext): Promise<string> {
    this.#assertOpen()
    assertContext(context)
    const { sealed } = parseToken(token)
    const [primary, ...previous] = this.#localKeys()
    let failure: unknown
    for (const masterKey of [primary, ...previous]) {
      const key = await this.#key(masterKey)
      try {
        return textOf(openV2(key, sealed))
      } catch (error) {
        if (!(error instanceof KeystoreError)) throw error
        failure = error
      }
    }
    throw failure
  }

  #localKeys(): [LocalMasterKey, ...LocalMasterKey[]] {
    const [primary, ...previous] = this.#masterKeys
    if (primary === undefined) {
      throw new MasterKeyError(
        'ERR_MASTER_KEY',
        'The pool of format v2 needs a local master key; the keyring has none',
      )
    }
    return [primary, ...previous]
  }

  #key(masterKey: LocalMasterKey): Promise<KeyObject> {
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
