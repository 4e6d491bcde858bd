/** What all long operations share: their options, pages of rows, progress, and stopping after the page in hand. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { invalidArgument, isKeystoreError, type KeystoreError, type StoreError } from '../errors.js'
import type { EventOptions } from '../events.js'
import type { KeyPage, KeyStore } from '../store.js'
import { compareRefs, type KeyRecord, type KeyRef } from '../table.js'
import { kindOf } from '../validate.js'

export interface Progress {
  /** What is being done, for people: long work may go over the rows more than once. */
  readonly phase: string
  /** Rows. */
  readonly done: number
  /** Rows, as counted before; more may come meanwhile. */
  readonly total: number
  /** Rows a second, since the phase began. */
  readonly rate: number
  /** Milliseconds that the rest will take at this rate; null while nothing is known. */
  readonly etaMs: number | null
}

export interface LongWorkOptions extends EventOptions {
  /** Rows a page, 1 … 5,000: one transaction each. Default 1,000, about 100 MB of resident memory. */
  readonly batchSize?: number | undefined
  /** Ends the work after the page in hand; the report then has `complete: false`. */
  readonly signal?: AbortSignal | undefined
  /** Called after each page. */
  readonly onProgress?: ((progress: Progress) => void) | undefined
}

/** One row that something is wrong with. */
export interface RowFailure extends KeyRef {
  readonly kekId: string | null
  /** A code of KeystoreError. */
  readonly code: string
  readonly reason: string
}

export const DEFAULT_BATCH_SIZE = 1000
const MAX_BATCH_SIZE = 5000
/** Failures that a report lists; the others it counts. A wrong keyring must not fill the memory. */
export const MAX_LISTED = 1000

/** @throws ERR_INVALID_ARGUMENT */
export function assertOptions(options: unknown, ...stores: readonly string[]): void {
  if (typeof options !== 'object' || options === null)
    throw invalidArgument(`options must be an object, got ${kindOf(options)}`)
  for (const name of stores) {
    const store: unknown = options[name as keyof typeof options]
    const isStore = typeof store === 'object' && store !== null && 'getAll' in store
    if (!isStore) throw invalidArgument(`${name} must be a KeyStore, such as openKeyStore gives`)
  }
  const { batchSize, onProgress, signal } = options as LongWorkOptions
  const isSize = Number.isInteger(batchSize) && (batchSize ?? 0) >= 1 && (batchSize ?? 0) <= MAX_BATCH_SIZE
  if (batchSize !== undefined && !isSize)
    throw invalidArgument(`batchSize must be a whole number from 1 to ${MAX_BATCH_SIZE}`)
  if (onProgress !== undefined && typeof onProgress !== 'function')
    throw invalidArgument(`onProgress must be a function, got ${kindOf(onProgress)}`)
  if (signal !== undefined && typeof signal?.aborted !== 'boolean')
    throw invalidArgument(`signal must be an AbortSignal, got ${kindOf(signal)}`)
}

/** Collects failures for a report: all are counted, the first thousand listed. */
export class Failures {
  readonly listed: RowFailure[] = []
  count = 0

  add({ userId, version, kekId }: Pick<KeyRecord, 'userId' | 'version' | 'kekId'>, error: unknown): void {
    this.count += 1
    if (this.listed.length < MAX_LISTED)
      this.listed.push({ userId, version, kekId, ...describeFailure(error) })
  }
}

/** What a report says of an error. */
export function describeFailure(error: unknown): { readonly code: string; readonly reason: string } {
  if (isKeystoreError(error)) return { code: error.code, reason: error.message }
  return {
    code: 'ERR_STORE',
    reason: 'it failed with an error of another program, which is not shown because it may hold a key',
  }
}

/**
 * Whether an error is about one row alone. An outage of the store or of a key service is about all of them, and must not look like so
 * many damaged rows.
 */
export function isOfOneRow(error: unknown): error is KeystoreError {
  return isKeystoreError(error) && ROW_CODES.has(error.code)
}

const ROW_CODES: ReadonlySet<string> = new Set([
  'ERR_UNWRAP_FAILED',
  'ERR_UNKNOWN_MASTER_KEY',
  'ERR_FORMAT_NOT_ACCEPTED',
])

/**
 * All rows in the order of `list`, page by page; the next page is read while the caller has the one before. Lets others run between
 * pages, and ends after the page in hand when `signal` says so.
 *
 * @param onUnreadable is given each row whose times cannot be read; the work goes on behind it
 */
export async function* pagesOf(
  store: KeyStore,
  { batchSize = DEFAULT_BATCH_SIZE, signal }: LongWorkOptions,
  filter: Pick<KeyPage, 'notKekId'>,
  onUnreadable: (ref: KeyRef, error: KeystoreError) => void,
): AsyncGenerator<readonly KeyRecord[], void, undefined> {
  let after: KeyRef | undefined
  for (let next = ahead(); !signal?.aborted; await nextTurn()) {
    const page = await next
    if (page.length === 0) return
    next = ahead()
    yield page
  }

  function ahead(): Promise<readonly KeyRecord[]> {
    const page = read()
    // Whoever leaves the loop never asks for it.
    page.catch(() => undefined)
    return page
  }

  async function read(): Promise<readonly KeyRecord[]> {
    for (let limit = batchSize; ; ) {
      try {
        const page = await store.list({ ...filter, limit, ...(after === undefined ? {} : { after }) })
        after = page.at(-1) ?? after
        return page
      } catch (error) {
        const ref = unreadableRow(error, after)
        if (ref === null) throw error
        // Half as many, until it is alone: what stands before it is not lost.
        if (limit > 1) limit = Math.ceil(limit / 2)
        else {
          onUnreadable(ref, error as KeystoreError)
          after = ref
          limit = batchSize
        }
      }
    }
  }
}

function unreadableRow(error: unknown, after: KeyRef | undefined): KeyRef | null {
  const ref = isKeystoreError(error) ? (error as StoreError).ref : undefined
  return ref !== undefined && (after === undefined || compareRefs(ref, after) > 0) ? ref : null
}

/** The versions of each user together, however pages cut them. Of whom `signal` has cut off, none. */
export async function* usersOf(
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

/** Items that are worked on at a time: a key service answers several at once. */
const CONCURRENT = 16

/** @returns the results in the order of the items */
export async function inTurns<Item, Result>(
  items: readonly Item[],
  work: (item: Item) => Promise<Result>,
): Promise<Result[]> {
  const results: Result[] = []
  for (let i = 0; i < items.length; i += CONCURRENT)
    results.push(...(await Promise.all(items.slice(i, i + CONCURRENT).map(work))))
  return results
}

/** Counts rows and tells how far the work is. */
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
    // Rows that came meanwhile were not counted.
    const total = Math.max(this.#total, this.#done)
    const etaMs = rate > 0 ? ((total - this.#done) / rate) * 1000 : null
    this.#onProgress({ phase: this.#phase, done: this.#done, total, rate, etaMs })
  }
}
