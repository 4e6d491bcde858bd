/** Removal of versions of users' data keys that no token needs any more. */
import { invalidArgument } from '../errors.js'
import type { KeyStore } from '../store.js'
import { isTenantRow, isTombstone, type KeyRecord } from '../table.js'
import { traced } from '../traced-calls.js'
import { assertUserId, kindOf } from '../validate.js'
import { totalCount } from './census.js'
import {
  COUNTING,
  checkedOptions,
  Failures,
  groupPagesByUser,
  type LongWorkOptions,
  ProgressMeter,
  pagesOf,
  type RowFailure,
  versionsOf,
} from './long-work.js'

interface RetiredVersions {
  readonly store: KeyStore
  /** Confirms that a re-encryption has reported no token of these versions left. Tokens that remain can never be decrypted again. */
  readonly tokensReencrypted: true
  /**
   * Remove version 1 too. All v2 tokens of the user need it. Fingerprints are made with the lowest live version, so those under version 1 then
   * match nothing until the sweep has made them anew (docs/OPERATIONS.md, "A master key has leaked"). Default false.
   */
  readonly includeFirst?: boolean
  /** Return the versions, and remove nothing. */
  readonly dryRun?: boolean
}

/** Exactly one of `beforeVersion` and `madeBefore`. */
export interface PruneOptions extends RetiredVersions {
  /** Whose versions are removed. Empty: the pool's. */
  readonly userId: string
  /** Removes versions below this one. The highest version is always kept. */
  readonly beforeVersion?: number | undefined
  /** Removes versions that were made before this moment. The highest version is always kept. */
  readonly madeBefore?: Date | undefined
}

/** The options of {@link pruneWhere}. */
export interface PruneWhereOptions extends RetiredVersions, LongWorkOptions {
  /** Removes versions that were made before this moment. The highest version of each user is always kept. */
  readonly madeBefore: Date
}

/** What {@link pruneWhere} removed. */
export interface PruneReport {
  /** False if `signal` stopped it: run it again. */
  readonly complete: boolean
  /** Whether nothing was removed. */
  readonly dryRun: boolean
  /** Users of whom versions were removed, or with `dryRun` would be. The pool counts as one. */
  readonly users: number
  /** Versions removed, or with `dryRun` that would be. */
  readonly removed: number
  /** Users whose highest version is older than `madeBefore`: it was kept, since nobody has made them a newer one. The first 1,000. */
  readonly notRotated: readonly string[]
  /** How many there are in all; `notRotated` has the first of them. */
  readonly notRotatedCount: number
  /** The first 1,000 rows that cannot be read. Nothing of their users was removed. */
  readonly failed: readonly RowFailure[]
  /** How many failed in all; `failed` has the first of them. */
  readonly failedCount: number
}

/**
 * Removes old versions of a user's key. **Tokens under them can never be decrypted again.**
 *
 * @returns the versions removed, or with `dryRun` that would be
 * @throws ERR_INVALID_ARGUMENT (also without `tokensReencrypted: true`) · ERR_STORE · ERR_CLOSED
 * @example
 * await pruneRetired({ store, userId: 'alice', beforeVersion: 3, tokensReencrypted: true })
 */
export async function pruneRetired(
  options: PruneOptions,
): Promise<{ readonly userId: string; readonly versions: readonly number[] }> {
  options = checkedOptions(options, 'store')
  const { store, userId, beforeVersion, madeBefore, dryRun = false } = options
  if (userId !== '') assertUserId(userId)
  if ((beforeVersion === undefined) === (madeBefore === undefined))
    throw invalidArgument('give exactly one of beforeVersion and madeBefore')
  if (beforeVersion !== undefined && (!Number.isInteger(beforeVersion) || beforeVersion < 1))
    throw invalidArgument(`beforeVersion must be a whole number, 1 or more, got ${kindOf(beforeVersion)}`)
  if (madeBefore !== undefined) assertMoment(madeBefore)
  assertReencrypted(options)
  const refs = retired(await versionsOf(store, userId), options)
  if (refs.length > 0 && !dryRun) await store.remove(refs)
  return { userId, versions: refs.map(({ version }) => version) }
}

/**
 * {@link pruneRetired} for all users and the pool: removes every version that was made before a moment, such as that of a rotation after a leak.
 * Whoever has no newer version keeps the highest, and is named in the report. It is safe to run again.
 *
 * @throws ERR_INVALID_ARGUMENT (also without `tokensReencrypted: true`) · ERR_STORE · ERR_CLOSED
 * @example
 * const began = new Date() // then rotateWhere({ olderThanMs: 0, … }), and a sweep until it reports nothing left
 * await pruneWhere({ store, madeBefore: began, tokensReencrypted: true, includeFirst: true })
 */
export function pruneWhere(options: PruneWhereOptions): Promise<PruneReport> {
  return traced('pruneWhere', () => pruneAll(options))
}

async function pruneAll(options: PruneWhereOptions): Promise<PruneReport> {
  options = checkedOptions(options, 'store')
  const { store, madeBefore, dryRun = false, signal } = options
  assertMoment(madeBefore)
  assertReencrypted(options)
  options.onProgress?.(COUNTING)
  const progress = new ProgressMeter('pruning', totalCount(await store.census()), options)
  const failures = new Failures()
  const unreadable = new Set<string>()
  const notRotated: string[] = []
  const counts = { users: 0, removed: 0, notRotatedCount: 0 }
  const pages = pagesOf(store, options, {}, ({ userId, version, hasId, error }) => {
    if (hasId) unreadable.add(userId)
    failures.add({ userId, version, kekId: null }, error)
  })
  for await (const users of groupPagesByUser(pages, options)) {
    const pruned = users.flatMap((versions) => {
      const newest = versions.at(-1) as KeyRecord
      // Tenants' own keys have a command of their own, which looks at the users under them.
      if (isTenantRow(newest) || unreadable.has(newest.userId) || versions.some(isTombstone)) return []
      if (newest.createdAt < madeBefore) {
        counts.notRotatedCount += 1
        if (notRotated.length < MAX_LISTED) notRotated.push(newest.userId)
      }
      const refs = retired(versions, options)
      if (refs.length > 0) counts.users += 1
      return refs
    })
    counts.removed += pruned.length
    if (pruned.length > 0 && !dryRun) await store.remove(pruned)
    progress.add(users.reduce((sum, versions) => sum + versions.length, 0))
  }
  const failed = { failed: failures.listed, failedCount: failures.count }
  return { complete: !signal?.aborted, dryRun, ...counts, notRotated, ...failed }
}

const MAX_LISTED = 1000

/** The live versions of one user that are to go. */
function retired(
  versions: readonly KeyRecord[],
  {
    beforeVersion,
    madeBefore,
    includeFirst = false,
  }: Pick<PruneOptions, 'beforeVersion' | 'madeBefore' | 'includeFirst'>,
): KeyRecord[] {
  const highest = versions.at(-1)?.version ?? 0
  return versions.filter(
    ({ version, createdAt, shreddedAt }) =>
      version < highest &&
      shreddedAt === null &&
      (version > 1 || includeFirst) &&
      (beforeVersion === undefined || version < beforeVersion) &&
      (madeBefore === undefined || createdAt < madeBefore),
  )
}

function assertReencrypted({ tokensReencrypted }: { readonly tokensReencrypted: unknown }): void {
  if (tokensReencrypted === true) return
  throw invalidArgument(
    'Tokens of the removed versions can never be decrypted again: re-encrypt them first, then confirm it with tokensReencrypted: true',
  )
}

function assertMoment(madeBefore: unknown): void {
  if (madeBefore instanceof Date && !Number.isNaN(madeBefore.getTime())) return
  throw invalidArgument(`madeBefore must be a valid Date, got ${kindOf(madeBefore)}`)
}
