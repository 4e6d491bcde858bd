/** The sweep: re-encrypts stored values as v3 tokens under the newest version of their owner's key and the wanted context. */
import type { EnvelopeCrypto } from '../envelope/envelope-crypto.js'
import { invalidArgument } from '../errors.js'
import { nextTurn } from '../event-loop.js'
import { type ContextOf, contextMaker } from '../format/context.js'
import {
  COUNTING,
  checkedOptions,
  DEFAULT_BATCH_SIZE,
  type LongWorkOptions,
  ProgressMeter,
} from '../lifecycle/long-work.js'
import type { SourceFinding } from '../sources/finding.js'
import type { ValueSource } from '../sources/value-source.js'
import { traced } from '../traced-calls.js'
import { kindOf } from '../validate.js'
import { Foresight } from './foresight.js'
import type { LegacyReader } from './legacy/reader.js'
import { OwnerCount, type OwnerReport } from './owner-count.js'
import { SharedOrder } from './shared-order.js'
import { dropPage, finishPage, isDone, type PreparedPage, preparePage, type SweepJob } from './sweep-page.js'
import { type StateCounts, Tally, type ValueFailure } from './tally.js'
import { WrittenValues } from './written-values.js'

/** The options of {@link reencrypt}. */
export interface ReencryptOptions<Row = unknown>
  extends Pick<LongWorkOptions, 'batchSize' | 'signal' | 'onProgress'> {
  /**
   * Must write format v3. To sweep the Python reference's tokens, open it with `accept: { keys: ['v2'], tokens: ['v2'] }`: the
   * sweep can only re-encrypt what the envelope can read.
   */
  readonly envelope: EnvelopeCrypto
  /** Where the values are: `drizzleSource`, `sqlSource`, `jsonlSource` or a source of your own. It is not closed. */
  readonly source: ValueSource<Row>
  /** The wanted context of values for which the source names none. Null: no context. */
  readonly context?: ContextOf<NoInfer<Row>>
  /** Earlier contexts that values may still be encrypted with. */
  readonly previousContexts?: readonly ContextOf<NoInfer<Row>>[]
  /** Encrypt values that are no token and that no legacy reader claims. Default false: they are reported and left as they are. */
  readonly plaintext?: boolean
  /**
   * With `plaintext`: encrypt also what looks like ciphertext of another library, such as `U2FsdGVkX1…` or `<iv>:<tag>:<ciphertext>`. Say so
   * if these values are plaintext, or if they shall stay ciphertext inside of the tokens. Default false: they are reported and left as they
   * are, see `findings`. Give a reader in `legacy` to decrypt them.
   */
  readonly ciphertextAsPlaintext?: boolean
  /** Whether values whose owner is null belong to the shared pool. Default: what the source says, and else false: they are reported. */
  readonly pool?: boolean
  /** Decrypt values that other libraries encrypted. */
  readonly legacy?: readonly LegacyReader<NoInfer<Row>>[]
  /**
   * Make fingerprints with the newest version of their owner's key, before the versions below it are pruned. Default false: with the lowest
   * live version, as `fingerprint` does.
   */
  readonly newestFingerprints?: boolean
  /**
   * Go over all values once and do everything but write. Some new values are written and taken back in the same transaction, to find out
   * what refuses them; see `findings` of the report.
   */
  readonly dryRun?: boolean
}

/** What {@link reencrypt} did. */
export interface ReencryptReport {
  /**
   * False if `signal` stopped the sweep, or if other writers kept adding values in old states: run it again. The counts are
   * then those of the last pass that reached the end.
   */
  readonly complete: boolean
  /** Whether nothing was left written. */
  readonly dryRun: boolean
  /** How many values the first pass found in each state. */
  readonly before: StateCounts
  /** How many values are in each state after the last pass, or with `dryRun` would be. */
  readonly after: StateCounts
  /** Values that this call replaced, or with `dryRun` would have. */
  readonly changed: number
  /** Values that another writer changed first. */
  readonly skipped: number
  /** The first 1,000 values that could not be brought up to date, each with the reason. */
  readonly failed: readonly ValueFailure[]
  /** How many values failed in all; `failed` has the first of them. */
  readonly failedCount: number
  /** Values in an old state: all that are neither current nor empty, without those of shredded owners. */
  readonly left: number
  /** The users whose values this call encrypted, or with `dryRun` would have. */
  readonly owners: OwnerReport
  /**
   * Values that look like ciphertext of another library and that no reader claimed, by column.
   *
   * With `dryRun` also what will refuse new values where they are stored, and what they will set off there, such as a column that is too
   * narrow, a CHECK or a trigger. Found by writing some of them, the first and the longest, and taking that back.
   */
  readonly findings: readonly SourceFinding[]
}

/** Bounds a sweep while other writers keep adding values in old states. */
const MAX_PASSES = 5

/**
 * Re-encrypts every value of a source that is not yet a v3 token under the newest version of its owner's key and the wanted context.
 * Leaves null and current values untouched.
 *
 * It replaces values by compare-and-set: if another writer changes a value meanwhile, that writer wins. It ends after a pass that found
 * nothing to do, and is safe to run again after it was killed. Values without an owner are reported, unless `pool` says that they belong
 * to the shared pool.
 *
 * A whole token is never taken for plaintext: if it does not decrypt, it is reported and left as it is. So is what can only be a damaged
 * token, unless a legacy reader claims it, and so are the values of owners whose master key fails, and those whose replacement a constraint or
 * a trigger refuses.
 *
 * A stored fingerprint (a column of `fingerprintText` beside its value) that does not match its value, or is not under the version that
 * fingerprints are made with, is made anew: only while neither it nor the value has changed.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_STORE · ERR_CLOSED · what the source throws
 * @example
 * const source = drizzleSource(db, credentials, { key: 'id', owner: 'userId', columns: ['apiKey'] })
 * const { left, failed } = await reencrypt({ envelope, source, plaintext: true })
 */
export function reencrypt<Row>(options: ReencryptOptions<Row>): Promise<ReencryptReport> {
  return traced('reencrypt', () => sweep(options))
}

async function sweep<Row>(options: ReencryptOptions<Row>): Promise<ReencryptReport> {
  const job = checkedJob(options)
  const { dryRun, signal } = job
  let first: Tally | undefined
  let last: Tally | undefined
  let second: Tally | undefined
  let changed = 0
  let skipped = 0
  let complete = false
  const mostPasses = dryRun ? 1 : MAX_PASSES
  for (let passes = 0; passes < mostPasses && !complete && !signal?.aborted; passes += 1) {
    const pass = await sweepOnce(job, passes === 0, changed > 0)
    if (first !== undefined) second ??= pass
    first ??= pass
    changed += pass.changed
    skipped += pass.skipped
    complete = pass.reachedEnd && (dryRun || pass.changed + pass.skipped === 0)
    // An aborted pass has counted a part only: an earlier pass that reached the end says more, or one that was aborted or ended early later.
    if (pass.reachedEnd || last === undefined || (!last.reachedEnd && pass.size > last.size)) last = pass
  }
  last ??= new Tally(job.legacy)
  first ??= last
  const found = first.endedEarly && second !== undefined && second.size > first.size ? second : first
  return {
    complete,
    dryRun,
    before: found === first ? first.before : first.beforeOf(found),
    after: last.after,
    changed,
    skipped,
    failed: last.failed,
    failedCount: last.failedCount,
    left: last.left,
    owners: job.owners.report,
    findings: [...found.ciphertexts.findings(job.ciphertextAsPlaintext), ...(job.foresight?.findings ?? [])],
  }
}

/** One pass over all values. */
async function sweepOnce<Row>(job: SweepJob<Row>, isFirst: boolean, writtenBefore: boolean): Promise<Tally> {
  const { source, batchSize = DEFAULT_BATCH_SIZE, signal } = job
  const tally = new Tally(job.legacy, writtenBefore)
  job.onProgress?.(COUNTING)
  const count = () => source.count?.() ?? 0
  const total = await (job.foresight === null ? count() : job.foresight.counted(count))
  if (total === null || signal?.aborted) return tally
  const progress = new ProgressMeter(isFirst ? 'sweeping' : 'sweeping again', total, job)
  const finish = async (page: PreparedPage<Row>) => {
    const { skipped } = tally
    await finishPage(job, page, tally)
    if (2 * (tally.skipped - skipped) > page.encrypted.changes.size) order.jump()
    progress.add(page.length)
  }
  // What counts ciphertext that is encrypted as it is must see every value first: afterwards it is a token.
  const mayEndEarly = !job.ciphertextAsPlaintext
  const order = new SharedOrder(signal, () => job.onProgress?.(COUNTING), mayEndEarly)
  /** What was prepared is not written any more. */
  const aborted = () => {
    if (source.atOnce === true) tally.discardChanges()
    return tally
  }
  // Later passes mostly find nothing to do.
  const inOrder = isFirst && !job.dryRun ? { order } : {}
  // The page before the one that is being prepared.
  let finishing = Promise.resolve()
  try {
    for await (const cells of source.pages({ limit: batchSize, ...inOrder })) {
      if (signal?.aborted) {
        await finishing
        return aborted()
      }
      const page = await preparePage(job, cells)
      order.passed(isDone(page))
      try {
        await finishing
      } catch (error) {
        dropPage(page)
        throw error
      }
      if (signal?.aborted) {
        dropPage(page)
        return aborted()
      }
      finishing = finish(page)
      // It is awaited with the next page.
      finishing.catch(() => undefined)
      if (source.keepsTwoPages !== true || job.dryRun || signal?.aborted) await finishing
      if (signal?.aborted) return aborted()
      await nextTurn()
    }
  } finally {
    // Also where it ends with another error: then this one is not thrown, and nothing is written afterwards.
    await finishing.catch(() => undefined)
  }
  await finishing
  tally.endedEarly = order.endedEarly
  tally.reachedEnd = !order.isCut && !order.endedEarly
  return tally
}

/** @throws ERR_INVALID_ARGUMENT */
function checkedJob<Row>(options: ReencryptOptions<Row>): SweepJob<Row> {
  options = checkedOptions(options)
  const { envelope, source, previousContexts = [], legacy = [] } = options
  if (typeof envelope?.user !== 'function') throw invalidArgument('envelope must be an EnvelopeCrypto')
  if (envelope.format !== 'v3')
    throw invalidArgument("envelope must write format v3: open it with format: 'v3', and accept v2")
  if (typeof source?.pages !== 'function' || typeof source.replace !== 'function')
    throw invalidArgument('source must be an object with pages() and replace()')
  if (!Array.isArray(previousContexts))
    throw invalidArgument(`previousContexts must be an array, got ${kindOf(previousContexts)}`)
  if (options.pool !== undefined && typeof options.pool !== 'boolean')
    throw invalidArgument(`pool must be a boolean, got ${kindOf(options.pool)}`)
  const { newestFingerprints = false, plaintext = false, ciphertextAsPlaintext = false } = options
  if (typeof newestFingerprints !== 'boolean')
    throw invalidArgument(`newestFingerprints must be a boolean, got ${kindOf(newestFingerprints)}`)
  if (typeof ciphertextAsPlaintext !== 'boolean')
    throw invalidArgument(`ciphertextAsPlaintext must be a boolean, got ${kindOf(ciphertextAsPlaintext)}`)
  if (ciphertextAsPlaintext && !plaintext)
    throw invalidArgument(
      'ciphertextAsPlaintext (--ciphertext-as-plaintext) needs plaintext: true (--plaintext)',
    )
  assertLegacy(legacy)
  return {
    ...options,
    legacy,
    plaintext,
    ciphertextAsPlaintext,
    owners: new OwnerCount(),
    fingerprintVersion: newestFingerprints ? 'newest' : 'lowest',
    dryRun: options.dryRun ?? false,
    written: new WrittenValues(),
    foresight: options.dryRun === true ? new Foresight(source) : null,
    pool: options.pool ?? source.pool ?? false,
    contextOf: options.context === undefined ? null : contextMaker(options.context),
    previousContexts: previousContexts.map((context) => contextMaker(context)),
  }
}

function assertLegacy(legacy: readonly LegacyReader<never>[]): void {
  if (!Array.isArray(legacy)) throw invalidArgument(`legacy must be an array, got ${kindOf(legacy)}`)
  const isReader = (reader: Partial<LegacyReader<never>> | null) =>
    typeof reader?.name === 'string' &&
    reader.name !== '' &&
    typeof reader.test === 'function' &&
    typeof reader.decrypt === 'function'
  if (!legacy.every(isReader) || new Set(legacy.map(({ name }) => name)).size !== legacy.length)
    throw invalidArgument('legacy must be an array of { name, test, decrypt }, each with its own name')
}
