/** Rotation of the master key: wraps every live row under the primary. Changes no data key and no token. */

import { invalidArgument, MasterKeyError, printable } from '../errors.js'
import { durationSince, type EmitEvent, eventEmitter } from '../events.js'
import { acceptedFormats, assertFormat, type Format } from '../format/formats.js'
import { formatOfKekId } from '../master-keys/kek-id.js'
import { primaryKekId } from '../master-keys/key-wrap.js'
import { keyringOf, type MasterKeyring } from '../master-keys/keyring.js'
import { isV2Wrap } from '../master-keys/local.js'
import type { MasterKey } from '../master-keys/master-key.js'
import { rewrapped } from '../master-keys/rewrapped.js'
import { knowsTenants } from '../master-keys/tenant-roots.js'
import type { CensusRow, KeyStore, UnreadableRow, WrapChange } from '../store.js'
import { isTenantRow, type KeyRecord, type KeyRef, refKey, tenantIdOf } from '../table.js'
import { traced } from '../traced-calls.js'
import {
  censusFor,
  liveCount,
  type MasterKeyUse,
  masterKeyUses,
  RETIREMENT_WARNINGS,
  totalCount,
} from './census.js'
import {
  COUNTING,
  checkedOptions,
  Failures,
  isRowError,
  type LongWorkOptions,
  mapConcurrently,
  ProgressMeter,
  type RowFailure,
} from './long-work.js'
import { isLeftOver } from './prune-tenants.js'
import {
  hasTenants,
  kekIdsOfUsers,
  type RewrapRows,
  rowsNotUnderPrimary,
  rowsToRewrap,
  SAMPLED_USERS,
  targetOf,
} from './rewrap-rows.js'
import { SeenTenants } from './seen-tenants.js'
import {
  findSharedKeys,
  isV2Row,
  isV2WrapUnderV3Id,
  NO_SHARED_KEYS,
  notCompared,
  type SharedKeys,
  sharedKey,
  V2_WRAP_UNDER_V3_ID,
} from './shared-keys.js'
import { Crowd, ONE_RANGE, rowRanges } from './shared-pages.js'
import { TenantKeys } from './tenant-keys.js'
import { TenantOfUsers } from './tenant-of.js'

/** The options of {@link rewrapAll}. */
export interface RewrapOptions extends LongWorkOptions {
  /** The store whose rows are wrapped anew. */
  readonly store: KeyStore
  /** The primary wraps; the primary and the previous ones unwrap. */
  readonly masterKeys: MasterKeyring | MasterKey
  /** The wrap format written. Default `'v3'`. */
  readonly format?: Format
  /** The wrap formats read, besides the one written. Name `'v2'` to upgrade the Python reference's rows. */
  readonly accept?: readonly Format[]
  /** Go over all rows once and do everything but write. */
  readonly dryRun?: boolean
  /**
   * Ask `tenantOf` about every user who is under the newest version of a tenant's key. Default: about the first 100 of each tenant, and about
   * the others only if one of these belongs elsewhere.
   */
  readonly allUsers?: boolean
  /**
   * Where the keyring says nothing of tenants (neither `tenantOf` nor `tenantRoot`): move tenants' own keys that are under its previous master
   * keys to the primary. Default false: they stay, since a previous key may be the root of a customer's own, and `warnings` counts them.
   */
  readonly moveTenants?: boolean
}

/** What {@link rewrapAll} did. */
export interface RewrapReport {
  /**
   * False if `signal` stopped the rewrap, if the store refused every write of several passes, or if a key service could not be asked for some
   * of the rows: run it again.
   */
  readonly complete: boolean
  /** Whether nothing was written. */
  readonly dryRun: boolean
  /** The KEK id of the primary, under which rows are that belong to no tenant. */
  readonly kekId: string
  /** The rows by master key when it began. */
  readonly before: readonly CensusRow[]
  /** The rows by master key when it ended. */
  readonly after: readonly CensusRow[]
  /** Rows that this call rewrapped, or with `dryRun` would have. */
  readonly changed: number
  /** Rows that another writer changed first, such as a concurrent rewrap or a shred. */
  readonly skipped: number
  /** The first 1,000 rows that could not be rewrapped, each with the reason. */
  readonly failed: readonly RowFailure[]
  /** How many rows failed in all; `failed` has the first of them. */
  readonly failedCount: number
  /** For each master key: whether any row still needs it. */
  readonly masterKeys: readonly MasterKeyUse[]
  /** The keys of tenants that this call moved, counted by the root from which: the first 100 roots. Each version is a key. */
  readonly tenantsMoved: readonly { readonly fromKekId: string | null; readonly count: number }[]
  /**
   * What to check before a master key is destroyed, because no census knows it; and what was left as it is: tenants' own keys under previous
   * master keys, users who were not asked about (`allUsers`).
   */
  readonly warnings: readonly string[]
}

/**
 * After this many passes in a row in which no write succeeded and the same row was skipped again, the rewrap gives up: the store refuses
 * its writes. A row that a concurrent rewrap has written is not found again, however often the other is faster.
 */
const MAX_REFUSED_PASSES = 5
/** If more than one of so many rows of a page were changed by others first, another process is at work on the same rows. */
const CROWDED = 4
/** Skipped rows that are remembered from one pass to the next. */
const MAX_REMEMBERED = 1000

/**
 * Rewraps every live row that is not yet wrapped under the keyring's primary. Unwraps each new wrap as a check, then writes by
 * compare-and-set, one page in one transaction.
 *
 * With `tenantOf` in the keyring, each user comes under the key of their tenant, which is made if there is none, or back under the primary if
 * they have no tenant now. Tenants' own keys come under `tenantRoot`, or else the primary, and users of earlier versions of a tenant's key
 * under its newest. Users who are under that already are not read: a root with a million users is one row for each tenant. Without `tenantOf`
 * users stay under their tenants' keys. A keyring that has neither says nothing of tenants: their own keys stay where they are, unless
 * `moveTenants`, and those under roots that it does not have are left alone.
 *
 * A key service is asked for each tenant's row: the old root to unwrap, the new one to wrap and to unwrap the result. Users of tenants are
 * wrapped in this process.
 *
 * Several processes may run it at once, and it is safe to run again after it was killed. It ends after a pass that found nothing
 * to do, so it also rewraps keys that a process with the old primary mints meanwhile.
 *
 * A row that does not unwrap is reported, and the others go on. So are the rows of a master key that fails, each with the reason, and users
 * under the key of another tenant than `tenantOf` names. Tenants' own keys that no user needs are left where their roots were not given. Rows
 * in format v2 that hold the same data key as another row are reported and not upgraded.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_STORE · ERR_CLOSED
 * @example
 * const report = await rewrapAll({ store, masterKeys: masterKeysFromEnv() })
 * const retired = report.masterKeys.filter(({ noRowNeedsIt }) => noRowNeedsIt)
 */
export function rewrapAll(options: RewrapOptions): Promise<RewrapReport> {
  return traced('rewrapAll', () => rewrap(options))
}

async function rewrap(options: RewrapOptions): Promise<RewrapReport> {
  options = checkedOptions(options, 'store')
  const { store, dryRun = false, format = 'v3', allUsers = false, moveTenants = false, signal } = options
  assertFormat(format)
  const keyring = keyringOf(options.masterKeys)
  if (format === 'v2' && keyring.tenantOf !== null)
    throw invalidArgument("format 'v2' cannot bind a key to its row, so there are no tenants in it")
  const accept = acceptedFormats('accept', options.accept, format)
  const emit = eventEmitter(options)
  const tenants = new TenantKeys(store, keyring, emit)
  const tenantOfUsers = new TenantOfUsers(keyring)
  const own = { keyring, tenants, tenantOfUsers, format, accept, dryRun, allUsers, moveTenants, emit }
  const seen = new SeenTenants(store)
  const job: RewrapJob = {
    ...options,
    ...own,
    seen,
    onSampled: () => undefined,
    onUnreadable: () => undefined,
    ranges: ONE_RANGE,
    crowd: new Crowd(),
  }
  const kekId = primaryKekId(keyring, format)
  const before = await countedRows(job)

  let pass: PassResult = newPass()
  let changed = 0
  let skipped = 0
  const tenantsMoved: TenantCounts = new Map()
  let after = before
  let left = leftBy(before, job)
  let done = left === 0
  let isByIndex = true
  for (let refused = 0; !done && refused < MAX_REFUSED_PASSES && !signal?.aborted; ) {
    const shared = await sharedKeys(job, after)
    // An aborted comparison may have missed a copy.
    if (signal?.aborted) break
    const { skippedRefs } = pass
    pass = await rewrapPass(job, after, shared, isByIndex)
    changed = dryRun ? pass.changed : changed + pass.changed
    skipped += pass.skipped
    if (dryRun) tenantsMoved.clear()
    addCounts(tenantsMoved, pass.tenantsMoved)
    const isRefused = pass.changed === 0 && [...pass.skippedRefs].some((ref) => skippedRefs.has(ref))
    refused = isRefused ? refused + 1 : 0
    after = await countedRows(job)
    left = leftBy(after, job)
    const foundNothing = dryRun || pass.changed + pass.skipped === 0
    // Some of those that are left were on no page: the index does not lead to them.
    const areUnseen: boolean = isByIndex && foundNothing && left !== null && left > pass.seen
    isByIndex = !areUnseen
    done = left === 0 || (!signal?.aborted && foundNothing && !areUnseen)
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
    tenantsMoved: [...tenantsMoved].slice(0, MOST_LISTED).map(([fromKekId, count]) => ({ fromKekId, count })),
    warnings: [...RETIREMENT_WARNINGS, ...leftAsTheyAre(job, after, pass)],
  }
}

/** A census, which reads all rows: it says so. */
async function countedRows({ store, keyring, onProgress }: RewrapJob): Promise<CensusRow[]> {
  onProgress?.(COUNTING)
  return censusFor(store, keyring)
}

/** By KEK id. */
type TenantCounts = Map<string | null, number>

/** Customers' own roots are as many as tenants. */
const MOST_LISTED = 100

function addCounts(to: TenantCounts, counts: TenantCounts): void {
  for (const [kekId, count] of counts) to.set(kekId, (to.get(kekId) ?? 0) + count)
}

/** What a rewrap has not done, and who wants it has to say so. */
function leftAsTheyAre(
  { keyring, moveTenants }: RewrapJob,
  counted: readonly CensusRow[],
  { sampled }: PassResult,
): string[] {
  const warnings: string[] = []
  if (sampled > 0)
    warnings.push(
      `Only the first ${SAMPLED_USERS} users under the key of each tenant were asked about, and of ${sampled} ${sampled === 1 ? 'tenant' : 'tenants'} there are more: if ` +
        '`tenantOf` may name another tenant or none for one of them, run rewrapAll with `allUsers: true`',
    )
  if (knowsTenants(keyring) || moveTenants) return warnings
  for (const { id } of keyring.previous) {
    const count = liveCount(counted, ({ kekId, ofTenants }) => ofTenants === true && kekId === id)
    if (count > 0)
      warnings.push(
        `${count.toLocaleString('en')} ${count === 1 ? 'key of a tenant stays' : 'keys of tenants stay'} under master key ${printable(id)}, which may be a customer's own: ` +
          'move-tenant (`npx keystore move-tenant ID`, or `moveTenant`) moves one tenant, and `npx keystore rewrap --tenants` (`moveTenants: true`) all of ' +
          'them to the primary',
      )
  }
  return warnings
}

/** How many rows a census shows to be elsewhere than they belong. Null if that takes looking at them: there are tenants, or are to be. */
function leftBy(counted: readonly CensusRow[], { keyring, format }: RewrapJob): number | null {
  if (keyring.tenantOf !== null || hasTenants(counted)) return null
  const kekId = primaryKekId(keyring, format)
  return liveCount(counted, (row) => row.kekId !== kekId)
}

/** What one call of rewrapAll works with. */
interface RewrapJob extends RewrapRows {
  readonly accept: readonly Format[]
  readonly emit: EmitEvent
}

interface PassResult {
  /** Rows that came on a page, or on the way to one. */
  seen: number
  changed: number
  /** Tenants' own rows among these, by the KEK id from which they were moved. */
  readonly tenantsMoved: TenantCounts
  /** Tenants of whose users only the first were asked about. */
  sampled: number
  skipped: number
  /** The first of them, by {@link refKey}. */
  readonly skippedRefs: Set<string>
  /** The failures of this pass only: rows that failed in an earlier one may have been repaired meanwhile. */
  readonly failures: Failures
}

function newPass(): PassResult {
  return {
    seen: 0,
    changed: 0,
    tenantsMoved: new Map(),
    sampled: 0,
    skipped: 0,
    skippedRefs: new Set(),
    failures: new Failures(),
  }
}

/**
 * Goes once over every row that may be elsewhere than it belongs.
 *
 * @param isByIndex whether rows are found by the KEK ids of the census, which is faster by far
 */
async function rewrapPass(
  job: RewrapJob,
  counted: readonly CensusRow[],
  shared: SharedKeys,
  isByIndex: boolean,
): Promise<PassResult> {
  const pass = newPass()
  const kekIds = kekIdsOfUsers(job, counted)
  const total = liveCount(counted, ({ kekId, ofTenants }) => ofTenants === true || kekIds.has(kekId))
  const progress = new ProgressMeter('rewrapping', total, job)
  progress.add(0)
  const onUnreadable = ({ userId, version, error }: UnreadableRow) => {
    pass.seen += 1
    pass.failures.add({ userId, version, kekId: null }, error)
  }
  // The database writes one page while the next is unwrapped and wrapped.
  let writing: Promise<void> = Promise.resolve()
  try {
    const onSampled = () => {
      pass.sampled += 1
    }
    const ofPass = {
      ...job,
      seen: new SeenTenants(job.store),
      onSampled,
      onUnreadable,
      ranges: await rowRanges(job.store, totalCount(counted)),
      crowd: new Crowd(),
      onIdle: () => progress.add(0),
    }
    for await (const page of isByIndex ? rowsToRewrap(ofPass, counted) : rowsNotUnderPrimary(ofPass)) {
      const start = performance.now()
      pass.seen += page.length
      const changes = await rewrapPage(ofPass, page, shared, pass.failures)
      await writing
      writing = writeChanges(job, pass, changes, start).then((written) => {
        progress.add(page.length)
        if ((changes.length - written.size) * CROWDED > changes.length) ofPass.crowd.report(page)
        for (const row of page)
          if (isTenantRow(row) && written.has(refKey(row)))
            addCounts(pass.tenantsMoved, new Map([[row.kekId, 1]]))
      })
      writing.catch(() => undefined)
    }
    // An earlier error of a write ends the pass as well.
    await writing
    if (job.signal?.aborted !== true) progress.finish()
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
  /** Tenants whose root failed for one of the versions: the others wait for it, so that all are under one root. */
  const waiting = new Set<string>()
  const changes = await mapConcurrently(page, (record) =>
    rewrapRecord(job, record, shared, page).catch(async (error) => {
      if (!isRowError(error)) throw error
      if (await isLeftOver(job.store, record, page, error)) return null
      failures.add(record, error)
      if (isTenantRow(record) && error.code === 'ERR_MASTER_KEY') waiting.add(record.userId)
      return null
    }),
  )
  return changes.filter((change) => change !== null && !waiting.has(change.userId)) as WrapChange[]
}

/** @returns null if the row is where it belongs */
async function rewrapRecord(
  job: RewrapJob,
  record: KeyRecord,
  shared: SharedKeys,
  page: readonly KeyRecord[],
): Promise<WrapChange | null> {
  const { keyring, accept, tenants } = job
  const target = await targetOf(job, record, page)
  if (target === null) return null
  if (isV2WrapUnderV3Id(keyring, record)) throw new MasterKeyError('ERR_UNWRAP_FAILED', V2_WRAP_UNDER_V3_ID)
  const group = shared.groups.get(refKey(record))
  if (group !== undefined && isV2Wrap(record.encryptedKey)) throw sharedKey(record, group)
  if (shared.failure !== null && isV2Row(keyring, record)) throw notCompared(record, shared.failure)
  const { kek: to, format, whileLive } = target
  const from = await tenants.kekOf(record)
  const change = await rewrapped(keyring, record, { from, accept, to, format })
  if (isTenantRow(record)) tenants.rewrapped(record, change)
  return { ...change, whileLive }
}

async function writeChanges(
  { store, tenants, dryRun, emit }: RewrapJob,
  pass: PassResult,
  changes: readonly WrapChange[],
  start: number,
): Promise<ReadonlySet<string>> {
  const written: readonly KeyRef[] =
    dryRun || changes.length === 0 ? changes : await store.replaceWrapped(changes)
  pass.changed += written.length
  pass.skipped += changes.length - written.length
  const refs = new Set(written.map(refKey))
  const counts = new Map<string | null, number>()
  for (const change of changes) {
    const ref = refKey(change)
    const tenantId = tenantIdOf(change.userId)
    if (tenantId !== null) tenants.changed(tenantId)
    if (refs.has(ref)) counts.set(change.kekId, (counts.get(change.kekId) ?? 0) + 1)
    else if (pass.skippedRefs.size < MAX_REMEMBERED) pass.skippedRefs.add(ref)
  }
  const durationMs = durationSince(start)
  if (!dryRun)
    for (const [kekId, count] of counts)
      if (kekId !== null) emit({ type: 'rewrapped', kekId, count, durationMs })
  return refs
}

/** Looks for shared keys only where v2 wraps are upgraded: nothing else can bind a copied key to the wrong user. */
async function sharedKeys(job: RewrapJob, rows: readonly CensusRow[]): Promise<SharedKeys> {
  const { store, tenants, format, accept } = job
  const v2Rows = liveCount(rows, ({ kekId }) => formatOfKekId(kekId) === 'v2')
  if (format === 'v2' || !accept.includes('v2') || v2Rows === 0) return NO_SHARED_KEYS
  return findSharedKeys(store, tenants, accept, totalCount(rows), job)
}
