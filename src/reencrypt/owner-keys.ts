/** The keys of the users whose values are in hand: asked for together, and without minting any until there is something to encrypt. */
import type { EnvelopeCrypto } from '../envelope/envelope-crypto.js'
import type { UserHandle } from '../envelope/user-handle.js'
import { isKeystoreError, KeystoreError, type StoreError } from '../errors.js'

/** A user, or null for the shared pool. */
export type Owner = string | null

export class OwnerKeys {
  readonly #envelope: EnvelopeCrypto
  readonly #keys = new Map<Owner, UserHandle | KeystoreError>()

  constructor(envelope: EnvelopeCrypto) {
    this.#envelope = envelope
  }

  /** Looks all of them up in one query. @throws what is about more than one user: an outage */
  async load(owners: Iterable<Owner>): Promise<void> {
    await this.#get(owners, false)
  }

  /** Makes keys for those who have none, with one insert. */
  async mint(owners: Iterable<Owner>): Promise<void> {
    await this.#get([...owners].filter(this.#lacksKey), true)
  }

  /** Why nothing can be encrypted for an owner, not even under a new key; null if it can. */
  refusal(owner: Owner): KeystoreError | null {
    const keys = this.#keys.get(owner)
    return keys instanceof Error && !this.#lacksKey(owner) ? keys : null
  }

  /** @throws why there are none */
  of(owner: Owner): UserHandle {
    const keys = this.#keys.get(owner)
    if (keys === undefined || keys instanceof Error) throw keys
    return keys
  }

  /** Opens something with an owner's keys, and once more with new ones if it is of a version made since they were looked up. */
  async open<T>(owner: Owner, work: (keys: UserHandle) => T): Promise<T> {
    try {
      return work(this.of(owner))
    } catch (error) {
      if (!isMissingVersion(error)) throw error
    }
    await this.load([owner])
    try {
      return work(this.of(owner))
    } catch (error) {
      throw isMissingVersion(error) ? missingVersion() : error
    }
  }

  readonly #lacksKey = (owner: Owner): boolean => {
    const keys = this.#keys.get(owner)
    return keys instanceof Error && keys.code === 'ERR_KEY_NOT_FOUND' && !keys.retryable
  }

  async #get(owners: Iterable<Owner>, mint: boolean): Promise<void> {
    await Promise.all(
      Array.from(new Set(owners), async (owner) => {
        try {
          const { pool } = this.#envelope
          this.#keys.set(
            owner,
            await (owner === null ? pool.handle({ mint }) : this.#envelope.user(owner, { mint })),
          )
        } catch (error) {
          if (!isOfOneOwner(error)) throw error
          this.#keys.set(owner, error)
        }
      }),
    )
  }
}

function isMissingVersion(error: unknown): boolean {
  return isKeystoreError(error) && error.code === 'ERR_KEY_NOT_FOUND' && error.retryable
}

function missingVersion(): KeystoreError {
  return new KeystoreError(
    'ERR_KEY_NOT_FOUND',
    'The version of the key that the token names is not in the key store',
  )
}

/** Whether it says something about one user's keys, and not that store, key service or service fail. */
export function isOfOneOwner(error: unknown): error is KeystoreError {
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
])
