/** Copies a key store into another: for the move to production, backups and restores. Unwraps no key and needs no master key. */

import { invalidArgument } from '../errors.js'
import { CALLS, isTurnDueInLoop, nextTurn } from '../event-loop.js'
import { type Erasures, eraseAgain, readErasures } from '../key-log/erasures.js'
import { loggedStore } from '../key-log/logged-store.js'
import type { CensusRow, KeyStore, StoreMaintenance } from '../store.js'
import { traced } from '../traced-calls.js'
import { kindOf } from '../validate.js'
import { CopiedRows, type CopyOnly } from './copied-rows.js'
import {
  type CopyComparing,
  type CopyConflict,
  conflict,
  type DifferingRows,
  differingRows,
  erasuresRefused,
} from './copy-comparison.js'
import { CopyFailures, restoreEach } from './copy-failures.js'
import { copyPages, type TargetLook } from './copy-pages.js'
import { checkedOptions, type LongWorkOptions, type RowFailure } from './long-work.js'
import { COMPARISON_WEIGHT, isSameRecord, PairedDigests } from './record-digest.js'

export type { ConflictingRow, CopyConflict } from './copy-comparison.js'

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

/** Bounds a copy whose source is written all the time. Rows minted later are copied by the next call. */
const MAX_PASSES = 10

/**
 * Copies every row of the source to the target, exactly, tombstones included. In the end it reads all rows of both stores and compares
 * them: whatever was changed meanwhile, `equal` is true only of what it has then read.
 *
 * It is safe to repeat, also after it was killed. A further call copies what was minted meanwhile. If the target holds another
 * key under the same user and version, the copy names that row and refuses before it writes anything. If the target was empty and others write
 * to it meanwhile, what was copied before stays; no row of theirs is changed. A row that cannot be copied is named
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
  const firstLook = await lookFor(job)
  const before = firstLook === 'taken for empty' ? NOTHING_THERE : await compare(job, firstLook)
  let { digests } = before
  let { copied } = before
  if (dryRun) {
    for (const userId of await eraseAgain(to, erasures, { dryRun })) job.shredded.add(userId)
  } else {
    if (before.refused.length > 0) throw erasuresRefused(before.refused)
    copied = 0
    let look = firstLook
    for (let pass = 1; digests === null && pass <= MAX_PASSES && !signal?.aborted; pass += 1) {
      const done = await copyPass(job, pass === 1 ? 'copying' : 'comparing', look)
      copied += done.written
      digests = done.digests
      look = 'in order'
    }
    // Read again, because lines may have been added meanwhile.
    if (keyLog !== undefined && !signal?.aborted) {
      for (const userId of await eraseAgain(to, await readLog(), { dryRun: false })) {
        job.shredded.add(userId)
        digests = null
      }
    }
  }
  const complete = !signal?.aborted
  if (complete) digests ??= await digestsOf(job)
  const census = { from: await job.rows.census(from), to: await job.rows.census(to) }
  const { refused, conflicts, conflictCount } = before
  const found = { shredded: [...job.shredded], ended: [...job.ended], refused, conflicts, conflictCount }
  const base = { complete, dryRun, copied, ...found, census }
  const { listed: failed, count: failedCount } = job.failures
  if (!complete || digests === null) {
    const digest = { from: null, to: null }
    return { ...base, failed, failedCount, extra: 0, digest, equal: false }
  }
  const digest = { from: digests.from, to: digests.to }
  return {
    ...base,
    failed,
    failedCount,
    extra: digests.extra,
    digest,
    equal: digest.from === digest.to && failedCount === 0,
  }
}

const NO_ERASURES: Erasures = new Map()

/** From so many times the rows of the source on, looking its users up at the target takes less time than reading all of the target. */
const LARGE_TARGET = 4

async function lookFor({ from, to, rows, dryRun }: CopyJob): Promise<TargetLook> {
  if (rows.userIds !== null) return 'looked up'
  let isEmpty = true
  const onUnreadable = () => {
    isEmpty = false
  }
  isEmpty = (await to.list({ limit: 1, onUnreadable })).length === 0 && isEmpty
  if (isEmpty && !dryRun) return 'taken for empty'
  return (await rows.size(to)) > LARGE_TARGET * (await rows.size(from)) ? 'looked up' : 'in order'
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
interface CopyJob extends CopyComparing {
  readonly target: StoreMaintenance
  /** The target, which records erasures in the key log if there is one. */
  readonly logged: KeyStore
  /** Collects the users who were erased at the target. */
  readonly shredded: Set<string>
}

type Digests = ReturnType<PairedDigests['digests']>

/** What a comparison has found, before anything is written. */
interface Comparison {
  /** How many rows the target lacks, or has to erase. */
  readonly copied: number
  readonly refused: readonly string[]
  readonly conflicts: readonly CopyConflict[]
  readonly conflictCount: number
  /** Null if something is to be copied or erased, if not all of the target was looked at, or if the comparison was stopped. */
  readonly digests: Digests | null
}

/** Somebody may write meanwhile: `restore` leaves what stands, and the copy refuses what it then finds. */
const NOTHING_THERE: Comparison = {
  copied: 0,
  refused: [],
  conflicts: [],
  conflictCount: 0,
  digests: null,
}

/** Compares all rows. @throws ERR_CONFLICT naming the first row that differs, unless it is a dry run */
async function compare(job: CopyJob, look: TargetLook): Promise<Comparison> {
  const counts = { copied: 0, conflictCount: 0 }
  const refused = new Set<string>()
  const conflicts: CopyConflict[] = []
  const digests = look === 'in order' ? new PairedDigests() : null
  let isQuiet = true
  const isDone = () => job.dryRun || isQuiet
  for await (const { pairs, done } of copyPages(job, 'comparing', look, isDone)) {
    const page = await differingRows(job, pairs, digests)
    isQuiet &&= isNothingToWrite(page)
    counts.copied += page.missing.length + page.erased.length
    counts.conflictCount += page.conflicts.length
    conflicts.push(...page.conflicts.slice(0, MAX_LISTED_CONFLICTS - conflicts.length))
    // Otherwise they are named when they have been erased.
    if (job.dryRun) for (const userId of page.erasedUsers.keys()) job.shredded.add(userId)
    for (const userId of page.refused) refused.add(userId)
    done()
  }
  const isWhole = isDone() && !job.signal?.aborted
  return { ...counts, refused: [...refused], conflicts, digests: isWhole ? digestsFrom(digests) : null }
}

const MAX_LISTED_CONFLICTS = 1000

/** Users are counted too: one may have a live row that the source lacks beside a tombstone that both have. */
function isNothingToWrite({ missing, erased, erasedUsers }: DifferingRows): boolean {
  return missing.length + erased.length + erasedUsers.size === 0
}

function digestsFrom(paired: PairedDigests | null): Digests | null {
  return paired?.digests() ?? null
}

/** Compares nothing, for the digests alone. */
async function digestsOf(job: CopyJob): Promise<Digests> {
  const digests = new PairedDigests()
  const reading = { ...job, dryRun: true, signal: undefined }
  for await (const page of copyPages(reading, 'comparing all records', 'in order', () => true)) {
    await differingRows(reading, page.pairs, digests)
    page.done()
  }
  return digests.digests()
}

interface Pass {
  /** How many rows were written. */
  readonly written: number
  /** Null if there was something to write, so that others may have been written meanwhile too. */
  readonly digests: Digests | null
}

/** While the database commits one page, it has the next to insert, and this process another to read and compare. */
const WRITES_AT_ONCE = 2

/** Goes over the source once. Compares one page while the pages before are written. */
async function copyPass(compared: CopyJob, phase: string, look: TargetLook): Promise<Pass> {
  const job = { ...compared, isWriting: true }
  const digests = look === 'in order' ? new PairedDigests() : null
  let written = 0
  let isQuiet = true
  const writing: Promise<number>[] = []
  try {
    for await (const { pairs, done } of copyPages(job, phase, look, () => isQuiet)) {
      const page = await differingRows(job, pairs, digests)
      // Shredded at the source since the comparison.
      if (page.refused.length > 0) throw erasuresRefused(page.refused, true)
      isQuiet &&= isNothingToWrite(page)
      // Nothing is erased at the target once a page was refused.
      const most = page.erasedUsers.size > 0 ? 0 : WRITES_AT_ONCE - 1
      while (writing.length > most) written += await (writing.shift() as Promise<number>)
      if (job.signal?.aborted) break
      // In order: a key log and the report name the users so.
      await erase(job, page)
      written += page.erased.length
      const rows = write(job, page).then((count) => {
        done()
        return count
      })
      // Awaited below, in any case.
      rows.catch(() => undefined)
      writing.push(rows)
    }
  } finally {
    await Promise.allSettled(writing)
  }
  for (const rows of writing) written += await rows
  const isWhole = isQuiet && !job.signal?.aborted
  return { written, digests: isWhole ? digestsFrom(digests) : null }
}

async function erase(job: CopyJob, { erasedUsers }: DifferingRows): Promise<void> {
  // One shred erases all versions of a user.
  for (const [userId, { at, isLogged }] of erasedUsers) {
    await (isLogged ? job.to : job.logged).shred(userId, { forget: false, at })
    job.shredded.add(userId)
  }
}

/** @returns how many rows were written */
async function write(job: CopyJob, { missing }: DifferingRows): Promise<number> {
  let written = missing.length
  if (missing.length === 0) return written
  if (isTurnDueInLoop(CALLS)) await nextTurn()
  const stored = await restoreEach(job, missing)
  // In the order of the rows, less those that were not restored.
  let at = 0
  for (const record of missing) {
    if (isTurnDueInLoop(COMPARISON_WEIGHT)) await nextTurn()
    if (job.failures.has('source', record)) {
      written -= 1
      continue
    }
    const found = stored[at]?.userId === record.userId ? stored[at] : undefined
    at += 1
    if (found === record) continue
    if (found === undefined || !isSameRecord(record, found)) throw conflict(job, record, found)
  }
  return written
}
