/** Rotation of users' data keys by age, and the removal of versions that no token needs any more. */
import { invalidArgument } from '../errors.js'
import { durationSince, eventEmitter } from '../events.js'
import { newDataKey } from '../master-keys/key-wrap.js'
import { keyringOf, type MasterKeyring } from '../master-keys/keyring.js'
import type { MasterKey } from '../master-keys/master-key.js'
import type { KeyStore } from '../store.js'
import { type KeyRecord, MAX_KEY_VERSION, refKey } from '../table.js'
import { assertUserId, kindOf } from '../validate.js'
import {
  assertOptions,
  Failures,
  inTurns,
  type LongWorkOptions,
  ProgressMeter,
  pagesOf,
  type RowFailure,
  usersOf,
} from './long-work.js'

export interface RotateWhereOptions extends LongWorkOptions {
  readonly store: KeyStore
  /** Wraps the new versions under the primary; opens nothing. */
  readonly masterKeys: MasterKeyring | MasterKey
  /** Users whose highest version was made longer ago than this, in milliseconds; 0: all users. */
  readonly olderThanMs: number
  readonly dryRun?: boolean
}

export interface RotateReport {
  readonly complete: boolean
  readonly dryRun: boolean
  /** Users who have a new version by this call, or with `dryRun` would have. */
  readonly rotated: number
  /** Users whose key is not that old. */
  readonly young: number
  /** Users whom another writer rotated or shredded first. */
  readonly skipped: number
  readonly shredded: number
  readonly failed: readonly RowFailure[]
  readonly failedCount: number
}

/**
 * Makes a new version of the data key of every user whose newest is older than a given age: `rotateUserKey` for all. New writes of all
 * processes use it within 2 s; tokens of earlier versions still open until they are re-encrypted and the versions pruned. Safe to run
 * in several processes, and to start again.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_MASTER_KEY · ERR_STORE · ERR_CLOSED
 * @example
 * await rotateWhere({ store, masterKeys, olderThanMs: 365 * 24 * 60 * 60 * 1000 })
 */
export async function rotateWhere(options: RotateWhereOptions): Promise<RotateReport> {
  assertOptions(options, 'store')
  const { store, olderThanMs, dryRun = false, signal } = options
  if (typeof olderThanMs !== 'number' || !(olderThanMs >= 0))
    throw invalidArgument('olderThanMs must be a number of milliseconds, 0 or more')
  const keyring = keyringOf(options.masterKeys)
  const emit = eventEmitter(options)
  // As it was at the beginning: a version that is made on the way is never rotated again.
  const before = Date.now() - olderThanMs
  const total = (await store.census()).reduce((sum, { count }) => sum + count, 0)
  const progress = new ProgressMeter('rotating', total, options)
  const failures = new Failures()
  const counts = { rotated: 0, young: 0, skipped: 0, shredded: 0 }
  // What else such a user has is not all.
  const unreadable = new Set<string>()
  const pages = pagesOf(store, options, {}, (ref, error) => {
    unreadable.add(ref.userId)
    failures.add({ ...ref, kekId: null }, error)
  })
  for await (const users of usersOf(pages, options)) {
    const start = performance.now()
    const due: KeyRecord[] = []
    for (const versions of users) {
      const newest = versions.at(-1) as KeyRecord
      if (unreadable.has(newest.userId)) continue
      if (versions.some(({ shreddedAt }) => shreddedAt !== null)) counts.shredded += 1
      else if (newest.createdAt.getTime() > before) counts.young += 1
      else if (newest.version === MAX_KEY_VERSION) failures.add(newest, usedUp())
      else due.push(newest)
    }
    const next = await inTurns(due, (newest) => newVersion(keyring, newest))
    const made = dryRun ? next : await insert(store, next)
    counts.rotated += made.length
    counts.skipped += next.length - made.length
    for (const { userId, version, kekId } of dryRun ? [] : made)
      emit({ type: 'rotated', userId, version, kekId, durationMs: durationSince(start) })
    progress.add(users.reduce((sum, versions) => sum + versions.length, 0))
  }
  const failed = { failed: failures.listed, failedCount: failures.count }
  return { complete: !signal?.aborted, dryRun, ...counts, ...failed }
}

/** Nobody needs the new key yet: it is wiped at once. */
async function newVersion(keyring: MasterKeyring, { userId, version }: KeyRecord): Promise<KeyRecord> {
  const { record, dataKey } = await newDataKey(keyring, { userId, version: version + 1 }, 'v3')
  dataKey.fill(0)
  return record
}

/** @returns those that are ours */
async function insert(store: KeyStore, records: readonly KeyRecord[]): Promise<KeyRecord[]> {
  if (records.length === 0) return []
  const winners = new Map((await store.insertIfAbsent(records)).map((winner) => [refKey(winner), winner]))
  return records.filter((record) => {
    const winner = winners.get(refKey(record))
    return winner !== undefined && Buffer.compare(winner.encryptedKey, record.encryptedKey) === 0
  })
}

function usedUp() {
  return invalidArgument('the user has used up all versions')
}

export interface PruneOptions {
  readonly store: KeyStore
  readonly userId: string
  /** Versions below this one are removed; the highest never is. */
  readonly beforeVersion: number
  /** Say that a re-encryption has reported no token of these versions left: what still needs one can never be opened again. */
  readonly tokensReencrypted: true
  /** Remove version 1 too, which v2 tokens and all fingerprints of the user hang on. Default false. */
  readonly includeFirst?: boolean
  /** Name the versions, and remove nothing. */
  readonly dryRun?: boolean
}

/**
 * Removes a user's retired key versions. **Tokens under them are lost.**
 *
 * @returns the versions removed, or with `dryRun` that would be
 * @throws ERR_INVALID_ARGUMENT (also unless told that tokens were re-encrypted) · ERR_STORE · ERR_CLOSED
 * @example
 * await pruneRetired({ store, userId: 'alice', beforeVersion: 3, tokensReencrypted: true })
 */
export async function pruneRetired(
  options: PruneOptions,
): Promise<{ readonly userId: string; readonly versions: readonly number[] }> {
  assertOptions(options, 'store')
  const { store, userId, beforeVersion, tokensReencrypted, includeFirst = false, dryRun = false } = options
  if (userId !== '') assertUserId(userId)
  if (!Number.isInteger(beforeVersion) || beforeVersion < 1)
    throw invalidArgument(`beforeVersion must be a whole number, 1 or more, got ${kindOf(beforeVersion)}`)
  if (tokensReencrypted !== true) {
    throw invalidArgument(
      'Tokens of the versions that are removed can never be opened again: re-encrypt them first, and say so with tokensReencrypted: true',
    )
  }
  const rows = (await store.getAll([userId])).get(userId) ?? []
  const highest = rows.at(-1)?.version ?? 0
  const isRetired = ({ version, shreddedAt }: KeyRecord) =>
    version < beforeVersion && version < highest && shreddedAt === null && (version > 1 || includeFirst)
  const refs = rows.filter(isRetired)
  if (refs.length > 0 && !dryRun) await store.remove(refs)
  return { userId, versions: refs.map(({ version }) => version) }
}
