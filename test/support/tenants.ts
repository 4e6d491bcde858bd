/** Users `TENANT/NAME`, a keyring whose tenants have key services for roots, and tokens of many of their users. */
import { type KeyStore, type MasterKey, type MasterKeyring, masterKeyring } from '../../src/index.js'
import { tenantUserId } from '../../src/table.js'
import { type KeyService, keyService } from './key-service.js'
import { rowsOf, rowsOfUser } from './rows.js'

/** `acme/alice` belongs to `acme`, and `alice` to nobody. */
export const tenantOf = (userId: string): string | null =>
  userId.includes('/') ? (userId.split('/')[0] ?? null) : null

/** Users of a tenant. */
export const usersOf = (tenantId: string, count: number) =>
  Array.from({ length: count }, (_, index) => `${tenantId}/${index}`)

export interface Roots {
  readonly keyring: MasterKeyring
  readonly primary: KeyService
  /** The root of a tenant of its own. */
  of(tenantId: string): KeyService
  /** From now on `tenantRoot` gives this for a tenant, and the root that it had before as a previous one. */
  moveTo(tenantId: string, root: MasterKey): void
  /** Calls of all of them since the last `reset`. */
  calls(): { readonly wraps: number; readonly unwraps: number }
  reset(): void
}

/** @param own the tenants with roots of their own; the primary is the root of all others */
export function tenantRoots(own: readonly string[] = [], previous: readonly MasterKey[] = []): Roots {
  const primary = keyService({ id: 'primary', timeLimitMs: 300 })
  const services = new Map(own.map((id) => [id, keyService({ id: `root-of-${id}`, timeLimitMs: 300 })]))
  const all = [primary, ...services.values()]
  const moved = new Map<string, MasterKeyring>()
  return {
    primary,
    keyring: masterKeyring({
      primary: primary.masterKey,
      previous,
      tenantOf,
      tenantRoot: (tenantId) => moved.get(tenantId) ?? services.get(tenantId)?.masterKey ?? null,
    }),
    moveTo(tenantId, root) {
      moved.set(tenantId, masterKeyring({ primary: root, previous: [this.of(tenantId).masterKey] }))
    },
    of(tenantId) {
      const service = services.get(tenantId)
      if (service === undefined) throw new Error(`${tenantId} has no root of its own`)
      return service
    },
    calls: () => ({
      wraps: all.reduce((sum, { calls }) => sum + calls.wrap, 0),
      unwraps: all.reduce((sum, { calls }) => sum + calls.unwrap, 0),
    }),
    reset() {
      for (const service of all) service.reset()
    },
  }
}

/** The rows of a tenant's own key. */
export const tenantRowsOf = (store: KeyStore, tenantId: string) => rowsOfUser(store, tenantUserId(tenantId))

/** By user id: under which KEK each live row is. */
export async function keksOf(store: KeyStore): Promise<Record<string, string | null>> {
  const rows = (await rowsOf(store)).filter(({ shreddedAt }) => shreddedAt === null)
  return Object.fromEntries(rows.map(({ userId, kekId }) => [userId, kekId]))
}
