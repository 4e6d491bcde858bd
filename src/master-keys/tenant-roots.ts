/**
 * Which master keys may open the rows of a tenant's own key, and which one wraps them.
 *
 * These are few on purpose. Whoever can use a key that opens a tenant's rows, and writes to the database, can plant a key of the tenant's: so
 * one customer's key opens no row of another's, and a tenant with a root of its own is out of reach of former primaries.
 */
import { invalidArgument, quoted } from '../errors.js'
import { type KeyRecord, tenantIdOf } from '../table.js'
import { assertMasterKey, hasPrimary, keyringOf, type MasterKeyring } from './keyring.js'
import type { MasterKey } from './master-key.js'
import { shareService } from './service-calls.js'
import {
  answered,
  parseTenantKekId,
  type TenantKey,
  type TenantKeyRef,
  unknownMasterKey,
} from './tenant-keys.js'
import { isStray, strayVersion } from './tenant-versions.js'

/** The roots of one tenant. */
export interface RootsOfTenant {
  /** It wraps the tenant's key. */
  readonly primary: MasterKey
  /** They may open its rows. */
  readonly all: readonly MasterKey[]
  /** Those that `tenantRoot` gives, the primary first. Empty: the tenant has none, and the application's keys are its roots. */
  readonly own: readonly MasterKey[]
}

/**
 * The tenant's own roots and the application's primary; if it has none, all keys of the application. Does not call any of them.
 *
 * @throws what the keyring's `tenantRoot` throws
 */
export async function rootsOf(keyring: MasterKeyring, tenantId: string): Promise<RootsOfTenant> {
  const own = await ownRootsOf(keyring, tenantId)
  const [primary] = own
  return primary === undefined
    ? { primary: keyring.primary, all: keyring.all, own }
    : { primary, all: [...own, keyring.primary], own }
}

/** The root that a row of a tenant's own key names; null if it may not open the row. */
export function findRoot({ all }: RootsOfTenant, { kekId }: Pick<KeyRecord, 'kekId'>): MasterKey | null {
  return all.find(({ id }) => id === kekId) ?? null
}

/** The root that opens a row of a tenant's own key. @throws like {@link rootsOf} */
export async function rootOf(keyring: MasterKeyring, record: KeyRecord): Promise<MasterKey | null> {
  return findRoot(await rootsOf(keyring, tenantIdOf(record.userId) ?? ''), record)
}

/** Gives an open version of a tenant's key. @throws if there is none, or if the tenant's root does not open it */
export type FindTenantKey = (ref: TenantKeyRef) => TenantKey | Promise<TenantKey>

/** Gives the root that a tenant's own row names; null if it is none of those that may open it. @throws what the keyring's `tenantRoot` throws */
export type FindRoot = (record: KeyRecord) => Promise<MasterKey | null>

/**
 * The key under which a row is wrapped, which is what `unwrapDataKey` needs.
 *
 * @returns null if it was not given; no promise unless a tenant's key has to be found, or its root asked for
 * @throws what `findTenantKey` and `findRoot` throw
 */
export function kekOf(
  keyring: MasterKeyring,
  record: KeyRecord,
  findTenantKey: FindTenantKey,
  findRoot: FindRoot = (row) => rootOf(keyring, row),
): MasterKey | null | Promise<MasterKey | null> {
  // A tenant's row is under a root, never under a tenant's key.
  if (tenantIdOf(record.userId) !== null) return findRoot(record)
  const ref = parseTenantKekId(record.kekId)
  return ref === null ? keyring.find(record.kekId ?? '') : findTenantKey(ref)
}

/** The root under which a tenant's key belongs: the tenant's own, else the primary. */
export async function rootToWrap(keyring: MasterKeyring, tenantId: string): Promise<MasterKey> {
  return (await rootsOf(keyring, tenantId)).primary
}

/** Whether a keyring says which roots tenants have. If not, a previous key may be a customer's that an operator has given to a command. */
export function knowsTenants({ tenantOf, tenantRoot }: MasterKeyring): boolean {
  return tenantOf !== null || tenantRoot !== null
}

/**
 * The root that wraps a tenant's next version: its own, else the primary. A keyring that says nothing of tenants leaves the tenant where it is: the
 * root of the version before it wraps this one too. Nothing goes under the primary while the root of the version before is unknown: the
 * keyring then lacks a customer's key, and their new users must not be out of their hands.
 *
 * @param versions the tenant's live rows, ascending; one at least
 * @throws ERR_UNKNOWN_MASTER_KEY · ERR_CONFLICT (the newest may be planted, and the next one would be in the same hands)
 */
export async function rootForNext(
  keyring: MasterKeyring,
  versions: readonly KeyRecord[],
): Promise<MasterKey> {
  const before = versions.at(-1) as KeyRecord
  const roots = await rootsOf(keyring, tenantIdOf(before.userId) ?? '')
  if (roots.own.length > 0) return roots.primary
  const known = findRoot(roots, before)
  if (known === null) throw unknownMasterKey(before, before.kekId ?? '')
  if (knowsTenants(keyring)) return roots.primary
  if (isStray(before, versions, null)) throw strayVersion(before)
  return known
}

/** What the application's `tenantRoot` gives, the primary first; empty if there is no such function, or it gives null. */
async function ownRootsOf(keyring: MasterKeyring, tenantId: string): Promise<readonly MasterKey[]> {
  const { tenantRoot } = keyring
  if (tenantRoot === null) return []
  const what = `tenantRoot of tenant ${quoted(tenantId)}`
  const root = await answered(() => tenantRoot(tenantId), what)
  if (root === undefined)
    throw invalidArgument(
      `${what} must be a master key, a keyring of the tenant's, or null if it has none of its own: does the function return?`,
    )
  if (root === null) return []
  const own = hasPrimary(root) ? keysOf(what, root) : [root]
  for (const key of own) {
    assertMasterKey(what, key)
    shareService(key, firstOf(keyring, key))
  }
  return own
}

function keysOf(what: string, keyring: MasterKeyring): readonly MasterKey[] {
  const { all, tenantOf, tenantRoot } = keyringOf(keyring)
  if (tenantOf !== null || tenantRoot !== null)
    throw invalidArgument(
      `${what} must be a keyring without tenantOf and tenantRoot: a tenant has no tenants`,
    )
  return all
}

/** How many roots are remembered for each keyring. */
const MOST_ROOTS = 10_000

const known = new WeakMap<MasterKeyring, Map<string, MasterKey>>()

/** The first object that this root had: `tenantRoot` may make one each time, and they are all one service. */
function firstOf(keyring: MasterKeyring, root: MasterKey): MasterKey {
  const roots = known.get(keyring) ?? new Map<string, MasterKey>()
  known.set(keyring, roots)
  const first = roots.get(root.id) ?? keyring.find(root.id) ?? root
  // The one that was not needed for longest goes.
  roots.delete(root.id)
  roots.set(root.id, first)
  const [oldest] = roots.keys()
  if (roots.size > MOST_ROOTS && oldest !== undefined) roots.delete(oldest)
  return first
}
