/** Which rows a copy reads, compares and writes: all of them, or those of some users and tenants. */
import { describeUser, invalidArgument, KeystoreError } from '../errors.js'
import type { Erasures } from '../key-log/erasures.js'
import { readableRows } from '../key-log/readable-rows.js'
import type { CensusRow, KeyStore, UnreadableRow } from '../store.js'
import { compareUtf8, isTenantRow, isTombstone, type KeyRecord, tenantUserId } from '../table.js'
import { assertTenantId, assertUserId, kindOf, ownOptions, refuseUnknownOptions } from '../validate.js'
import { census, compareCensusRows, totalCount } from './census.js'
import { DEFAULT_BATCH_SIZE, type LongWorkOptions, pagesOf } from './long-work.js'

/** At least one id. */
export interface CopyOnly {
  /** Users' ids. `''` is the shared pool. */
  readonly users?: readonly string[]
  /** Tenants' ids: of each the rows of its own key, and none of its users'. */
  readonly tenants?: readonly string[]
}

/** Few users have more versions. A page that goes on behind the user's rows is read in vain. */
const VERSIONS_A_PAGE = 20

export class CopiedRows {
  /** The user ids of the rows, in the order of `list`; null: all. */
  readonly userIds: readonly string[] | null

  /** @throws ERR_INVALID_ARGUMENT */
  constructor(only: CopyOnly | undefined) {
    this.userIds = only === undefined ? null : idsOf(only)
  }

  /** An id that is mistyped must not pass for one that was copied. @throws ERR_KEY_NOT_FOUND · ERR_STORE */
  async assertIn(source: KeyStore): Promise<void> {
    if (this.userIds === null) return
    const found = await readableRows(source, this.userIds)
    const missing = this.userIds.filter((userId) => !found.has(userId))
    if (missing.length === 0) return
    const names = missing.map((userId) => (userId === '' ? 'the pool' : describeUser(userId))).join(', ')
    throw new KeystoreError('ERR_KEY_NOT_FOUND', `The source has no key of ${names}. Nothing was written`)
  }

  /** In the order of `list`. @param onUnreadable see `pagesOf` */
  async *pages(
    store: KeyStore,
    options: LongWorkOptions,
    onUnreadable: (row: UnreadableRow) => void,
  ): AsyncGenerator<readonly KeyRecord[], void, undefined> {
    if (this.userIds === null) return yield* pagesOf(store, options, {}, onUnreadable)
    const batchSize = Math.min(VERSIONS_A_PAGE, options.batchSize ?? DEFAULT_BATCH_SIZE)
    for (const userId of this.userIds) {
      const from = { after: { userId, version: 0 } }
      const ofUser = (row: UnreadableRow) => row.userId === userId && onUnreadable(row)
      for await (const page of pagesOf(store, { ...options, batchSize }, from, ofUser)) {
        const own = page.filter((row) => row.userId === userId)
        if (own.length > 0) yield own
        if (own.length < page.length) break
      }
    }
  }

  /** How many rows there are, or users if only these are copied: for a progress. */
  async size(store: KeyStore): Promise<number> {
    return this.userIds?.length ?? totalCount(await store.census())
  }

  async census(store: KeyStore): Promise<CensusRow[]> {
    if (this.userIds === null) return census({ store })
    const counts = new Map<string, CensusRow>()
    for await (const page of this.pages(store, {}, () => undefined)) {
      for (const record of page) {
        const { kekId, version } = record
        const state = { kekId, version, shredded: isTombstone(record) }
        const row = isTenantRow(record) ? { ...state, ofTenants: true as const } : state
        const key = JSON.stringify(row)
        counts.set(key, { ...row, count: (counts.get(key)?.count ?? 0) + 1 })
      }
    }
    return [...counts.values()].sort(compareCensusRows)
  }

  /** Those of a key log that concern these rows. */
  erasures(all: Erasures): Erasures {
    const { userIds } = this
    return userIds === null ? all : new Map([...all].filter(([userId]) => userIds.includes(userId)))
  }
}

const KNOWN: Readonly<Record<keyof CopyOnly, true>> = { users: true, tenants: true }

function idsOf(only: CopyOnly): readonly string[] {
  const { users = [], tenants = [], ...others } = ownOptions(only, 'only')
  refuseUnknownOptions(others, KNOWN, 'only')
  for (const [name, ids] of Object.entries({ users, tenants }))
    if (!Array.isArray(ids)) throw invalidArgument(`only.${name} must be an array of ids, got ${kindOf(ids)}`)
  for (const userId of users) if (userId !== '') assertUserId(userId)
  for (const tenantId of tenants) assertTenantId(tenantId)
  const userIds = new Set([...users, ...tenants.map(tenantUserId)])
  if (userIds.size === 0) throw invalidArgument('only must name at least one user or tenant')
  return [...userIds].sort(compareUtf8)
}
