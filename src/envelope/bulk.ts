/**
 * Bulk calls: what is under keys in memory is opened at once, one look-up of keys for all the rest, a result for each item, and the event loop
 * turns in between.
 */
import { invalidArgument, isKeystoreError, type KeystoreError } from '../errors.js'
import { isTurnDueInLoop, nextTurn, weightOf } from '../event-loop.js'
import type { Token } from '../format/token.js'
import type { DataKey } from '../keys/data-key.js'
import { kindOf } from '../validate.js'
import {
  type BulkService,
  type BulkWork,
  type DecryptItem,
  Decrypting,
  type EncryptItem,
  Encrypting,
  type Job,
  type OpenV2,
  type PoolDecryptItem,
  type PoolEncryptItem,
  type SealV2,
} from './bulk-work.js'

export type { DecryptItem, EncryptItem, PoolDecryptItem, PoolEncryptItem }

export type ItemResult<Value> =
  | { readonly ok: true; readonly value: Value }
  | { readonly ok: false; readonly error: KeystoreError }

/** The bulk calls of one EnvelopeCrypto. */
export class BulkCrypto {
  readonly #service: BulkService

  constructor(service: BulkService) {
    this.#service = service
  }

  /** @throws ERR_INVALID_ARGUMENT (no array) · ERR_CLOSED */
  async encrypt(items: readonly EncryptItem[]): Promise<ItemResult<Token>[]> {
    return inBulk(items, new Encrypting(this.#service, null), this.#service)
  }

  /** @throws like {@link encrypt} */
  async decrypt(items: readonly DecryptItem[]): Promise<ItemResult<string>[]> {
    return inBulk(items, new Decrypting(this.#service, null), this.#service)
  }

  /** Encrypts for the owner of one data key. */
  async encryptFor(
    ownerId: string,
    items: readonly PoolEncryptItem[],
    sealV2: SealV2,
  ): Promise<ItemResult<Token>[]> {
    return inBulk(items, new Encrypting(this.#service, ownerId, sealV2), this.#service)
  }

  async decryptFor(
    ownerId: string,
    items: readonly PoolDecryptItem[],
    openV2: OpenV2,
  ): Promise<ItemResult<string>[]> {
    return inBulk(items, new Decrypting(this.#service, ownerId, openV2), this.#service)
  }
}

/** Items between two turns of the event loop, and users in one query. */
const AT_ONCE = 1000

/**
 * Works on items, a thousand at a time. Each thousand is read at once, before the event loop turns: what the caller does to the items
 * afterwards changes nothing.
 *
 * @returns a result for each item, in their order
 * @throws ERR_INVALID_ARGUMENT (no array) · ERR_CLOSED
 */
async function inBulk<Item extends object, Value>(
  items: readonly Item[],
  work: BulkWork<Item, Value>,
  service: BulkService,
): Promise<ItemResult<Value>[]> {
  service.assertOpen()
  if (!Array.isArray(items)) throw invalidArgument(`items must be an array, got ${kindOf(items)}`)
  const results: ItemResult<Value>[] = []
  for (let at = 0; at < items.length; at += AT_ONCE) {
    if (at > 0) await nextTurn()
    await new Page(work, service, results).run(items.slice(at, at + AT_ONCE))
  }
  return results
}

/** A job whose result is still missing, and where that belongs. */
interface Unfinished {
  readonly place: number
  readonly job: Job
}

/** A thousand items. */
class Page<Item extends object, Value> {
  readonly #work: BulkWork<Item, Value>
  readonly #service: BulkService
  readonly #results: ItemResult<Value>[]
  /** Their keys are to be looked up. */
  readonly #missing: Unfinished[] = []
  readonly #running: Promise<void>[] = []

  /** @param results to be added to */
  constructor(work: BulkWork<Item, Value>, service: BulkService, results: ItemResult<Value>[]) {
    this.#work = work
    this.#service = service
    this.#results = results
  }

  async run(items: readonly Item[]): Promise<void> {
    const late = this.#readAll(items)
    const { keys } = this.#service
    if (
      this.#work.writes &&
      late.some(({ job }) => job.needsKey && !keys.isCached(job.userId, job.version))
    ) {
      this.#missing.push(...late.splice(0))
    } else if (late.length > 0 && !this.#work.writes) await nextTurn()
    for (const unfinished of late) {
      if (isTurnDueInLoop(weightOf(unfinished.job.input))) await nextTurn()
      this.#runIfCached(unfinished.place, unfinished.job)
    }
    if (this.#missing.length > 0) await this.#runMissing()
    if (this.#running.length > 0) await Promise.all(this.#running)
  }

  /**
   * Reads all items, and does what it can at once: a token is opened while what the native core has decoded of it is at hand.
   *
   * @returns those for which there was no time before the next turn of the event loop; all, if they are to be written: a user may be shredded
   *   or rotated while the keys of others are looked up
   */
  #readAll(items: readonly Item[]): Unfinished[] {
    const late: Unfinished[] = []
    // By their index: forEach skips the holes of a sparse array.
    for (let index = 0; index < items.length; index += 1) {
      const place = this.#results.push(UNFINISHED) - 1
      let job: Job
      try {
        job = this.#work.read(items[index] as Item)
      } catch (error) {
        this.#results[place] = failed(error)
        continue
      }
      if (this.#work.writes || late.length > 0 || isTurnDueInLoop(weightOf(job.input)))
        late.push({ place, job })
      else this.#runIfCached(place, job)
    }
    return late
  }

  #runIfCached(place: number, job: Job): void {
    const key = job.needsKey ? this.#service.keys.cachedBeforeLookUp(job.userId, job.version) : null
    if (key === undefined) this.#lookUpLater(place, job)
    else this.#finish(place, job, key)
  }

  #lookUpLater(place: number, job: Job): void {
    try {
      this.#work.check(job)
      this.#missing.push({ place, job })
    } catch (error) {
      this.#results[place] = failed(error)
    }
  }

  async #runMissing(): Promise<void> {
    const keyOf = await this.#service.keys.lookUp(
      this.#missing.flatMap(({ job }) => (job.needsKey ? job : [])),
    )
    for (const { place, job } of this.#missing) {
      if (isTurnDueInLoop(weightOf(job.input))) await nextTurn()
      this.#finish(place, job, job.needsKey ? (this.#cachedAfterLookUp(job) ?? keyOf(job)) : null)
    }
  }

  #cachedAfterLookUp({ userId, version }: Job): DataKey | undefined {
    const { keys } = this.#service
    return version === undefined ? keys.cachedForWriting(userId) : keys.cached({ userId, version })
  }

  /** @param key or why there is none; null: none is needed; undefined: it must not be used any more */
  #finish(place: number, job: Job, key: DataKey | Error | null | undefined): void {
    try {
      const value = this.#valueOf(job, key)
      if (value instanceof Promise) this.#running.push(this.#settle(place, value))
      else this.#results[place] = { ok: true, value }
    } catch (error) {
      this.#results[place] = failed(error)
    }
  }

  #valueOf(job: Job, key: DataKey | Error | null | undefined): Value | Promise<Value> {
    if (key === null) return this.#work.runWithoutKey(job)
    this.#service.assertOpen()
    if (key instanceof Error) throw key
    if (key !== undefined) return this.#work.run(job, key)
    return this.#work.lookUpAgain(job).then((found) => this.#work.run(job, found))
  }

  async #settle(place: number, running: Promise<Value>): Promise<void> {
    try {
      this.#results[place] = { ok: true, value: await running }
    } catch (error) {
      this.#results[place] = failed(error)
    }
  }
}

/** Without an error of a getter, or of a string longer than Node allows: it may hold the plaintext. */
function failed(error: unknown): { readonly ok: false; readonly error: KeystoreError } {
  if (isKeystoreError(error)) return { ok: false, error }
  const unexpected = 'the item cannot be read or processed: reading it, or making its result, threw'
  return { ok: false, error: invalidArgument(unexpected) }
}

/** Holds the place of a result. */
const UNFINISHED = failed(undefined)
