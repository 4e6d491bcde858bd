/** What tenants' own rows tell `EnvelopeCrypto.open`: whether the keyring is the one of the store. Asks no root. */
import type { KeyStore } from '../store.js'
import { isTombstone, type KeyRecord, type KeyRef, TENANT_USER_ID_PREFIX, tenantIdOf } from '../table.js'
import type { MasterKeyring } from './keyring.js'
import { knowsTenants, rootsOf } from './tenant-roots.js'

/** Rows read first: most stores have no tenants, and these are then users'. */
const FEW_ROWS = 4
/** Rows read at once: however many tenants there are, the first tell. */
const ROWS = 100
/** Rows read at once behind so many tombstones. */
const MANY_ROWS = 1000
/** Further pages are read as long as there are only tombstones: behind about 8,000 of them nobody looks. */
const MAX_PAGES = 10
/** `tenantRoot` is asked for the first tenants, so many at the same time. It may query a database. */
const MOST_ASKED = 100
const ASKED_AT_ONCE = 16

/** What the keys of users show already. */
export interface UsersCheck {
  /** Some are under the primary, so it is the store's. */
  readonly areUnderPrimary: boolean
  /** Some are under a key of the keyring. */
  readonly areKnown: boolean
}

export interface TenantsCheck {
  /** Whether the store has any tenants, as far as it was looked at. */
  readonly areThere: boolean
  /** Live rows under the primary. What is under a previous key is not asked for at `open`. */
  readonly underPrimary: readonly KeyRecord[]
  /** KEK ids of roots that the keyring lacks, and that show that its primary is the wrong one. */
  readonly foreign: readonly string[]
  /** KEK ids of other roots that it lacks: each is a matter of its own tenant's. */
  readonly missing: readonly string[]
}

/**
 * A root that the keyring lacks is a matter of its own tenant's. But tenants that have no root of their own, by the application, should be under
 * one of its keys. Where no key is under the primary, and several of them are under one that it lacks, the primary is the wrong one. If it is
 * one tenant, it is their own root that is lacking, provided that anything else shows that the keyring is the store's.
 */
export async function checkTenants(
  store: KeyStore,
  keyring: MasterKeyring,
  users: UsersCheck,
): Promise<TenantsCheck> {
  const rows = await firstRows(store)
  // A tombstone may be from long before, and under any key.
  const live = rows.filter((row) => !isTombstone(row) && row.kekId !== null)
  const underPrimary = live.filter(({ kekId }) => kekId === keyring.primary.id)
  const isRight = users.areUnderPrimary || underPrimary.length > 0
  const lacking = isRight ? NONE_LACKING : await lackingRoots(keyring, live, users.areKnown)
  return { areThere: rows.length > 0, underPrimary, ...lacking }
}

const NONE_LACKING = { foreign: [], missing: [] }

/** A few of tenants' rows; if there are more, those up to the first page that has a live one. */
async function firstRows(store: KeyStore): Promise<readonly KeyRecord[]> {
  const rows: KeyRecord[] = []
  let after: KeyRef = { userId: TENANT_USER_ID_PREFIX, version: 1 }
  for (let page = 0; page <= MAX_PAGES; page++) {
    const areTombstones = rows.every(isTombstone)
    if (rows.length > FEW_ROWS && !areTombstones) break
    const limit = page === 0 ? FEW_ROWS : rows.length > ROWS ? MANY_ROWS : ROWS
    const listed = await store.list({ after, limit, onUnreadable: () => undefined })
    const ofTenants = listed.filter(({ userId }) => tenantIdOf(userId) !== null)
    rows.push(...ofTenants)
    const last = ofTenants.at(-1)
    // A page may be shorter than its limit, and not be the last one.
    if (last === undefined || ofTenants.length < listed.length) break
    after = last
  }
  return rows
}

/** @param rows live ones, none of them under the primary */
async function lackingRoots(
  keyring: MasterKeyring,
  rows: readonly KeyRecord[],
  areUsersKnown: boolean,
): Promise<Pick<TenantsCheck, 'foreign' | 'missing'>> {
  const isUnknown = ({ kekId }: KeyRecord) => keyring.find(kekId ?? '') === null
  // Versions of a tenant's key under one root count as one.
  const unknown = new Map(rows.filter(isUnknown).map((row) => [`${row.userId} ${row.kekId}`, row]))
  const areKnown = areUsersKnown || !rows.every(isUnknown)
  if (!knowsTenants(keyring))
    return areKnown ? NONE_LACKING : { foreign: idsOf(unknown.values()), missing: [] }
  const answers = await askRoots(keyring, [...unknown.values()].slice(0, MOST_ASKED))
  const isAny = areKnown || answers.some(({ root }) => root === 'this')
  const lacking = answers.filter(({ root }) => root === 'none').map(({ row }) => row)
  const isForeign = ({ kekId }: KeyRecord) => lacking.filter((other) => other.kekId === kekId).length > 1
  const others = isAny ? [] : answers.filter(({ root }) => root === 'another').map(({ row }) => row)
  const foreign = idsOf([...(isAny ? lacking.filter(isForeign) : lacking), ...others])
  return { foreign, missing: idsOf(lacking).filter((kekId) => !foreign.includes(kekId)) }
}

function idsOf(rows: Iterable<KeyRecord>): readonly string[] {
  return [...new Set([...rows].map(({ kekId }) => kekId ?? ''))]
}

/** What `tenantRoot` says of a row that is under no key of the application: that this is the tenant's root, or another, or none; or it failed. */
interface Answer {
  readonly row: KeyRecord
  readonly root: 'this' | 'another' | 'none' | 'failed'
}

async function askRoots(keyring: MasterKeyring, rows: readonly KeyRecord[]): Promise<readonly Answer[]> {
  const answers: Answer[] = []
  const ask = async (row: KeyRecord): Promise<Answer> => {
    // What it throws is a matter of its tenant's.
    const roots = await rootsOf(keyring, tenantIdOf(row.userId) ?? '').catch(() => null)
    if (roots === null) return { row, root: 'failed' }
    if (roots.own.length === 0) return { row, root: 'none' }
    return { row, root: roots.own.some(({ id }) => id === row.kekId) ? 'this' : 'another' }
  }
  for (let i = 0; i < rows.length; i += ASKED_AT_ONCE)
    answers.push(...(await Promise.all(rows.slice(i, i + ASKED_AT_ONCE).map(ask))))
  return answers
}
