/** Rotation of users' data keys by age. */
import { invalidArgument } from '../errors.js'
import { nextTurn } from '../event-loop.js'
import { durationSince, eventEmitter } from '../events.js'
import { newDataKey } from '../master-keys/key-wrap.js'
import { keyringOf, type MasterKeyring } from '../master-keys/keyring.js'
import type { MasterKey } from '../master-keys/master-key.js'
import { parseTenantKekId } from '../master-keys/tenant-keys.js'
import type { KeyStore } from '../store.js'
import { isTenantRow, isTombstone, type KeyRecord, MAX_KEY_VERSION, refKey } from '../table.js'
import { traced } from '../traced-calls.js'
import { totalCount } from './census.js'
import {
  COUNTING,
  checkedOptions,
  Failures,
  groupPagesByUser,
  isRowError,
  type LongWorkOptions,
  liveBesideTombstone,
  mapConcurrently,
  ProgressMeter,
  pagesOf,
  type RowFailure,
} from './long-work.js'
import { TenantKeys } from './tenant-keys.js'

/** The options of {@link rotateWhere}. */
export interface RotateWhereOptions extends LongWorkOptions {
  /** The store whose users get new versions. */
  readonly store: KeyStore
  /** The primary wraps the new versions, or the tenant's key that wraps the version before. No user's key is unwrapped. */
  readonly masterKeys: MasterKeyring | MasterKey
  /** Rotates users whose highest version is older than this, in milliseconds; 0 rotates all users. */
  readonly olderThanMs: number
  /** Counts, and writes nothing. Default false. */
  readonly dryRun?: boolean
}

/** What {@link rotateWhere} did. */
export interface RotateReport {
  /** False if `signal` stopped the rotation, or if a key service could not be asked for some of the users: run it again. */
  readonly complete: boolean
  /** Whether nothing was written. */
  readonly dryRun: boolean
  /** Users who got a new version, or with `dryRun` would get one. */
  readonly rotated: number
  /** Users whose highest version is not that old. */
  readonly young: number
  /** Users whom another writer rotated or shredded first. */
  readonly skipped: number
  /** Users who are shredded, or whose tenant is. */
  readonly shredded: number
  /** The first 1,000 rows that could not be read or rotated, each with the reason. */
  readonly failed: readonly RowFailure[]
  /** How many users failed in all; `failed` has the first of them. */
  readonly failedCount: number
}

/**
 * Makes a new version of the data key of every user whose highest version is older than a given age: `rotateUserKey` for many users.
 * All processes write under the new version within 2 s if the store announces changes, else within `cache.ttlMs`. Tokens of earlier versions
 * still decrypt, until you re-encrypt them and prune the versions. It is safe to run in several processes, and to run again. Users whose new
 * key the primary does not wrap are `failed`.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_STORE · ERR_CLOSED
 * @example
 * await rotateWhere({ store, masterKeys, olderThanMs: 365 * 24 * 60 * 60 * 1000 })
 */
export function rotateWhere(options: RotateWhereOptions): Promise<RotateReport> {
  return traced('rotateWhere', () => rotate(options))
}

async function rotate(options: RotateWhereOptions): Promise<RotateReport> {
  options = checkedOptions(options, 'store')
  const { store, olderThanMs, dryRun = false, signal } = options
  if (typeof olderThanMs !== 'number' || !(olderThanMs >= 0))
    throw invalidArgument('olderThanMs must be a number of milliseconds, 0 or more')
  const keyring = keyringOf(options.masterKeys)
  const emit = eventEmitter(options)
  const tenants = new TenantKeys(store, keyring)
  // Fixed now, so that a version made by this call is never rotated by it.
  const before = Date.now() - olderThanMs
  options.onProgress?.(COUNTING)
  const total = totalCount(await store.census())
  const progress = new ProgressMeter('rotating', total, options)
  const failures = new Failures()
  const counts = { rotated: 0, young: 0, skipped: 0, shredded: 0 }
  // Users with a row that cannot be read: their highest version is not known.
  const unreadable = new Set<string>()
  const pages = pagesOf(store, options, {}, ({ userId, version, hasId, error }) => {
    if (hasId) unreadable.add(userId)
    failures.add({ userId, version, kekId: null }, error)
  })
  for await (const users of groupPagesByUser(pages, options)) {
    const start = performance.now()
    const due: KeyRecord[] = []
    for (const versions of users) {
      const newest = versions.at(-1) as KeyRecord
      // Tenants' own keys wrap no data of the application: rotateTenantKey makes a new version of one.
      if (isTenantRow(newest) || unreadable.has(newest.userId)) continue
      if (versions.some(isTombstone)) {
        counts.shredded += 1
        for (const row of versions) if (!isTombstone(row)) failures.add(row, liveBesideTombstone(row))
      } else if (newest.createdAt.getTime() > before) counts.young += 1
      else if (newest.version === MAX_KEY_VERSION) failures.add(newest, noVersionLeft())
      else due.push(newest)
    }
    const versions = await mapConcurrently(due, (newest) =>
      nextVersionOf(keyring, tenants, newest).catch((error) => {
        if (!isRowError(error)) throw error
        // With their tenant: there is nothing left to rotate.
        if (error.code === 'ERR_KEY_SHREDDED') counts.shredded += 1
        else failures.add(newest, error)
        return null
      }),
    )
    const next = versions.filter((version) => version !== null)
    const made = dryRun ? next : await insertNew(store, next)
    counts.rotated += made.length
    counts.skipped += next.length - made.length
    for (const { userId, version, kekId } of dryRun ? [] : made)
      emit({ type: 'rotated', userId, version, kekId, durationMs: durationSince(start) })
    progress.add(users.reduce((sum, versions) => sum + versions.length, 0))
  }
  const failed = { failed: failures.listed, failedCount: failures.count }
  return { complete: !signal?.aborted && failures.outages === 0, dryRun, ...counts, ...failed }
}

/** The row of a user's next version, under the tenant's key if the user has one. Its data key is wiped at once: nothing is encrypted here. */
async function nextVersionOf(
  keyring: MasterKeyring,
  tenants: TenantKeys,
  { userId, version, kekId }: KeyRecord,
): Promise<KeyRecord> {
  const tenant = parseTenantKekId(kekId)
  const kek = tenant === null ? keyring.primary : await tenants.newestOf(tenant)
  const { record, dataKey } = await newDataKey(keyring, { userId, version: version + 1 }, 'v3', kek)
  dataKey.fill(0)
  return record
}

/** @returns the rows that were inserted, without those that another writer inserted first */
async function insertNew(store: KeyStore, records: readonly KeyRecord[]): Promise<KeyRecord[]> {
  if (records.length === 0) return []
  // A synchronous driver inserts a page in one go: what was made before, and what comes after, is in turns of its own.
  await nextTurn()
  const inserted = await store.insertIfAbsent(records)
  await nextTurn()
  const winners = new Map(inserted.map((winner) => [refKey(winner), winner]))
  return records.filter((record) => {
    const winner = winners.get(refKey(record))
    return winner !== undefined && Buffer.compare(winner.encryptedKey, record.encryptedKey) === 0
  })
}

function noVersionLeft() {
  return invalidArgument('the user has used up all versions')
}
