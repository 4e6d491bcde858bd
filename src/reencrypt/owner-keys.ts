/** The keys of the owners of one page's values. They are looked up together; a missing key is minted only to encrypt something. */
import type { EnvelopeCrypto } from '../envelope/envelope-crypto.js'
import type { UserHandle } from '../envelope/user-handle.js'
import { isKeystoreError, KeystoreError, type StoreError } from '../errors.js'
import { nextTurn } from '../event-loop.js'

/** A user's id, or null for the shared pool. */
type Owner = string | null

export class OwnerKeys {
  readonly #envelope: EnvelopeCrypto
  readonly #keys = new Map<Owner, UserHandle | KeystoreError>()

  constructor(envelope: EnvelopeCrypto) {
    this.#envelope = envelope
  }

  /** Looks up the keys of all owners in one query. @throws errors that concern more than one owner: an outage */
  async load(owners: Iterable<Owner>): Promise<void> {
    await this.#get(owners, false)
  }

  /** Makes keys for the owners who have none, with one insert. */
  async mint(owners: Iterable<Owner>): Promise<void> {
    await this.#get([...owners].filter(this.#lacksKey), true)
  }

  /** The error why nothing can be encrypted for an owner. Null if their key is loaded or can be minted. */
  refusal(owner: Owner): KeystoreError | null {
    const keys = this.#keys.get(owner)
    return keys instanceof Error && !this.#lacksKey(owner) ? keys : null
  }

  /** Whether an owner has no key yet, and will get one when something is encrypted for them. */
  isToBeMinted(owner: Owner): boolean {
    return this.#lacksKey(owner)
  }

  /** Null if nothing can be decrypted with them. */
  usable(owner: Owner): UserHandle | null {
    const keys = this.#keys.get(owner)
    return keys === undefined || keys instanceof Error || !keys.isUsable ? null : keys
  }

  /** @throws the error that the look-up of this owner had */
  of(owner: Owner): UserHandle {
    const keys = this.#keys.get(owner)
    if (keys === undefined || keys instanceof Error) throw keys
    return keys
  }

  /**
   * Decrypts with an owner's keys, at once if they are there. If the token names a version that they lack, it may have been made since the look-up: the keys
   * are looked up again and `decrypt` is called once more.
   */
  open<T>(owner: Owner, decrypt: (keys: UserHandle) => T): T | Promise<T> {
    try {
      return decrypt(this.of(owner))
    } catch (error) {
      if (!isMissingVersion(error)) throw error
    }
    return this.#openAgain(owner, decrypt)
  }

  async #openAgain<T>(owner: Owner, decrypt: (keys: UserHandle) => T): Promise<T> {
    await this.load([owner])
    try {
      return decrypt(this.of(owner))
    } catch (error) {
      throw isMissingVersion(error) ? missingVersion() : error
    }
  }

  readonly #lacksKey = (owner: Owner): boolean => {
    const keys = this.#keys.get(owner)
    return keys instanceof Error && keys.code === 'ERR_KEY_NOT_FOUND' && !keys.retryable
  }

  async #get(owners: Iterable<Owner>, mint: boolean): Promise<void> {
    const distinct = [...new Set(owners)]
    for (let at = 0; at < distinct.length; at += AT_ONCE) {
      if (at > 0) await nextTurn()
      await Promise.all(distinct.slice(at, at + AT_ONCE).map((owner) => this.#getOne(owner, mint)))
    }
  }

  async #getOne(owner: Owner, mint: boolean): Promise<void> {
    const { pool } = this.#envelope
    try {
      const keys = await (owner === null ? pool.handle({ mint }) : this.#envelope.user(owner, { mint }))
      this.#keys.set(owner, keys)
    } catch (error) {
      if (!isOwnerError(error)) throw error
      this.#keys.set(owner, error)
    }
  }
}

/** Owners in one query, and between two turns of the event loop. */
const AT_ONCE = 250

function isMissingVersion(error: unknown): boolean {
  return isKeystoreError(error) && error.code === 'ERR_KEY_NOT_FOUND' && error.retryable
}

function missingVersion(): KeystoreError {
  return new KeystoreError(
    'ERR_KEY_NOT_FOUND',
    'The version of the key that the token names is not in the key store',
  )
}

/** Whether an error is about the keys of one owner, or of those under one master key. Others are outages of the store. */
export function isOwnerError(error: unknown): error is KeystoreError {
  if (!isKeystoreError(error)) return false
  return OWNER_CODES.has(error.code) || (error as StoreError).ref !== undefined
}

const OWNER_CODES: ReadonlySet<string> = new Set([
  'ERR_INVALID_ARGUMENT',
  'ERR_KEY_NOT_FOUND',
  'ERR_KEY_SHREDDED',
  'ERR_UNWRAP_FAILED',
  'ERR_UNKNOWN_MASTER_KEY',
  'ERR_FORMAT_NOT_ACCEPTED',
  'ERR_MASTER_KEY',
])
