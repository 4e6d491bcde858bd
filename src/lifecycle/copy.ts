/** Copies a key store into another: for the move to production, backups and restores. Unwraps no key and needs no master key. */

import { invalidArgument, quoted, StoreError } from '../errors.js'
import { isTurnDueInLoop, nextTurn } from '../event-loop.js'
import { incrementalSha256 } from '../format/aead.js'
import { preAuthEncode } from '../format/encoding.js'
import { afterErasures, type Erasures, eraseAgain, readErasures } from '../key-log/erasures.js'
import { loggedStore } from '../key-log/logged-store.js'
import { readableRows } from '../key-log/readable-rows.js'
import { describeRef } from '../master-keys/key-wrap.js'
import type { CensusRow, KeyStore, StoreMaintenance } from '../store.js'
import { isTombstone, type KeyRecord, type KeyRef, refKey } from '../table.js'
import { traced } from '../traced-calls.js'
import { kindOf } from '../validate.js'
import { CopiedRows, type CopyOnly } from './copied-rows.js'
import { CopyFailures, copyable, restoreEach, type Side } from './copy-failures.js'
import {
  checkedOptions,
  groupPagesByUser,
  type LongWorkOptions,
  ProgressMeter,
  type RowFailure,
} from './long-work.js'

/** The options of {@link copyKeys}. */
export interface CopyOptions extends LongWorkOptions {
  /** The store that is read. Nothing of it is changed. */
  readonly from: KeyStore
  /** The store that is written. It needs `maintenance`. */
  readonly to: KeyStore
  /** Copy and compare the rows of these users and tenants alone, such as one that is missing at the target. Default: all rows. */
  readonly only?: CopyOnly
  /** The path of a key log. Users whom it names as shredded are copied as erased, and are erased again at the target. */
  readonly keyLog?: string
  /**
   * Users whom the source has shredded and the target has not: erase them at the target too. True for all, or a list of those who may be.
   * Whoever can write to the source could otherwise erase keys of the target. Default: refuse (ERR_CONFLICT), unless the key log names them.
   */
  readonly applyErasures?: boolean | readonly string[]
  /** Compare, and write nothing. The report then lists every conflict. */
  readonly dryRun?: boolean
}

/** What {@link copyKeys} did. */
export interface CopyReport {
  /** False if `signal` stopped the copy: run it again. */
  readonly complete: boolean
  /** Whether nothing was written. */
  readonly dryRun: boolean
  /** Rows written at the target, or with `dryRun` that would be. */
  readonly copied: number
  /** Users who were erased at the target because of the key log or a tombstone of the source; with `dryRun`, who would be. */
  readonly shredded: readonly string[]
  /** Users with keys at the source that were not brought to the target, because the key log says that they have ended: shredded or forgotten. */
  readonly ended: readonly string[]
  /** With `dryRun`: users whom only `applyErasures` would erase at the target. Without it the copy would be refused. */
  readonly refused: readonly string[]
  /** With `dryRun`: the first 1,000 rows for which the copy would be refused. */
  readonly conflicts: readonly CopyConflict[]
  /** How many rows differ in all; `conflicts` has the first of them. */
  readonly conflictCount: number
  /**
   * The first 1,000 rows that were not copied, or not compared, because of what is wrong with them: rows of either store that cannot be
   * read, live rows of a user whom the source has shredded, and rows that the target does not take. All others were copied.
   */
  readonly failed: readonly RowFailure[]
  /** How many rows failed in all; `failed` has the first of them. */
  readonly failedCount: number
  /** Rows that only the target has; 0 unless `complete`. */
  readonly extra: number
  /** With `only`: of these rows. */
  readonly census: { readonly from: readonly CensusRow[]; readonly to: readonly CensusRow[] }
  /**
   * SHA-256 over all records in order, as hexadecimal text: of the source with the key log applied and without what is `failed`, and of the
   * target. With `only` over these. Of an erased key it says whose and which it was, and not when it was erased or what had wrapped it. Null
   * unless `complete`.
   */
  readonly digest: { readonly from: string | null; readonly to: string | null }
  /** Whether both stores hold the same records, of those to be copied: the digests are equal, and no row failed. */
  readonly equal: boolean
}

/** A row that both stores have, with different keys or states. */
export interface CopyConflict extends KeyRef {
  /** What differs, without a secret. */
  readonly reason: string
  /** The row of the source. */
  readonly from: ConflictingRow
  /** Null if the user has a tombstone under another version at the target. */
  readonly to: ConflictingRow | null
}

/** What tells two keys apart: a token opens under the one that made it. */
export type ConflictingRow = Pick<KeyRecord, 'kekId' | 'createdAt' | 'wrappedAt' | 'shreddedAt'>

/** Bounds a copy whose source is written all the time. Rows minted later are copied by the next call. */
const MAX_PASSES = 10

/** For `isTurnDueInLoop`: comparing two records takes as long as so many tokens. */
const COMPARISON_WEIGHT = 4

/**
 * Copies every row of the source to the target, exactly, tombstones included. Reads every written row back and compares it; at
 * the end compares all rows of both stores.
 *
 * It is safe to repeat, also after it was killed. A further call copies what was minted meanwhile. If the target holds another
 * key under the same user and version, the copy names that row and refuses before it writes anything. A row that cannot be copied is named
 * in `failed` and stops no other.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_KEY_NOT_FOUND (the source has no row of an id in `only`) · ERR_CONFLICT (with `ref`: the row that differs; or names the users whom the source has shredded, see
 *   `applyErasures`) · ERR_STORE (an outage) · ERR_CLOSED
 * @example
 * const { equal } = await copyKeys({ from: await openKeyStore('data/keystore.db'), to: await openKeyStore('postgres://…') })
 */
export function copyKeys(options: CopyOptions): Promise<CopyReport> {
  return traced('copyKeys', () => copy(options))
}

async function copy(options: CopyOptions): Promise<CopyReport> {
  options = checkedOptions(options, 'from', 'to')
  const { from, to, keyLog, applyErasures = false, dryRun = false, signal } = options
  const target = to.maintenance
  if (target === undefined) throw invalidArgument('to must be a key store that rows can be copied into')
  const mayErase = assertErasures(applyErasures)
  const rows = new CopiedRows(options.only)
  const readLog = async () => (keyLog === undefined ? NO_ERASURES : rows.erasures(await readErasures(keyLog)))
  const erasures = await readLog()
  const logged = keyLog === undefined ? to : loggedStore(to, keyLog)
  const job: CopyJob = {
    ...options,
    target,
    logged,
    rows,
    erasures,
    mayErase,
    dryRun,
    shredded: new Set(),
    ended: new Set(),
    failures: new CopyFailures(),
  }

  await rows.assertIn(from)
  const before = await compare(job)
  let copied = before.missing + before.erased
  if (dryRun) {
    for (const userId of await eraseAgain(to, erasures, { dryRun })) job.shredded.add(userId)
  } else {
    if (before.refused.length > 0) throw erasuresRefused(before.refused)
    copied = 0
    // The last pass writes nothing, so it has compared every row once more.
    for (let pass = 1, written = -1; written !== 0 && pass <= MAX_PASSES && !signal?.aborted; pass += 1) {
      written = await copyPass(job, pass)
      copied += written
    }
    // Read again, because lines may have been added meanwhile.
    if (keyLog !== undefined && !signal?.aborted)
      for (const userId of await eraseAgain(to, await readLog(), { dryRun: false })) job.shredded.add(userId)
  }
  const complete = !signal?.aborted
  const counted = { from: await rows.census(from), to: await rows.census(to) }
  const { refused, conflicts, conflictCount } = before
  const found = { shredded: [...job.shredded], ended: [...job.ended], refused, conflicts, conflictCount }
  const base = { complete, dryRun, copied, ...found, census: counted }
  const reportOf = (digest: CopyReport['digest'], extra: number): CopyReport => {
    const { listed: failed, count: failedCount } = job.failures
    const equal = digest.from !== null && digest.from === digest.to && failedCount === 0
    return { ...base, failed, failedCount, extra, digest, equal }
  }
  if (!complete) return reportOf({ from: null, to: null }, 0)
  const digests = { from: await digestOf(job, 'source'), to: await digestOf(job, 'target') }
  const shared = digests.from.rows - (dryRun ? before.missing : 0)
  return reportOf({ from: digests.from.sha256, to: digests.to.sha256 }, Math.max(0, digests.to.rows - shared))
}

/** Whether a user of the target may be erased because the source has a tombstone. */
type MayErase = (userId: string) => boolean

/** @throws ERR_INVALID_ARGUMENT */
function assertErasures(applyErasures: unknown): MayErase {
  if (typeof applyErasures === 'boolean') return () => applyErasures
  if (!Array.isArray(applyErasures) || applyErasures.some((userId) => typeof userId !== 'string'))
    throw invalidArgument(
      `applyErasures must be a boolean or an array of user ids, got ${kindOf(applyErasures)}`,
    )
  const users = new Set<string>(applyErasures)
  return (userId) => users.has(userId)
}

/** What one call of copyKeys works with. */
interface CopyJob extends LongWorkOptions {
  readonly from: KeyStore
  readonly to: KeyStore
  readonly target: StoreMaintenance
  /** The target, which records erasures in the key log if there is one. */
  readonly logged: KeyStore
  readonly rows: CopiedRows
  readonly erasures: Erasures
  readonly mayErase: MayErase
  readonly dryRun: boolean
  /** Collects the users who were erased at the target. */
  readonly shredded: Set<string>
  /** Collects the users of the source whose keys the key log ends. */
  readonly ended: Set<string>
  readonly failures: CopyFailures
}

/** What a comparison has found, before anything is written. */
interface Comparison {
  /** How many rows the target lacks. */
  readonly missing: number
  /** How many rows it has to erase. */
  readonly erased: number
  readonly refused: readonly string[]
  readonly conflicts: readonly CopyConflict[]
  readonly conflictCount: number
}

/** Compares all rows. @throws ERR_CONFLICT naming the first row that differs, unless it is a dry run */
async function compare(job: CopyJob): Promise<Comparison> {
  const counts = { missing: 0, erased: 0, conflictCount: 0 }
  const refused = new Set<string>()
  const conflicts: CopyConflict[] = []
  for await (const page of differingPages(job, 'comparing')) {
    counts.missing += page.missing.length
    counts.erased += page.erased.length
    counts.conflictCount += page.conflicts.length
    conflicts.push(...page.conflicts.slice(0, MAX_LISTED_CONFLICTS - conflicts.length))
    for (const userId of page.erasedUsers.keys()) job.shredded.add(userId)
    for (const userId of page.refused) refused.add(userId)
  }
  return { ...counts, refused: [...refused], conflicts }
}

const MAX_LISTED_CONFLICTS = 1000

/** Goes over the source once. @returns how many rows were written */
async function copyPass(job: CopyJob, pass: number): Promise<number> {
  let written = 0
  for await (const page of differingPages(job, pass === 1 ? 'copying' : 'copying again')) {
    const { missing, erased, erasedUsers, refused } = page
    // Shredded at the source since the comparison.
    if (refused.length > 0) throw erasuresRefused(refused)
    // One shred erases all versions of a user.
    for (const [userId, { at, isLogged }] of erasedUsers) {
      await (isLogged ? job.to : job.logged).shred(userId, { forget: false, at })
      job.shredded.add(userId)
    }
    written += erased.length + missing.length
    if (missing.length === 0) continue
    const stored = new Map((await restoreEach(job, missing)).map((row) => [refKey(row), row]))
    for (const record of missing) {
      if (isTurnDueInLoop(COMPARISON_WEIGHT)) await nextTurn()
      if (job.failures.has('source', record)) {
        written -= 1
        continue
      }
      const found = stored.get(refKey(record))
      if (found === undefined || !isSameRecord(record, found)) throw conflict(record, found)
    }
  }
  return written
}

/** Rows of one page of the source that the target has not in the same state. */
interface DifferingRows {
  readonly missing: KeyRecord[]
  /** Tombstones whose rows are live at the target. */
  readonly erased: KeyRecord[]
  /** Users who have live rows at the target and a tombstone here, and who may be erased. `isLogged`: the key log names them already. */
  readonly erasedUsers: Map<string, { readonly at: Date; readonly isLogged: boolean }>
  /** The same, but nobody has allowed it. */
  readonly refused: string[]
  /** Only in a dry run. */
  readonly conflicts: CopyConflict[]
}

/**
 * Applies the key log to the source's rows, page by page, and compares them with the target.
 *
 * @throws ERR_CONFLICT naming a row that differs at the target, unless it is a dry run
 */
async function* differingPages(job: CopyJob, phase: string): AsyncGenerator<DifferingRows, void, undefined> {
  const { from, to, rows, erasures, failures } = job
  const progress = new ProgressMeter(phase, await rows.size(from), job)
  const pages = rows.pages(from, job, ({ error, ...ref }) => failures.add('source', ref, error))
  for await (const users of groupPagesByUser(pages, job)) {
    const records = users.flatMap((versions) => copyable(job, versions, erasures))
    const stored = await readableRows(to, [...new Set(records.map(({ userId }) => userId))])
    const differing: DifferingRows = {
      missing: [],
      erased: [],
      erasedUsers: new Map(),
      refused: [],
      conflicts: [],
    }
    for (const record of records) {
      if (isTurnDueInLoop(COMPARISON_WEIGHT)) await nextTurn()
      if (failures.has('source', record)) continue
      const versions = stored.get(record.userId) ?? []
      if (versions instanceof Error) failures.add('target', record, versions)
      else compareRow(job, record, versions, differing)
    }
    yield differing
    progress.add(users.flat().length)
  }
}

/** @param versions the target's rows of the same user */
function compareRow(
  job: CopyJob,
  record: KeyRecord,
  versions: readonly KeyRecord[],
  differing: DifferingRows,
): void {
  const { userId } = record
  const found = versions.find(({ version }) => version === record.version)
  const live = versions.filter((row) => !isTombstone(row))
  const isRefusedByTombstone = found === undefined && !isTombstone(record) && live.length < versions.length
  if (isRefusedByTombstone || (found !== undefined && isConflict(record, found))) {
    if (!job.dryRun) throw conflict(record, found, job.rows.userIds === null ? COPY_SOME : '')
    differing.conflicts.push(describeConflict(record, found))
    return
  }
  // A tombstone ends all keys of its user, whichever version it has.
  if (isTombstone(record) && live.length > 0 && !isAllowed(job, userId, live, record, differing)) return
  if (found === undefined) differing.missing.push(record)
  else if (isErasedAtSource(record, found)) differing.erased.push(record)
}

/** Notes that the user's keys at the target have to be erased. @returns whether they may be */
function isAllowed(
  { erasures, mayErase }: CopyJob,
  userId: string,
  live: readonly KeyRecord[],
  { shreddedAt }: KeyRecord,
  differing: DifferingRows,
): boolean {
  const isLogged = live.every((row) => afterErasures(row, erasures) !== row)
  if (isLogged || mayErase(userId)) {
    differing.erasedUsers.set(userId, { at: shreddedAt ?? new Date(), isLogged })
    return true
  }
  if (!differing.refused.includes(userId)) differing.refused.push(userId)
  return false
}

/** The users named in a refusal; a dry run lists all of them. */
const MAX_NAMED = 10

function erasuresRefused(users: readonly string[]): StoreError {
  const names = users.slice(0, MAX_NAMED).map((userId) => (userId === '' ? 'the pool' : quoted(userId)))
  const more = users.length > MAX_NAMED ? ` and ${users.length - MAX_NAMED} more` : ''
  return new StoreError(
    `The source says that users were shredded whose keys are live at the target: ${names.join(', ')}${more}. Nothing was written. ` +
      'If it is right, copy with applyErasures (keystore: --apply-erasures), which erases these keys at the target for good',
    { code: 'ERR_CONFLICT' },
  )
}

/**
 * Whether the target has the row as it was before the source shredded it. `createdAt` tells: a shred leaves it as it is and
 * erases the wrapped key.
 */
function isErasedAtSource(source: KeyRecord, target: KeyRecord): boolean {
  const isTombstoneNow = source.shreddedAt !== null && target.shreddedAt === null
  return isTombstoneNow && source.createdAt.getTime() === target.createdAt.getTime()
}

function isConflict(record: KeyRecord, found: KeyRecord): boolean {
  return !isSameRecord(record, found) && !isErasedAtSource(record, found)
}

function isSameRecord(a: KeyRecord, b: KeyRecord): boolean {
  return Buffer.compare(canonicalBytes(a), canonicalBytes(b)) === 0
}

function canonicalBytes(record: KeyRecord): Buffer {
  const { userId, version, encryptedKey, kekId, createdAt, wrappedAt, shreddedAt } = record
  // What had wrapped an erased key says nothing any more, and two stores may have erased it at different times.
  const state =
    shreddedAt === null ? [kekId, wrappedAt?.toISOString() ?? null, null] : [null, null, 'shredded']
  // Each value that may be null has a flag before it, so that a null KEK id and an empty one have different bytes.
  const pieces = state.flatMap((value) => (value === null ? ['0', ''] : ['1', value]))
  return preAuthEncode([userId, String(version), encryptedKey, createdAt.toISOString(), ...pieces])
}

interface RecordsDigest {
  readonly sha256: string
  readonly rows: number
}

const NO_ERASURES: Erasures = new Map()

async function digestOf(job: CopyJob, side: Side): Promise<RecordsDigest> {
  const store = side === 'source' ? job.from : job.to
  const erasures = side === 'source' ? job.erasures : NO_ERASURES
  const hash = incrementalSha256()
  const progress = new ProgressMeter('comparing all records', await job.rows.size(store), job)
  let rows = 0
  const pages = job.rows.pages(store, { ...job, signal: undefined }, ({ error, ...ref }) =>
    job.failures.add(side, ref, error),
  )
  for await (const page of pages) {
    progress.add(page.length)
    for (const record of page) {
      if (isTurnDueInLoop(COMPARISON_WEIGHT)) await nextTurn()
      if (job.failures.has(side, record)) continue
      const remaining = afterErasures(record, erasures)
      if (remaining === null) continue
      rows += 1
      hash.update(canonicalBytes(remaining))
    }
  }
  return { sha256: hash.digest().toString('hex'), rows }
}

const COPY_SOME =
  '. To copy the rows of some users or tenants alone, name them: only (npx keystore restore FILE --user ID, or --tenant ID)'

/** @param found the target's row; undefined if a tombstone of the user kept the record from being inserted */
function conflict(record: KeyRecord, found: KeyRecord | undefined, advice = ''): StoreError {
  const { userId, version } = record
  return new StoreError(
    `The row of ${describeRef(record)} ${conflictReason(record, found)}. Nothing of it was written${advice}`,
    { code: 'ERR_CONFLICT', ref: { userId, version } },
  )
}

function describeConflict(record: KeyRecord, found: KeyRecord | undefined): CopyConflict {
  const { userId, version } = record
  const reason = conflictReason(record, found)
  return { userId, version, reason, from: rowState(record), to: found === undefined ? null : rowState(found) }
}

function rowState({ kekId, createdAt, wrappedAt, shreddedAt }: KeyRecord): ConflictingRow {
  return { kekId, createdAt, wrappedAt, shreddedAt }
}

function conflictReason(record: KeyRecord, found: KeyRecord | undefined): string {
  const isTombstone = record.shreddedAt !== null
  if (found === undefined || (found.shreddedAt !== null && !isTombstone))
    return 'was shredded at the target: shred the user at the source too'
  if (found.shreddedAt !== null) return 'is another tombstone at the target: find out which is right'
  if (isTombstone)
    return 'is a tombstone at the source and another live key at the target: find out which is right'
  return 'is another key at the target, or was rewrapped since it was copied: copy into an empty store, or find out which is right'
}
