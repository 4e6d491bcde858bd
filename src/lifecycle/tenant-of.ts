/** The application's `tenantOf` in a long operation, which asks it about very many users. */
import type { MasterKeyring } from '../master-keys/keyring.js'
import { TIME_LIMIT_MS, tenantOfUser } from '../master-keys/tenant-keys.js'

/** The time in milliseconds that `tenantOf` has for each user after it gave no answer in time. */
const HURRIED_MS = 500

export class TenantOfUsers {
  readonly #keyring: MasterKeyring
  #limitMs = TIME_LIMIT_MS

  constructor(keyring: MasterKeyring) {
    this.#keyring = keyring
  }

  /** @throws like `tenantOfUser` */
  async get(userId: string): Promise<string | null> {
    const limitMs = this.#limitMs
    const begun = performance.now()
    try {
      return await tenantOfUser(this.#keyring, userId, limitMs)
    } catch (error) {
      if (performance.now() - begun >= limitMs) this.#limitMs = HURRIED_MS
      throw error
    }
  }
}
