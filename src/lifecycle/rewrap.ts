/** Rotation of the master key: wraps every live row under the primary. Changes no data key and no token. */

import { MasterKeyError } from '../errors.js'
import { durationSince, type EmitEvent, eventEmitter } from '../events.js'
import { equalBytes } from '../format/aead.js'
import { acceptedFormats, assertFormat, type Format } from '../format/formats.js'
import { isMasterKeyFailure } from '../master-keys/failure.js'
import { formatOfKekId } from '../master-keys/kek-id.js'
import { describeRef, primaryKekId, unwrapDataKey, wrapDataKey } from '../master-keys/key-wrap.js'
import { keyringOf, type MasterKeyring } from '../master-keys/keyring.js'
import { isLocal, isV2Wrap } from '../master-keys/local.js'
import type { MasterKey } from '../master-keys/master-key.js'
import type { CensusRow, KeyStore, WrapChange } from '../store.js'
import { type KeyRecord, type KeyRef, refKey } from '../table.js'
import {
  census,
  liveCount,
  type MasterKeyUse,
  masterKeyUses,
  RETIREMENT_WARNINGS,
  totalCount,
} from './census.js'
import {
  checkedOptions,
  Failures,
  isRowError,
  type LongWorkOptions,
  mapConcurrently,
  ProgressMeter,
  pagesOf,
  type RowFailure,
} from './long-work.js'
import {
  describeOtherRows,
  findSharedKeys,
  isV2WrapUnderV3Id,
  NO_SHARED_KEYS,
  type SharedKeys,
  V2_WRAP_UNDER_V3_ID,
} from './shared-keys.js'

export interface RewrapOptions extends LongWorkOptions {
  readonly store: KeyStore
  /** The primary wraps; the primary and the previous ones unwrap. */
  readonly masterKeys: MasterKeyring | MasterKey
  /** The wrap format written. Default `'v3'`. */
  readonly format?: Format
  /** The wrap formats read, besides the one written. Name `'v2'` to upgrade the Python reference's rows. */
  readonly accept?: readonly Format[]
  /** Go over all rows once and do everything but write. */
  readonly dryRun?: boolean
}

export interface RewrapReport {
  /**
   * False if `signal` stopped the rewrap, if the store refused every write of several passes, or if a key service could not be asked for some
   * of the rows: run it again.
   */
  readonly complete: boolean
  readonly dryRun: boolean
  /** The KEK id of the rows that were rewrapped. */
  readonly kekId: string
  readonly before: readonly CensusRow[]
  readonly after: readonly CensusRow[]
  /** Rows that this call rewrapped, or with `dryRun` would have. */
  readonly changed: number
  /** Rows that another writer changed first, such as a concurrent rewrap or a shred. */
  readonly skipped: number
  /** The first 1,000 rows that could not be rewrapped, each with the reason. */
  readonly failed: readonly RowFailure[]
  readonly failedCount: number
  /** For each master key: whether any row still needs it. */
  readonly masterKeys: readonly MasterKeyUse[]
  /** What to check before a master key is destroyed, because no census knows it. */
  readonly warnings: readonly string[]
}

/**
 * After this many passes in a row in which no write succeeded and the same row was skipped again, the rewrap gives up: the store refuses
 * its writes. A row that a concurrent rewrap has written is not found again, however often the other is faster.
 */
const MAX_REFUSED_PASSES = 5
/** Skipped rows that are remembered from one pass to the next. */
const MAX_REMEMBERED = 1000

/**
 * Rewraps every live row that is not yet wrapped under the keyring's primary. Unwraps each new wrap as a check, then writes by
 * compare-and-set, one page in one transaction.
 *
 * Several processes may run it at once, and it is safe to run again after it was killed. It ends after a pass that found nothing
 * to do, so it also rewraps keys that a process with the old primary mints meanwhile.
 *
 * A row that does not unwrap is reported, and the others go on. So are the rows of a master key that fails, each with the reason. Rows in format v2 that hold the same data key as another row are
 * reported and not upgraded.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_STORE · ERR_CLOSED
 * @example
 * const report = await rewrapAll({ store, masterKeys: masterKeysFromEnv() })
 * const retired = report.masterKeys.filter(({ noRowNeedsIt }) => noRowNeedsIt)
 */
export async function rewrapAll(options: RewrapOptions): Promise<RewrapReport> {
  options = checkedOptions(options, 'store')
  const { store, dryRun = false, format = 'v3', signal } = options
  assertFormat(format)
  const keyring = keyringOf(options.masterKeys)
  const accept = acceptedFormats('accept', options.accept, format)
  const job: RewrapJob = { ...options, keyring, format, accept, dryRun, emit: eventEmitter(options) }
  const kekId = primaryKekId(keyring, format)
  const before = await census({ store })

  let pass: PassResult = newPass()
  let changed = 0
  let skipped = 0
  let after = before
  let left = liveCount(before, (row) => row.kekId !== kekId)
  let done = left === 0
  for (let refused = 0; !done && refused < MAX_REFUSED_PASSES && !signal?.aborted; ) {
    const shared = await sharedKeys(job, after)
    // An aborted comparison may have missed a copy.
    if (signal?.aborted) break
    const { skippedRefs } = pass
    pass = await rewrapPass(job, kekId, left, shared)
    changed += pass.changed
    skipped += pass.skipped
    const isRefused = pass.changed === 0 && [...pass.skippedRefs].some((ref) => skippedRefs.has(ref))
    refused = isRefused ? refused + 1 : 0
    after = await census({ store })
    left = liveCount(after, (row) => row.kekId !== kekId)
    const foundNothing = pass.changed + pass.skipped === 0
    done = left === 0 || (!signal?.aborted && (dryRun || foundNothing))
  }
  return {
    complete: done && (left === 0 || pass.failures.outages === 0),
    dryRun,
    kekId,
    before,
    after,
    changed,
    skipped,
    failed: pass.failures.listed,
    failedCount: pass.failures.count,
    masterKeys: masterKeyUses(after, keyring),
    warnings: RETIREMENT_WARNINGS,
  }
}

/** What one call of rewrapAll works with. */
interface RewrapJob extends LongWorkOptions {
  readonly store: KeyStore
  readonly keyring: MasterKeyring
  readonly format: Format
  readonly accept: readonly Format[]
  readonly dryRun: boolean
  readonly emit: EmitEvent
}

interface PassResult {
  changed: number
  skipped: number
  /** The first of them, by {@link refKey}. */
  readonly skippedRefs: Set<string>
  /** The failures of this pass only: rows that failed in an earlier one may have been repaired meanwhile. */
  readonly failures: Failures
}

function newPass(): PassResult {
  return { changed: 0, skipped: 0, skippedRefs: new Set(), failures: new Failures() }
}

/** Goes once over every row that does not have the target KEK id yet. */
async function rewrapPass(
  job: RewrapJob,
  kekId: string,
  total: number,
  shared: SharedKeys,
): Promise<PassResult> {
  const pass = newPass()
  const progress = new ProgressMeter('rewrapping', total, job)
  const pages = pagesOf(job.store, job, { notKekId: kekId }, ({ userId, version, error }) =>
    pass.failures.add({ userId, version, kekId: null }, error),
  )
  // The database writes one page while the next is unwrapped and wrapped.
  let writing: Promise<void> = Promise.resolve()
  try {
    for await (const page of pages) {
      const start = performance.now()
      const changes = await rewrapPage(job, page, shared, pass.failures)
      await writing
      writing = writeChanges(job, pass, changes, kekId, start).then(() => progress.add(page.length))
      writing.catch(() => undefined)
    }
  } finally {
    await writing
  }
  return pass
}

async function rewrapPage(
  job: RewrapJob,
  page: readonly KeyRecord[],
  shared: SharedKeys,
  failures: Failures,
): Promise<WrapChange[]> {
  const changes = await mapConcurrently(page, (record) =>
    rewrapRecord(job, record, shared).catch((error) => {
      if (!isRowError(error)) throw error
      failures.add(record, error)
      return null
    }),
  )
  return changes.filter((change) => change !== null)
}

async function rewrapRecord(job: RewrapJob, record: KeyRecord, shared: SharedKeys): Promise<WrapChange> {
  const { keyring, format, accept } = job
  if (isV2WrapUnderV3Id(keyring, record)) throw new MasterKeyError('ERR_UNWRAP_FAILED', V2_WRAP_UNDER_V3_ID)
  const group = shared.groups.get(refKey(record))
  if (group !== undefined && isV2Wrap(record.encryptedKey)) throw sharedKey(record, group)
  if (shared.failure !== null && isV2Row(keyring, record)) throw notCompared(record, shared.failure)
  const dataKey = await unwrapDataKey(keyring, record, accept)
  let again: Uint8Array | undefined
  try {
    const { encryptedKey, kekId } = await wrapDataKey(keyring, record, dataKey, format)
    // Check the new wrap before it replaces the old one: a fault of memory or of a key service must not cost a user their data.
    again = await unwrapDataKey(keyring, { ...record, encryptedKey, kekId }, [format]).catch((error) => {
      throw isRowError(error) && !isMasterKeyFailure(error) ? wrongWrap(record) : error
    })
    if (!equalBytes(dataKey, again)) throw wrongWrap(record)
    const { userId, version } = record
    return { userId, version, from: record.encryptedKey, encryptedKey, kekId, wrappedAt: new Date() }
  } finally {
    dataKey.fill(0)
    again?.fill(0)
  }
}

async function writeChanges(
  { store, dryRun, emit }: RewrapJob,
  pass: PassResult,
  changes: readonly WrapChange[],
  kekId: string,
  start: number,
): Promise<void> {
  const written: readonly KeyRef[] =
    dryRun || changes.length === 0 ? changes : await store.replaceWrapped(changes)
  const count = written.length
  pass.changed += count
  pass.skipped += changes.length - count
  const refs = new Set(written.map(refKey))
  for (const ref of changes.map(refKey))
    if (!refs.has(ref) && pass.skippedRefs.size < MAX_REMEMBERED) pass.skippedRefs.add(ref)
  if (count > 0 && !dryRun) emit({ type: 'rewrapped', kekId, count, durationMs: durationSince(start) })
}

/** Looks for shared keys only where v2 wraps are upgraded: nothing else can bind a copied key to the wrong user. */
async function sharedKeys(job: RewrapJob, rows: readonly CensusRow[]): Promise<SharedKeys> {
  const { store, keyring, format, accept } = job
  const v2Rows = liveCount(rows, ({ kekId }) => formatOfKekId(kekId) === 'v2')
  if (format === 'v2' || !accept.includes('v2') || v2Rows === 0) return NO_SHARED_KEYS
  return findSharedKeys(store, keyring, accept, totalCount(rows), job)
}

function sharedKey(ref: KeyRef, group: readonly KeyRef[]): MasterKeyError {
  return new MasterKeyError(
    'ERR_UNWRAP_FAILED',
    `The key of ${describeRef(ref)} is also the key of ${describeOtherRows(group, ref)}: one of them was copied, and none is ` +
      'upgraded. Find out whose key it is, shred or restore the others, and run this again',
  )
}

function isV2Row(keyring: MasterKeyring, { kekId, encryptedKey }: KeyRecord): boolean {
  const masterKey = kekId === null ? null : keyring.find(kekId)
  return isV2Wrap(encryptedKey) && (masterKey === null || isLocal(masterKey))
}

/** Of the failed master key, but for the row of another one. */
function notCompared(ref: KeyRef, { message, reason, retryable }: MasterKeyError): MasterKeyError {
  return new MasterKeyError(
    'ERR_MASTER_KEY',
    `The key of ${describeRef(ref)} is not upgraded from format v2, because it could not be compared with all others: it may be a copy of one ` +
      `of them. ${message}`,
    { reason, retryable },
  )
}

function wrongWrap(record: KeyRecord): MasterKeyError {
  return new MasterKeyError(
    'ERR_UNWRAP_FAILED',
    `The new wrap of the key of ${describeRef(record)} does not hold the same key: nothing was written`,
  )
}
