/** The sweep: every stored value becomes a v3 token under its owner's newest key and the wanted context. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { EnvelopeCrypto } from '../envelope/envelope-crypto.js'
import { invalidArgument } from '../errors.js'
import { type ContextOf, contextMaker } from '../format/context.js'
import {
  assertOptions,
  DEFAULT_BATCH_SIZE,
  type LongWorkOptions,
  ProgressMeter,
} from '../lifecycle/long-work.js'
import type { ValueSource } from '../sources/value-source.js'
import { kindOf } from '../validate.js'
import type { LegacyReader } from './open-value.js'
import { sweepPage, type Work } from './sweep-page.js'
import { type StateCounts, Tally, type ValueFailure } from './tally.js'

export interface ReencryptOptions<Row = unknown>
  extends Pick<LongWorkOptions, 'batchSize' | 'signal' | 'onProgress'> {
  /** Writes format v3. What it accepts is what can be brought up to date: `accept: { keys: ['v2'], tokens: ['v2'] }` for the reference's. */
  readonly envelope: EnvelopeCrypto
  /** `drizzleSource`, `sqlSource`, `jsonlSource`, or anything else that has values. It is left open. */
  readonly source: ValueSource<Row>
  /** The wanted context of the values for which the source names none. Null: no context. */
  readonly context?: ContextOf<NoInfer<Row>>
  /** Contexts that values may still be under. */
  readonly previousContexts?: readonly ContextOf<NoInfer<Row>>[]
  /** Encrypt what is neither a token nor of a legacy reader. Default false: such values are reported and left. */
  readonly plaintext?: boolean
  /** Readers of values that other libraries encrypted. */
  readonly legacy?: readonly LegacyReader<NoInfer<Row>>[]
  /** Do all but write, once over all values. */
  readonly dryRun?: boolean
}

export interface ReencryptReport {
  /** False if `signal` ended it, or others kept writing values in old states: start it again. The counts are then of the last whole look. */
  readonly complete: boolean
  readonly dryRun: boolean
  /** Values in each state, as they were found. */
  readonly before: StateCounts
  /** As the last look left them; with `dryRun` as they would be. */
  readonly after: StateCounts
  /** Values that this call replaced, or with `dryRun` would have. */
  readonly changed: number
  /** Values that another writer changed first. */
  readonly skipped: number
  /** Values that stay as they are, and why; the first 1,000. */
  readonly failed: readonly ValueFailure[]
  readonly failedCount: number
  /** Values left in an old state: all that are neither current nor empty, but for those whose owners were shredded. */
  readonly left: number
}

/** Looks at all values. Others that go on writing old values must not make it endless. */
const MAX_LOOKS = 5

/**
 * Brings every value of a source to the wanted state: format v3, the newest version of its owner's key, the wanted context. It replaces
 * by compare-and-set, so that whoever writes meanwhile wins; one that was killed is simply started again. It ends after a look that
 * found nothing left to do. Null and values that are as they should be stay untouched.
 *
 * What begins like a token is never taken for plaintext: one that does not open is reported and left. Values without an owner are the
 * shared pool's.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_MASTER_KEY (a key service fails) · ERR_STORE · ERR_CLOSED · what the source throws
 * @example
 * const source = drizzleSource(db, credentials, { key: 'id', owner: 'userId', columns: ['apiKey'] })
 * const { left, failed } = await reencrypt({ envelope, source, plaintext: true })
 */
export async function reencrypt<Row>(options: ReencryptOptions<Row>): Promise<ReencryptReport> {
  const work = checkedWork(options)
  const { dryRun, signal } = work
  let before: StateCounts | undefined
  let last: Tally<Row> | undefined
  let changed = 0
  let skipped = 0
  let settled = false
  for (let looks = 0; looks < MAX_LOOKS && !settled && !signal?.aborted; looks += 1) {
    const look = await lookOnce(work, looks === 0 ? 'sweeping' : 'looking again')
    before ??= look.before
    changed += look.changed
    skipped += look.skipped
    settled = look.whole && (dryRun || look.changed + look.skipped === 0)
    // Of a part that another look has seen whole, there is nothing new to tell.
    if (look.whole || last === undefined) last = look
  }
  last ??= new Tally(work.legacy)
  return {
    complete: settled,
    dryRun,
    before: before ?? last.before,
    after: last.after,
    changed,
    skipped,
    failed: last.failed,
    failedCount: last.failedCount,
    left: last.left,
  }
}

type LongWork<Row> = Work<Row> & LongWorkOptions

async function lookOnce<Row>(work: LongWork<Row>, phase: string): Promise<Tally<Row>> {
  const { source, batchSize = DEFAULT_BATCH_SIZE, signal } = work
  const tally = new Tally<Row>(work.legacy)
  const total = (await source.count?.()) ?? 0
  const progress = new ProgressMeter(phase, total, work)
  for await (const cells of source.pages({ limit: batchSize })) {
    await sweepPage(work, cells, tally)
    progress.add(cells.length)
    if (signal?.aborted) {
      if (source.atOnce === true) tally.undo()
      return tally
    }
    await nextTurn()
  }
  tally.whole = true
  return tally
}

/** @throws ERR_INVALID_ARGUMENT */
function checkedWork<Row>(options: ReencryptOptions<Row>): LongWork<Row> {
  assertOptions(options)
  const { envelope, source, previousContexts = [], legacy = [] } = options
  if (typeof envelope?.user !== 'function') throw invalidArgument('envelope must be an EnvelopeCrypto')
  if (envelope.format !== 'v3')
    throw invalidArgument("envelope must write format v3: open it with format: 'v3', and accept v2")
  if (typeof source?.pages !== 'function' || typeof source.replace !== 'function')
    throw invalidArgument('source must be an object with pages() and replace()')
  if (!Array.isArray(previousContexts))
    throw invalidArgument(`previousContexts must be an array, got ${kindOf(previousContexts)}`)
  assertLegacy(legacy)
  return {
    ...options,
    legacy,
    plaintext: options.plaintext ?? false,
    dryRun: options.dryRun ?? false,
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
    throw invalidArgument('legacy must be an array of { name, test, decrypt }, each of another name')
}
