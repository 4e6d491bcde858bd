/** Which users have cached keys under the keys of which tenants. */
import type { KnownUser } from './known-user.js'

export class UsersOfTenants {
  /** By the user id of the tenant's own rows. */
  readonly #users = new Map<string, Set<string>>()

  add(tenant: string, user: KnownUser): void {
    user.tenants ??= new Set()
    user.tenants.add(tenant)
    const users = this.#users.get(tenant)
    if (users === undefined) this.#users.set(tenant, new Set([user.userId]))
    else users.add(user.userId)
  }

  remove(user: KnownUser): void {
    for (const tenant of user.tenants ?? []) {
      const users = this.#users.get(tenant)
      users?.delete(user.userId)
      if (users?.size === 0) this.#users.delete(tenant)
    }
    user.tenants = null
  }

  of(tenant: string): readonly string[] {
    return [...(this.#users.get(tenant) ?? [])]
  }
}
