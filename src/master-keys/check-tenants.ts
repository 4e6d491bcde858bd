/** What tenants' own rows tell `EnvelopeCrypto.open`: whether the keyring is the one of the store. Asks no root. */
import type { KeyStore } from '../store.js'
import { isTombstone, type KeyRecord, type KeyRef, TENANT_USER_ID_PREFIX, tenantIdOf } from '../table.js'
import type { MasterKeyring } from './keyring.js'
import { ownRootOf } from './tenant-keys.js'

/** Rows read first: most stores have no tenants, and these are then users'. */
const FEW_ROWS = 4
/** Rows read at once: however many tenants there are, the first tell. */
const ROWS = 100
/** Further pages are read as long as there are only tombstones. */
const MAX_PAGES = 10
/** For so many KEK ids `tenantRoot` is asked, all at the same time, with one tenant for each. It may query a database. */
const MOST_ASKED = 16

export interface TenantsCheck {
  /** Whether the store has any tenants, as far as it was looked at. */
  readonly areThere: boolean
  /** Live rows under the primary. A previous key may be a customer's, which is for nobody but their own users to wait for. */
  readonly underPrimary: readonly KeyRecord[]
  /** KEK ids that are neither of the keyring nor of a tenant's own root, where nothing shows that the keyring is right: it is another store's. */
  readonly foreign: readonly string[]
}

/**
 * A root that the keyring lacks is a matter of its own tenant's: where anything is under a key of the keyring, or all tenants have roots of their
 * own that `tenantRoot` gives, the store opens. Else what should be under the primary is under another key.
 *
 * @param isRight whether keys of users show already that the keyring is the store's
 */
export async function checkTenants(
  store: KeyStore,
  keyring: MasterKeyring,
  isRight: boolean,
): Promise<TenantsCheck> {
  const rows = await firstRows(store)
  const isKnown = ({ kekId }: KeyRecord) => keyring.find(kekId ?? '') !== null
  const live = rows.filter((row) => !isTombstone(row) && row.kekId !== null)
  const areRight = isRight || rows.some(isKnown)
  const foreign = areRight ? [] : await foreignIds(keyring, live)
  return {
    areThere: rows.length > 0,
    underPrimary: live.filter(({ kekId }) => kekId === keyring.primary.id),
    foreign,
  }
}

/** A few of tenants' rows; if there are more, those up to the first page that has a live one. */
async function firstRows(store: KeyStore): Promise<readonly KeyRecord[]> {
  const rows: KeyRecord[] = []
  let after: KeyRef = { userId: TENANT_USER_ID_PREFIX, version: 1 }
  for (let page = 0; page <= MAX_PAGES; page++) {
    const limit = page === 0 ? FEW_ROWS : ROWS
    const listed = await store.list({ after, limit, onUnreadable: () => undefined })
    const ofTenants = listed.filter(({ userId }) => tenantIdOf(userId) !== null)
    rows.push(...ofTenants)
    const last = ofTenants.at(-1)
    if (last === undefined || ofTenants.length < limit) break
    if (page > 0 && !ofTenants.every(isTombstone)) break
    after = last
  }
  return rows
}

/** @param rows live ones, none of them under a key of the keyring */
async function foreignIds(keyring: MasterKeyring, rows: readonly KeyRecord[]): Promise<readonly string[]> {
  const byKek = new Map<string, string[]>()
  for (const { userId, kekId } of rows) {
    const tenantIds = byKek.get(kekId ?? '') ?? []
    byKek.set(kekId ?? '', [...tenantIds, tenantIdOf(userId) ?? ''])
  }
  if (keyring.tenantRoot === null) return [...byKek.keys()]
  // What wraps many tenants' keys is most likely the primary of the application.
  const most = [...byKek].sort(([, a], [, b]) => b.length - a.length).slice(0, MOST_ASKED)
  const answers = await Promise.all(
    most.map(async ([kekId, [tenantId = '']]) => {
      // What it throws is a matter of its tenant's.
      const root = await ownRootOf(keyring, tenantId).catch(() => undefined)
      return { kekId, root }
    }),
  )
  // A root that is the tenant's says nothing of the primary, but that the tenants are those of the store.
  const areOurs = answers.some(({ kekId, root }) => root?.id === kekId)
  return answers
    .filter(({ kekId, root }) => root === null || (!areOurs && root !== undefined && root.id !== kekId))
    .map(({ kekId }) => kekId)
}
