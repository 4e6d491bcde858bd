/** What all long operations share: options, pages of rows, progress, and stopping after the current page. */
import {
  invalidArgument,
  isKeystoreError,
  type KeystoreError,
  type MasterKeyReason,
  quoted,
  StoreError,
} from '../errors.js'
import { CALLS, isTurnDueInLoop, nextTurn } from '../event-loop.js'
import type { EventOptions } from '../events.js'
import { isOutage, reasonOf } from '../master-keys/failure.js'
import { describeRef } from '../master-keys/key-wrap.js'
import type { KeyPage, KeyStore, StoreMaintenance, UnreadableRow } from '../store.js'
import { compareRefs, type KeyRecord, type KeyRef, refKey } from '../table.js'
import { kindOf, ownOptions } from '../validate.js'

/** How far long work is. */
export interface Progress {
  /** The step that runs now, in words for people. An operation may go over the rows several times. */
  readonly phase: string
  /** Rows done in this phase. */
  readonly done: number
  /** Rows to do, counted when the phase began. It grows if others add rows meanwhile. 0: nobody knows how many, as while they are counted. */
  readonly total: number
  /** Rows a second, since the phase began. */
  readonly rate: number
  /** Milliseconds until the phase ends at this rate; null until the rate is known. */
  readonly etaMs: number | null
}

/** What all long work takes. */
export interface LongWorkOptions extends EventOptions {
  /** Rows a page, 1 … 5,000. Each page is written in one transaction. Default 1,000, about 100 MB of resident memory. */
  readonly batchSize?: number | undefined
  /** Stops after the current page. The report then has `complete: false`. */
  readonly signal?: AbortSignal | undefined
  /** Called after each page. */
  readonly onProgress?: ((progress: Progress) => void) | undefined
}

/** A row that could not be processed. */
export interface RowFailure extends KeyRef {
  /** The version as text, where it is a whole number that `version` rounds. */
  readonly exactVersion?: string
  /** Under which master key the row is; null: the Python reference's. */
  readonly kekId: string | null
  /** A `code` of KeystoreError. */
  readonly code: string
  /** Why, without a secret. */
  readonly reason: string
  /** Why its master key failed, with `ERR_MASTER_KEY`. Rows with `unavailable` or `throttled` may succeed another time. */
  readonly masterKeyReason?: MasterKeyReason
}

export const DEFAULT_BATCH_SIZE = 1000
const MAX_BATCH_SIZE = 5000
/** A report lists this many failures and counts the rest, so that a wrong keyring cannot fill the memory. */
export const MAX_LISTED_FAILURES = 1000

/**
 * Checks the options that all long operations have.
 *
 * @param stores the names of the options that must be key stores
 * @returns what the options themselves have, and nothing that they inherit. A copy of it inherits none of the options of
 *   {@link LongWorkOptions} either
 * @throws ERR_INVALID_ARGUMENT
 */
export function checkedOptions<Options extends object>(
  options: Options,
  ...stores: readonly (keyof Options)[]
): Options & LongWorkOptions {
  const own: Options & LongWorkOptions = Object.assign(Object.create(null), NO_OPTIONS, ownOptions(options))
  for (const name of stores) {
    const store: unknown = own[name]
    const isStore = typeof store === 'object' && store !== null && 'getAll' in store
    if (!isStore) throw invalidArgument(`${String(name)} must be a KeyStore, such as openKeyStore gives`)
  }
  const { batchSize, onProgress, signal } = own
  const isSize = Number.isInteger(batchSize) && (batchSize ?? 0) >= 1 && (batchSize ?? 0) <= MAX_BATCH_SIZE
  if (batchSize !== undefined && !isSize)
    throw invalidArgument(`batchSize must be a whole number from 1 to ${MAX_BATCH_SIZE}`)
  if (onProgress !== undefined && typeof onProgress !== 'function')
    throw invalidArgument(`onProgress must be a function, got ${kindOf(onProgress)}`)
  if (signal !== undefined && typeof signal?.aborted !== 'boolean')
    throw invalidArgument(`signal must be an AbortSignal, got ${kindOf(signal)}`)
  return own
}

const NO_OPTIONS = {
  batchSize: undefined,
  onProgress: undefined,
  signal: undefined,
  onEvent: undefined,
} satisfies LongWorkOptions

/** Collects the failures of a report: counts all, lists the first thousand. A row that comes again is one of them. */
export class Failures {
  readonly listed: RowFailure[] = []
  readonly #listedRefs = new Set<string>()
  count = 0
  /** How many of them are due to an outage of a key service: another run may succeed. */
  outages = 0

  add({ userId, version, kekId }: Pick<KeyRecord, 'userId' | 'version' | 'kekId'>, error: unknown): void {
    const { exactVersion = '' } = exactVersionOf(error)
    const ref = `${refKey({ userId, version })} ${exactVersion}`
    if (this.#listedRefs.has(ref)) return
    this.count += 1
    if (isOutage(error)) this.outages += 1
    if (this.listed.length < MAX_LISTED_FAILURES)
      this.listed.push({ userId, version, ...exactVersionOf(error), kekId, ...describeFailure(error) })
    if (this.#listedRefs.size < MAX_LISTED_FAILURES) this.#listedRefs.add(ref)
  }
}

/** The property of a report on a row whose version is not exact as a number. */
export function exactVersionOf(error: unknown): { readonly exactVersion?: string } {
  const exactVersion = isKeystoreError(error) ? (error as StoreError).ref?.exactVersion : undefined
  return exactVersion === undefined ? {} : { exactVersion }
}

/** An error as a report shows it. */
export function describeFailure(error: unknown): Pick<RowFailure, 'code' | 'reason' | 'masterKeyReason'> {
  const masterKeyReason = reasonOf(error)
  if (isKeystoreError(error))
    return { code: error.code, reason: error.message, ...(masterKeyReason && { masterKeyReason }) }
  return {
    code: 'ERR_STORE',
    reason: 'it failed with an error of another program, which is not shown because it may hold a key',
  }
}

/**
 * Whether an error is about a single row, or about those under one master key: the others go on. All other errors end the operation: an
 * outage of the store must not be reported as damage of every row.
 */
export function isRowError(error: unknown): error is KeystoreError {
  return isKeystoreError(error) && ROW_CODES.has(error.code)
}

/** ERR_STORE for a live row of a user who was shredded. */
export function liveBesideTombstone(ref: KeyRef): StoreError {
  return new StoreError(
    `The row of ${describeRef(ref)} is a live key of a user who was shredded, from a backup perhaps: shred the user again`,
    { ref },
  )
}

const ROW_CODES: ReadonlySet<string> = new Set([
  'ERR_UNWRAP_FAILED',
  'ERR_UNKNOWN_MASTER_KEY',
  'ERR_FORMAT_NOT_ACCEPTED',
  'ERR_MASTER_KEY',
  // Of the row's tenant: its key is erased, or missing.
  'ERR_KEY_SHREDDED',
  'ERR_KEY_NOT_FOUND',
  // Users are under the tenant's key, which is missing.
  'ERR_KEYS_LOST',
  // The row is under another tenant's key than tenantOf says, or the tenant's key is one that may be planted.
  'ERR_CONFLICT',
  // `tenantOf` or `tenantRoot` gave nothing of use for this user or tenant. The arguments of the operation were checked before.
  'ERR_INVALID_ARGUMENT',
])

/** @throws ERR_INVALID_ARGUMENT if the store has none */
export function maintenanceOf({ maintenance }: KeyStore): StoreMaintenance {
  if (maintenance !== undefined) return maintenance
  throw invalidArgument('store must be one whose rows can be counted and restored: it has no maintenance')
}

/** All versions of one user's key, ascending; empty if there is none. */
export async function versionsOf(store: KeyStore, userId: string): Promise<readonly KeyRecord[]> {
  return (await store.getAll([userId])).get(userId) ?? []
}

/**
 * Yields all rows, page by page, in the order of `list`. Reads the next page while the caller works on the current one.
 * Gives other tasks a turn between pages. Ends when `signal` is aborted.
 *
 * @param filter which rows; with `after` those behind it
 * @param onUnreadable is called for each row that cannot be read, before the page is given that it stands on or before
 * @throws ERR_STORE if the store gives the same page again: nothing would ever end
 */
export async function* pagesOf(
  store: KeyStore,
  { batchSize = DEFAULT_BATCH_SIZE, signal }: LongWorkOptions,
  filter: Pick<KeyPage, 'notKekId' | 'kekId' | 'after'>,
  onUnreadable: (row: UnreadableRow) => void,
): AsyncGenerator<readonly KeyRecord[], void, undefined> {
  let { after } = filter
  for (let next = prefetch(); !signal?.aborted; await nextTurn()) {
    const { page, unreadable } = await next
    for (const row of unreadable) onUnreadable(row)
    if (page.length === 0) return
    next = prefetch()
    yield page
  }

  function prefetch(): Promise<ReadPage> {
    const page = readPageOf(store, { batchSize }, filter, after).then((read) => {
      after = read.page.at(-1) ?? after
      return read
    })
    // A caller that leaves the loop never awaits this page: its rejection must not be an unhandled one.
    page.catch(() => undefined)
    return page
  }
}

/** What was read of a store at once. */
export interface ReadPage {
  readonly page: readonly KeyRecord[]
  /** Rows on the way that are no records. */
  readonly unreadable: readonly UnreadableRow[]
}

/**
 * One page. An empty one is the end.
 *
 * @throws ERR_STORE if the store gives the row again after which the page is to begin: nothing would ever end
 */
export async function readPageOf(
  store: KeyStore,
  { batchSize = DEFAULT_BATCH_SIZE }: Pick<LongWorkOptions, 'batchSize'>,
  filter: Omit<KeyPage, 'limit' | 'after' | 'onUnreadable'>,
  begin: KeyRef | undefined,
): Promise<ReadPage> {
  const unreadable: UnreadableRow[] = []
  const { before } = filter
  let after = begin
  for (let limit = batchSize; ; ) {
    try {
      const from = after === undefined ? {} : { after }
      const onUnreadable = (row: UnreadableRow) => void unreadable.push(row)
      const page = await store.list({ ...filter, limit, ...from, onUnreadable })
      const last = page.at(-1)
      if (last !== undefined && after !== undefined && compareRefs(last, after) === 0) throw sameAgain(after)
      // A store may not know `before`.
      const isWithin = last === undefined || before === undefined || compareRefs(last, before) < 0
      return { page: isWithin ? page : page.filter((row) => compareRefs(row, before) < 0), unreadable }
    } catch (error) {
      // A store that does not know `onUnreadable`.
      const ref = unreadableRow(error, after)
      if (ref === null) throw error
      // Halves the page until it holds the unreadable row alone, so that the rows before it are still returned.
      if (limit > 1) limit = Math.ceil(limit / 2)
      else {
        unreadable.push({ ...ref, hasId: true, error: error as KeystoreError })
        after = ref
        limit = batchSize
      }
    }
  }
}

function sameAgain({ userId, version }: KeyRef): StoreError {
  return new StoreError(
    `The key store lists the row of user ${quoted(userId)}, version ${version}, again and again: its list() must go on after \`after\``,
    { ref: { userId, version } },
  )
}

function unreadableRow(error: unknown, after: KeyRef | undefined): KeyRef | null {
  const ref = isKeystoreError(error) ? (error as StoreError).ref : undefined
  return ref !== undefined && (after === undefined || compareRefs(ref, after) > 0) ? ref : null
}

/**
 * Groups the rows of all pages by user: one array of versions for each user, also where two pages share a user. When
 * `signal` is aborted, a user whose versions may be incomplete is left out.
 */
export async function* groupPagesByUser(
  pages: AsyncGenerator<readonly KeyRecord[], void, undefined>,
  { signal }: LongWorkOptions,
): AsyncGenerator<readonly (readonly KeyRecord[])[], void, undefined> {
  let last: KeyRecord[] = []
  for await (const page of pages) {
    const users: KeyRecord[][] = []
    for (const record of page) {
      if (record.userId === last[0]?.userId) last.push(record)
      else {
        if (last.length > 0) users.push(last)
        last = [record]
      }
    }
    yield users
  }
  if (last.length > 0 && !signal?.aborted) yield [last]
}

/** Items processed at the same time. A key service answers several requests at once. */
const CONCURRENCY = 16

/** `Promise.all` over the items, 16 at a time. Lets the event loop turn now and then. @returns the results in the order of the items */
export async function mapConcurrently<Item, Result>(
  items: readonly Item[],
  map: (item: Item) => Promise<Result>,
): Promise<Result[]> {
  const results: Result[] = []
  for (let i = 0; i < items.length; i += CONCURRENCY) {
    // Each item is work of some microseconds at least: the clock is looked at for every few of them.
    if (isTurnDueInLoop(CALLS / 2)) await nextTurn()
    results.push(...(await Promise.all(items.slice(i, i + CONCURRENCY).map(map))))
  }
  return results
}

/** While all rows are counted, or all keys of a table gone through, before anything else: about half a second for a million rows of SQLite. */
export const COUNTING: Progress = { phase: 'counting', done: 0, total: 0, rate: 0, etaMs: null }

/** Counts the rows that are done and reports progress. */
export class ProgressMeter {
  readonly #phase: string
  readonly #total: number
  readonly #onProgress: LongWorkOptions['onProgress']
  readonly #start = performance.now()
  #done = 0

  constructor(phase: string, total: number, { onProgress }: LongWorkOptions) {
    this.#phase = phase
    this.#total = total
    this.#onProgress = onProgress
  }

  add(rows: number): void {
    this.#done += rows
    if (this.#onProgress === undefined) return
    const seconds = (performance.now() - this.#start) / 1000
    const rate = seconds > 0 ? this.#done / seconds : 0
    // Rows added since the count are not in the total.
    const total = Math.max(this.#total, this.#done)
    const etaMs = rate > 0 ? ((total - this.#done) / rate) * 1000 : null
    this.#onProgress({ phase: this.#phase, done: this.#done, total, rate, etaMs })
  }

  /** At the end of a phase that went over everything: what is not done yet, others have done, or it is not there any more. */
  finish(): void {
    if (this.#done < this.#total) this.add(this.#total - this.#done)
  }
}
