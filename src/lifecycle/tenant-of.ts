/** The application's `tenantOf` in a long operation, which asks it about very many users. */
import type { MasterKeyring } from '../master-keys/keyring.js'
import { TIME_LIMIT_MS, tenantOfUser } from '../master-keys/tenant-keys.js'

/** The time in milliseconds that `tenantOf` has after it gave no answer in time, until it answers again. */
const HURRIED_MS = 100

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
      const tenantId = await tenantOfUser(this.#keyring, userId, limitMs)
      this.#limitMs = TIME_LIMIT_MS
      return tenantId
    } catch (error) {
      if (performance.now() - begun >= limitMs) this.#limitMs = HURRIED_MS
      throw error
    }
  }
}
