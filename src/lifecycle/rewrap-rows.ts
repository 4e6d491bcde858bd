/** Which rows a rewrap looks at, and under which key each of them belongs. */
import { KeystoreError, printable, quoted } from '../errors.js'
import type { Format } from '../format/formats.js'
import { describeRef, primaryKekId } from '../master-keys/key-wrap.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import type { MasterKey } from '../master-keys/master-key.js'
import { parseTenantKekId, type TenantKeyRef, tenantKekId } from '../master-keys/tenant-keys.js'
import { knowsTenants } from '../master-keys/tenant-roots.js'
import { assertTrusted, isStray, strayVersion, versionOf } from '../master-keys/tenant-versions.js'
import { type CensusRow, type KeyPage, type KeyStore, MANY_TENANTS, type UnreadableRow } from '../store.js'
import {
  isTenantKekId,
  isTenantRow,
  isTombstone,
  type KeyIdentity,
  type KeyRecord,
  RESERVED_USER_ID_PREFIX,
  tenantIdOf,
} from '../table.js'
import { liveCount } from './census.js'
import { DEFAULT_BATCH_SIZE, groupPagesByUser, type LongWorkOptions, pagesOf } from './long-work.js'
import type { SeenTenants } from './seen-tenants.js'
import { type Crowd, type RowRanges, sharedPagesOf } from './shared-pages.js'
import type { TenantKeys } from './tenant-keys.js'
import type { TenantOfUsers } from './tenant-of.js'

/** So many users of each tenant are asked about at first. */
export const SAMPLED_USERS = 100

export interface RewrapRows extends LongWorkOptions {
  readonly store: KeyStore
  readonly keyring: MasterKeyring
  readonly tenants: TenantKeys
  readonly tenantOfUsers: TenantOfUsers
  readonly format: Format
  readonly dryRun: boolean
  readonly allUsers: boolean
  /** Whether tenants' own rows are moved, where the keyring says nothing of tenants. */
  readonly moveTenants: boolean
  /** Of this pass. */
  readonly seen: SeenTenants
  /** Called for a tenant of whose users only the first were asked about. */
  readonly onSampled: () => void
  readonly onUnreadable: (row: UnreadableRow) => void
  readonly ranges: RowRanges
  readonly crowd: Crowd
  /** Called where it goes on and finds no row. */
  readonly onIdle?: () => void
}

/** The key under which a row belongs. */
export interface RewrapTarget {
  readonly kek: MasterKey
  readonly kekId: string
  readonly format: Format
  /** The row of the tenant's key that the user leaves, or else joins: see {@link WrapChange}. */
  readonly whileLive?: KeyIdentity
}

/**
 * The live rows that may not be where they belong, in batches. Rows that are in their place for certain are not read: those under the primary
 * if there are no tenants, and those under the newest version of a tenant's key whose first users belong to the tenant.
 *
 * @param counted a census: it names the KEK ids that there are
 */
export async function* rowsToRewrap(
  job: RewrapRows,
  counted: readonly CensusRow[],
): AsyncGenerator<readonly KeyRecord[], void, undefined> {
  const areTenants = job.keyring.tenantOf !== null || hasTenants(counted)
  if (areTenants) yield* inBatches(tenantPages(job), job)
  for (const kekId of kekIdsOfUsers(job, counted)) {
    const count = liveCount(counted, (row) => row.kekId === kekId && row.ofTenants !== true)
    const { store, onUnreadable, ranges, crowd, onIdle, ...options } = job
    yield* sharedPagesOf(store, options, { ...ranges, kekId, count, crowd, onIdle }, onUnreadable)
  }
  if (areTenants) yield* pagesOfLost(job, counted)
}

/**
 * The live rows that are not under the primary, found past the index on KEK ids: among them those whose KEK id is no text, of which a census
 * shows something, but under which no row can be looked for. Goes over all rows, so it is for the end, if counts show that there are any.
 */
export function rowsNotUnderPrimary(job: RewrapRows): AsyncGenerator<readonly KeyRecord[], void, undefined> {
  return pages(job, { notKekId: primaryKekId(job.keyring, job.format) })
}

/** The KEK ids, without those of tenants' keys, under which users may be that belong elsewhere. */
export function kekIdsOfUsers(
  { keyring, format }: Pick<RewrapRows, 'keyring' | 'format'>,
  counted: readonly CensusRow[],
): ReadonlySet<string | null> {
  const ids = new Set<string | null>()
  for (const { kekId, shredded, ofTenants } of counted)
    if (!shredded && ofTenants !== true && kekId !== MANY_TENANTS) ids.add(kekId)
  if (keyring.tenantOf === null) ids.delete(primaryKekId(keyring, format))
  return ids
}

/** Tenants' own rows, each tenant's together, then their users who may be elsewhere than they belong. */
async function* tenantPages(job: RewrapRows): AsyncGenerator<readonly KeyRecord[], void, undefined> {
  for await (const tenants of tenantsOf(job.store, job, job.onUnreadable)) {
    await job.seen.add(tenants)
    for (const versions of tenants) {
      if (versions.some(isTombstone) || !isKnown(job.keyring, versions)) continue
      yield versions
      yield* pagesOfUsers(job, versions)
    }
  }
}

/** Users under tenants' keys that are not there: each has a reason why it cannot be moved. They are looked for if the counts show that there are any. */
async function* pagesOfLost(
  job: RewrapRows,
  counted: readonly CensusRow[],
): AsyncGenerator<readonly KeyRecord[], void, undefined> {
  const total = liveCount(counted, ({ kekId, ofTenants }) => kekId === MANY_TENANTS && ofTenants !== true)
  // The census is older than the counts: users who were minted meanwhile are in these alone.
  if (total <= job.seen.users) return
  for await (const page of pages(job, { notKekId: primaryKekId(job.keyring, job.format) })) {
    const lost = page.filter((row) => !isTenantRow(row) && job.seen.isLost(row))
    if (lost.length > 0) yield lost
  }
}

/** All tenants, each as the versions of its key. They stand in the order of `list` before all users. */
export async function* tenantsOf(
  store: KeyStore,
  options: LongWorkOptions,
  onUnreadable: (row: UnreadableRow) => void,
): AsyncGenerator<readonly (readonly KeyRecord[])[], void, undefined> {
  const from = { after: { userId: RESERVED_USER_ID_PREFIX, version: 0 } }
  // The last page has users too, who are others' to report.
  const onUnreadableTenant = (row: UnreadableRow) => isTenantRow(row) && onUnreadable(row)
  for await (const users of groupPagesByUser(pagesOf(store, options, from, onUnreadableTenant), options)) {
    const tenants = users.filter(([row]) => row !== undefined && isTenantRow(row))
    if (tenants.length > 0) yield tenants
    if (tenants.length < users.length) return
  }
}

/** Whether a tenant's key can be opened by what was given. A keyring that says nothing of tenants need not know their roots. */
function isKnown(keyring: MasterKeyring, versions: readonly KeyRecord[]): boolean {
  return (
    knowsTenants(keyring) || versions.every(({ kekId }) => kekId !== null && keyring.find(kekId) !== null)
  )
}

async function* pagesOfUsers(
  job: RewrapRows,
  versions: readonly KeyRecord[],
): AsyncGenerator<readonly KeyRecord[], void, undefined> {
  const refs = versions.map((row) => ({ tenantId: tenantIdOf(row.userId) ?? '', version: row.version }))
  const newest = refs.pop()
  for (const earlier of refs) yield* pages(job, { kekId: tenantKekId(earlier) })
  if (newest !== undefined && job.keyring.tenantOf !== null && !(await areInPlace(job, newest)))
    yield* pages(job, { kekId: tenantKekId(newest) })
}

/** Whether the first users under a tenant's key belong to the tenant, by the application. If one of them does not, all are looked at. */
async function areInPlace(
  { store, tenantOfUsers, allUsers, onSampled }: RewrapRows,
  ref: TenantKeyRef,
): Promise<boolean> {
  if (allUsers) return false
  const kekId = tenantKekId(ref)
  const users = await store.list({ kekId, limit: SAMPLED_USERS + 1, onUnreadable: () => undefined })
  for (const { userId } of users.slice(0, SAMPLED_USERS)) {
    const tenantId = await tenantOfUsers.get(userId).catch(() => null)
    if (tenantId !== ref.tenantId) return false
  }
  if (users.length > SAMPLED_USERS) onSampled()
  return true
}

function pages(
  { store, onUnreadable, ...options }: RewrapRows,
  filter: Pick<KeyPage, 'kekId' | 'notKekId'>,
): AsyncGenerator<readonly KeyRecord[], void, undefined> {
  return pagesOf(store, options, filter, onUnreadable)
}

/**
 * The same rows in batches that are not small, unless it is the last one: many tenants may have few users each. All rows of a tenant's own key
 * are in one, since they are to be written together.
 */
async function* inBatches(
  pages: AsyncGenerator<readonly KeyRecord[], void, undefined>,
  { batchSize = DEFAULT_BATCH_SIZE }: LongWorkOptions,
): AsyncGenerator<readonly KeyRecord[], void, undefined> {
  let batch: KeyRecord[] = []
  for await (const page of pages) {
    const isTenant = page[0] !== undefined && isTenantRow(page[0])
    if (isTenant && batch.length + page.length > batchSize) {
      if (batch.length > 0) yield batch
      batch = []
    }
    batch.push(...page)
    if (isTenant && batch.length > batchSize) {
      yield batch
      batch = []
    }
    for (; batch.length >= batchSize; batch = batch.slice(batchSize)) yield batch.slice(0, batchSize)
  }
  if (batch.length > 0) yield batch
}

/**
 * Where a row belongs, or null if it is there.
 *
 * @param batch the rows among which it came: those of a tenant's own key are all in it
 * @throws ERR_CONFLICT (`tenantOf` names another tenant than the row; a tenant's key may be planted) · ERR_KEY_NOT_FOUND (a version of a tenant's
 *   key is missing) · what finding a tenant's key throws
 */
export async function targetOf(
  job: RewrapRows,
  record: KeyRecord,
  batch: readonly KeyRecord[],
): Promise<RewrapTarget | null> {
  const target = await keyOf(job, record)
  if (target === null || target.kekId === record.kekId) return null
  const tenantId = tenantIdOf(record.userId)
  if (tenantId === null) return target
  const versions = batch.filter(({ userId }) => userId === record.userId)
  if (isStray(record, versions, await job.tenants.namedRoots(tenantId), target.kekId))
    throw strayVersion(record)
  job.seen.assertComplete(tenantId)
  return target
}

/** @returns null if the row stays where it is */
async function keyOf(job: RewrapRows, record: KeyRecord): Promise<RewrapTarget | null> {
  const { keyring, format } = job
  const ownTenantId = tenantIdOf(record.userId)
  if (ownTenantId !== null) {
    const root = await namedRoot(job, ownTenantId)
    return root === null ? null : inV3(root)
  }
  const under = parseTenantKekId(record.kekId)
  const tenantId =
    keyring.tenantOf === null ? (under?.tenantId ?? null) : await job.tenantOfUsers.get(record.userId)
  if (under !== null && tenantId !== null && tenantId !== under.tenantId) throw otherTenant(record, tenantId)
  if (tenantId !== null) {
    const current = await job.tenants.current(tenantId, !job.dryRun)
    if (current.kekId === record.kekId) return null
    await assertMayJoin(job, record, tenantId, current.versions)
    const { userId, version, createdAt } = current.row
    return { ...inV3(await current.open()), whileLive: { userId, version, createdAt } }
  }
  const primary = { kek: keyring.primary, kekId: primaryKekId(keyring, format), format }
  return under === null ? primary : { ...primary, whileLive: (await job.tenants.find(under)).row }
}

/**
 * The root under which a tenant's key belongs. Null: the keyring says nothing of tenants. A previous key may then be a customer's, and nobody's
 * key is taken out of their hands, unless the caller says that all are the primary's (`moveTenants`).
 */
async function namedRoot(
  { keyring, tenants, moveTenants }: RewrapRows,
  tenantId: string,
): Promise<MasterKey | null> {
  if (knowsTenants(keyring) || moveTenants) return (await tenants.roots(tenantId)).primary
  return null
}

/** @param versions as they stand now @throws ERR_CONFLICT · ERR_KEY_NOT_FOUND (the version that the user is under is not among them any more) */
async function assertMayJoin(
  job: RewrapRows,
  record: KeyRecord,
  tenantId: string,
  versions: readonly KeyRecord[],
): Promise<void> {
  const { keyring, tenants } = job
  const under = parseTenantKekId(record.kekId)
  const userRootId =
    under === null
      ? (keyring.find(record.kekId ?? '')?.id ?? null)
      : versionOf(versions, under, (await tenants.find(under)).row.createdAt).kekId
  const root = await namedRoot(job, tenantId)
  assertTrusted(versions, userRootId, await tenants.namedRoots(tenantId), root?.id ?? null)
}

function inV3(kek: MasterKey): RewrapTarget {
  return { kek, kekId: kek.id, format: 'v3' }
}

/** Whether a census has any tenant. */
export function hasTenants(counted: readonly CensusRow[]): boolean {
  return counted.some(({ kekId, ofTenants }) => ofTenants === true || isTenantKekId(kekId))
}

/** The row may be planted, so nothing moves it. */
function otherTenant(record: KeyRecord, tenantId: string): KeystoreError {
  return new KeystoreError(
    'ERR_CONFLICT',
    `The key of ${describeRef(record)} is under ${printable(record.kekId ?? '')}, and tenantOf names tenant ${quoted(tenantId)}: no key is ` +
      'moved from one tenant to another. If the user changed tenants, mint a new user there and encrypt anew',
  )
}
