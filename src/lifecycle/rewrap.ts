/** Rotation of the master key: every live row is wrapped anew under the primary. No data key changes, and no token. */

import { MasterKeyError } from '../errors.js'
import { durationSince, type EmitEvent, eventEmitter } from '../events.js'
import { equalBytes } from '../format/aead.js'
import type { Format } from '../format/formats.js'
import { acceptedFormats, assertFormat } from '../format/formats.js'
import { describeRef, primaryKekId, unwrapDataKey, wrapDataKey } from '../master-keys/key-wrap.js'
import { keyringOf, type MasterKeyring } from '../master-keys/keyring.js'
import { isV2Wrap } from '../master-keys/local.js'
import type { MasterKey } from '../master-keys/master-key.js'
import type { CensusRow, KeyStore, WrapChange } from '../store.js'
import { type KeyRecord, type KeyRef, refKey } from '../table.js'
import { census, type MasterKeyUse, masterKeyUses, RETIREMENT_WARNINGS } from './census.js'
import {
  assertOptions,
  Failures,
  inTurns,
  isOfOneRow,
  type LongWorkOptions,
  ProgressMeter,
  pagesOf,
  type RowFailure,
} from './long-work.js'
import {
  describeOthers,
  EXCHANGED,
  findSharedKeys,
  isExchanged,
  NONE_SHARED,
  type SharedKeys,
} from './shared-keys.js'

export interface RewrapOptions extends LongWorkOptions {
  readonly store: KeyStore
  /** Wraps under the primary; opens what is under it or any previous one. */
  readonly masterKeys: MasterKeyring | MasterKey
  /** The wrap format written. Default `'v3'`. */
  readonly format?: Format
  /** The wrap formats opened, beside the one written. Name `'v2'` to upgrade the Python reference's rows. */
  readonly accept?: readonly Format[]
  /** Do all but write, once over all rows. */
  readonly dryRun?: boolean
}

export interface RewrapReport {
  /** False if `signal` ended it, or if the store refuses one write after the other: start it again. */
  readonly complete: boolean
  readonly dryRun: boolean
  /** The KEK id that rows have now. */
  readonly kekId: string
  readonly before: readonly CensusRow[]
  readonly after: readonly CensusRow[]
  /** Rows that this call wrapped anew, or with `dryRun` would have. */
  readonly changed: number
  /** Rows that another writer changed first: a rewrap beside this one, a shred. */
  readonly skipped: number
  /** Rows that stay as they are, and why; the first 1,000. */
  readonly failed: readonly RowFailure[]
  readonly failedCount: number
  /** For each master key: does any row still need it? */
  readonly masterKeys: readonly MasterKeyUse[]
  /** What a census cannot know: read them before a master key is destroyed. */
  readonly warnings: readonly string[]
}

/** Passes in a row that lose every row to another writer: a rival is done by then, and a store that refuses never will be. */
const MAX_LOST_PASSES = 5

/**
 * Wraps every live row under the keyring's primary that is not yet, checks each new wrap by opening it, and writes by compare-and-set,
 * a page in one transaction. Any number of processes may run it at once; one that was killed is simply started again. It ends after a
 * look that found nothing left to do, so that what a process with the old primary mints meanwhile is caught.
 *
 * A row that cannot be opened is reported and stops no other. Of rows in the reference's format whose data key stands in another row
 * too, neither is upgraded.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_MASTER_KEY (a key service fails) · ERR_STORE · ERR_CLOSED
 * @example
 * const report = await rewrapAll({ store, masterKeys: masterKeysFromEnv() })
 * const retired = report.masterKeys.filter(({ noRowNeedsIt }) => noRowNeedsIt)
 */
export async function rewrapAll(options: RewrapOptions): Promise<RewrapReport> {
  assertOptions(options, 'store')
  const { store, dryRun = false, format = 'v3', signal } = options
  assertFormat(format)
  const keyring = keyringOf(options.masterKeys)
  const accept = acceptedFormats('accept', options.accept, format)
  const work = { ...options, keyring, format, accept, dryRun, emit: eventEmitter(options) }
  const kekId = primaryKekId(keyring, format)
  const before = await census({ store })

  let pass: Pass = { changed: 0, skipped: 0, failures: new Failures() }
  let changed = 0
  let skipped = 0
  let after = before
  let left = countLive(before, (row) => row.kekId !== kekId)
  let complete = left === 0
  for (let lost = 0; !complete && lost < MAX_LOST_PASSES && !signal?.aborted; ) {
    const shared = await sharedKeys(work, after)
    // A comparison that was cut short may have missed a copy.
    if (signal?.aborted) break
    pass = await rewrapOnce(work, kekId, left, shared)
    changed += pass.changed
    skipped += pass.skipped
    lost = pass.changed === 0 ? lost + 1 : 0
    after = await census({ store })
    left = countLive(after, (row) => row.kekId !== kekId)
    const foundNothing = pass.changed + pass.skipped === 0
    complete = left === 0 || (!signal?.aborted && (dryRun || foundNothing))
  }
  return {
    complete,
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

interface Work extends LongWorkOptions {
  readonly store: KeyStore
  readonly keyring: MasterKeyring
  readonly format: Format
  readonly accept: readonly Format[]
  readonly dryRun: boolean
  readonly emit: EmitEvent
}

interface Pass {
  changed: number
  skipped: number
  /** Of this pass: what failed in an earlier one may have been mended meanwhile. */
  readonly failures: Failures
}

/** One look at every row that is not under the target yet. */
async function rewrapOnce(work: Work, kekId: string, total: number, shared: SharedKeys): Promise<Pass> {
  const pass: Pass = { changed: 0, skipped: 0, failures: new Failures() }
  const progress = new ProgressMeter('rewrapping', total, work)
  const pages = pagesOf(work.store, work, { notKekId: kekId }, (ref, error) =>
    pass.failures.add({ ...ref, kekId: null }, error),
  )
  // The database writes one page while the next is being opened and wrapped.
  let writing: Promise<void> = Promise.resolve()
  try {
    for await (const page of pages) {
      const start = performance.now()
      const changes = await rewrapPage(work, page, shared, pass.failures)
      await writing
      writing = write(work, pass, changes, kekId, start).then(() => progress.add(page.length))
      writing.catch(() => undefined)
    }
  } finally {
    await writing
  }
  return pass
}

async function rewrapPage(
  work: Work,
  page: readonly KeyRecord[],
  shared: SharedKeys,
  failures: Failures,
): Promise<WrapChange[]> {
  const changes = await inTurns(page, (record) =>
    rewrapped(work, record, shared).catch((error) => {
      if (!isOfOneRow(error)) throw error
      failures.add(record, error)
      return null
    }),
  )
  return changes.filter((change) => change !== null)
}

async function rewrapped(work: Work, record: KeyRecord, shared: SharedKeys): Promise<WrapChange> {
  const { keyring, format, accept } = work
  if (isExchanged(keyring, record)) throw new MasterKeyError('ERR_UNWRAP_FAILED', EXCHANGED)
  const group = shared.get(refKey(record))
  if (group !== undefined && isV2Wrap(record.encryptedKey)) throw isShared(record, group)
  const dataKey = await unwrapDataKey(keyring, record, accept)
  let again: Uint8Array | undefined
  try {
    const { encryptedKey, kekId } = await wrapDataKey(keyring, record, dataKey, format)
    // Before the old wrap is gone: a fault of memory, or of a key service, must not cost a user their data.
    again = await unwrapDataKey(keyring, { ...record, encryptedKey, kekId }, [format]).catch((error) => {
      throw isOfOneRow(error) ? wrappedWrongly(record) : error
    })
    if (!equalBytes(dataKey, again)) throw wrappedWrongly(record)
    const { userId, version } = record
    return { userId, version, from: record.encryptedKey, encryptedKey, kekId, wrappedAt: new Date() }
  } finally {
    dataKey.fill(0)
    again?.fill(0)
  }
}

async function write(
  { store, dryRun, emit }: Work,
  pass: Pass,
  changes: readonly WrapChange[],
  kekId: string,
  start: number,
): Promise<void> {
  const count = dryRun || changes.length === 0 ? changes.length : (await store.replaceWrapped(changes)).length
  pass.changed += count
  pass.skipped += changes.length - count
  if (count > 0 && !dryRun) emit({ type: 'rewrapped', kekId, count, durationMs: durationSince(start) })
}

/** Only an upgrade of v2 wraps can bind a copied key to the wrong user. */
async function sharedKeys(work: Work, rows: readonly CensusRow[]): Promise<SharedKeys> {
  const isV2 = ({ kekId }: CensusRow) =>
    kekId === null || work.keyring.local.some(({ v2Id }) => v2Id === kekId)
  if (work.format === 'v2' || !work.accept.includes('v2') || countLive(rows, isV2) === 0) return NONE_SHARED
  const total = rows.reduce((sum, { count }) => sum + count, 0)
  return findSharedKeys(work.store, work.keyring, work.accept, total, work)
}

function countLive(rows: readonly CensusRow[], which: (row: CensusRow) => boolean): number {
  return rows.reduce((sum, row) => (!row.shredded && which(row) ? sum + row.count : sum), 0)
}

function isShared(ref: KeyRef, group: readonly KeyRef[]): MasterKeyError {
  return new MasterKeyError(
    'ERR_UNWRAP_FAILED',
    `The key of ${describeRef(ref)} is also the key of ${describeOthers(group, ref)}: one of them was copied, and none is ` +
      'upgraded. Find out whose it is, shred or restore the other, and run this again',
  )
}

function wrappedWrongly(record: KeyRecord): MasterKeyError {
  return new MasterKeyError(
    'ERR_UNWRAP_FAILED',
    `The new wrap of the key of ${describeRef(record)} does not hold the same key: nothing was written`,
  )
}
