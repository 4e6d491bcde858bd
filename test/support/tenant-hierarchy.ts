/** Tenants: roots in key services that count and can deny, users of tenants, and the check that each row is under its tenant's key. */
import { randomBytes } from 'node:crypto'
import { expect } from 'vitest'
import {
  type KeyRecord,
  type KeyStore,
  localMasterKey,
  type MasterKey,
  MasterKeyError,
  type MasterKeyring,
  masterKeyring,
} from '../../src/index.js'
import { unwrapDataKey } from '../../src/master-keys/key-wrap.js'
import { TenantKey } from '../../src/master-keys/tenant-keys.js'
import { kekOf } from '../../src/master-keys/tenant-roots.js'
import { isTombstone, tenantIdOf, tenantUserId } from '../../src/table.js'
import { rowsOf } from './rows.js'
import { tenantOf } from './tenants.js'

/** A root in a key service. */
export interface Root extends MasterKey {
  wraps: number
  unwraps: number
  /** The ids of those it was asked for, in order. */
  readonly askedFor: string[]
  /** Whether it refuses all calls. */
  denies: boolean
}

export function root(id: string, inner = localMasterKey(randomBytes(32))): Root {
  const ask = (key: Root, userId: string) => {
    key.askedFor.push(userId)
    if (key.denies) throw new MasterKeyError('ERR_MASTER_KEY', `${id} denies`, { reason: 'denied' })
  }
  return {
    id,
    wraps: 0,
    unwraps: 0,
    askedFor: [],
    denies: false,
    async wrap(dataKey, aad, { userId }) {
      ask(this, userId)
      this.wraps += 1
      return inner.wrap(dataKey, aad)
    },
    async unwrap(wrapped, aad, { userId }) {
      ask(this, userId)
      this.unwraps += 1
      return inner.unwrap(wrapped, aad)
    },
  }
}

/** How often roots were asked since the last call of this function. */
export function callsSince(...roots: readonly Root[]): { wraps: number; unwraps: number }[] {
  return roots.map((key) => {
    const { wraps, unwraps } = key
    key.wraps = 0
    key.unwraps = 0
    key.askedFor.length = 0
    return { wraps, unwraps }
  })
}

/** `t0/user-000000`, `t1/user-000001` …, in turns for so many tenants. */
export function usersOfTenants(users: number, tenants: number): string[] {
  return Array.from({ length: users }, (_, i) => `t${i % tenants}/user-${String(i).padStart(6, '0')}`)
}

/**
 * Opens every live row with exactly the key that it names, and expects users to be under the key of their tenant, or under the primary.
 *
 * @param expected the tenant by whose key a user is to be wrapped
 */
export async function expectInPlace(
  store: KeyStore,
  keyring: MasterKeyring,
  expected: (userId: string) => string | null = tenantOf,
): Promise<void> {
  const rows = await rowsOf(store)
  const byRef = new Map(rows.map((row) => [`${row.version} ${row.userId}`, row]))
  const dead = new Set(rows.filter(isTombstone).map(({ userId }) => userId))
  const find = async ({ tenantId, version }: { tenantId: string; version: number }) => {
    const row = byRef.get(`${version} ${tenantUserId(tenantId)}`) as KeyRecord
    const kek = await kekOf(keyring, row, find)
    return new TenantKey({ tenantId, version }, await unwrapDataKey(keyring, row, ['v3'], kek))
  }
  for (const row of rows) {
    const tenantId = tenantIdOf(row.userId) === null ? expected(row.userId) : null
    if (isTombstone(row) || (tenantId !== null && dead.has(tenantUserId(tenantId)))) continue
    if (tenantIdOf(row.userId) === null)
      expect(row.kekId, row.userId).toMatch(
        tenantId === null ? /^(?!tenant:)/ : new RegExp(`^tenant:\\d+:${tenantId}$`),
      )
    const kek = await kekOf(keyring, row, find)
    expect((await unwrapDataKey(keyring, row, ['v3', 'v2'], kek)).length).toBe(32)
  }
}

/** A keyring with the tenants of {@link tenantOf}. */
export function withTenants(
  primary: MasterKey,
  options: Partial<Parameters<typeof masterKeyring>[0]> = {},
): MasterKeyring {
  return masterKeyring({ primary, tenantOf, ...options })
}

/** The tenant of a user in child processes with TENANTS=count: see test/children/test-keyring.mjs. */
export function tenantByLastCharacter(userId: string, count: number): string {
  return `t${userId.charCodeAt(userId.length - 1) % count}`
}
