/** Bulk calls: one look-up of keys for many items, a result for each, and the event loop turns in between. */
import { invalidArgument, isKeystoreError, type KeystoreError } from '../errors.js'
import { isTurnDueInLoop, nextTurn, weightOf } from '../event-loop.js'
import type { EmitEvent } from '../events.js'
import { contextPieces, type EncryptionContext } from '../format/context.js'
import { type ParsedToken, type Token, textOf } from '../format/token.js'
import type { KeyCache } from '../keys/cache.js'
import { type DataKey, openTokenText } from '../keys/data-key.js'
import type { FoundKeys, WantedKey } from '../keys/look-up.js'
import { assertUserId, kindOf, ownOptions } from '../validate.js'
import { type EncryptOptions, refuseToken, type TokenPolicy } from './token-policy.js'

/** One value for `envelope.pool.encryptMany`. */
export interface PoolEncryptItem extends EncryptOptions {
  readonly plaintext: string
  readonly context?: EncryptionContext
}

/** One value for `envelope.pool.decryptMany`. */
export interface PoolDecryptItem {
  readonly token: string
  readonly context?: EncryptionContext
}

/** One value for `EnvelopeCrypto.encryptMany`. */
export interface EncryptItem extends PoolEncryptItem {
  readonly userId: string
}

/** One value for `EnvelopeCrypto.decryptMany`. */
export interface DecryptItem extends PoolDecryptItem {
  readonly userId: string
}

export type ItemResult<Value> =
  | { readonly ok: true; readonly value: Value }
  | { readonly ok: false; readonly error: KeystoreError }

/** An item whose arguments were checked. */
interface BulkJob<Value> {
  /** The key that it needs; null for none. */
  readonly wanted: WantedKey | null
  /** For {@link weightOf}. */
  readonly input: string
  /**
   * Returns no promise if the key is there.
   *
   * @param found the key, or why there is none; undefined if it is cached, or to be looked up again
   */
  run(found: DataKey | Error | undefined): Value | Promise<Value>
}

/** The bulk calls of one EnvelopeCrypto. */
export class BulkCrypto {
  readonly #keys: KeyCache
  readonly #policy: TokenPolicy
  readonly #emit: EmitEvent
  readonly #assertOpen: () => void

  constructor(keys: KeyCache, policy: TokenPolicy, emit: EmitEvent, assertOpen: () => void) {
    this.#keys = keys
    this.#policy = policy
    this.#emit = emit
    this.#assertOpen = assertOpen
  }

  /** @throws ERR_INVALID_ARGUMENT (no array) · ERR_CLOSED */
  async encrypt(items: readonly EncryptItem[]): Promise<ItemResult<Token>[]> {
    return this.#inBulk(items, (item: EncryptItem) => {
      assertUserId(item.userId)
      return this.#encryptJob(item.userId, item)
    })
  }

  /** @throws like {@link encrypt} */
  async decrypt(items: readonly DecryptItem[]): Promise<ItemResult<string>[]> {
    return this.#inBulk(items, (item: DecryptItem) => {
      assertUserId(item.userId)
      return this.#decryptJob(item.userId, item)
    })
  }

  /** Encrypts for the owner of one data key. @param sealV2 in format v2: seals what is under no data key */
  async encryptFor(
    ownerId: string,
    items: readonly PoolEncryptItem[],
    sealV2: (plaintext: string) => Promise<Token>,
  ): Promise<ItemResult<Token>[]> {
    return this.#inBulk(items, (item: PoolEncryptItem) => this.#encryptJob(ownerId, item, sealV2))
  }

  /** @param openV2 opens tokens of format v2, which are under no data key */
  async decryptFor(
    ownerId: string,
    items: readonly PoolDecryptItem[],
    openV2: (token: ParsedToken, context: readonly string[]) => Promise<Buffer>,
  ): Promise<ItemResult<string>[]> {
    return this.#inBulk(items, (item: PoolDecryptItem) => this.#decryptJob(ownerId, item, openV2))
  }

  async #inBulk<Item extends object, Value>(
    items: readonly Item[],
    prepare: (item: Item) => BulkJob<Value>,
  ): Promise<ItemResult<Value>[]> {
    this.#assertOpen()
    return inBulk(items, prepare, (wanted) => this.#keys.lookUp(wanted))
  }

  #encryptJob(
    userId: string,
    { plaintext, context, allowToken = false }: PoolEncryptItem,
    sealV2?: (plaintext: string) => Promise<Token>,
  ): BulkJob<Token> {
    this.#policy.assertPlaintext(plaintext)
    const pieces = contextPieces(context)
    refuseToken(plaintext, { allowToken })
    if (sealV2 !== undefined && this.#policy.format === 'v2')
      return { wanted: null, input: plaintext, run: () => sealV2(plaintext) }
    const seal = (key: DataKey) => key.seal(this.#policy.format, plaintext, pieces)
    const run = (found: DataKey | Error | undefined) => {
      this.#assertOpen()
      const key = this.#keys.cachedForWriting(userId) ?? found
      if (key instanceof Error) throw key
      return key === undefined ? this.#keys.forWriting(userId).then(seal) : seal(key)
    }
    return { wanted: { userId }, input: plaintext, run }
  }

  #decryptJob(
    userId: string,
    { token, context }: PoolDecryptItem,
    openV2?: (token: ParsedToken, context: readonly string[]) => Promise<Buffer>,
  ): BulkJob<string> {
    const passesThrough = this.#policy.passesThrough(token)
    if (passesThrough) this.#assertOpen()
    const pieces = contextPieces(context)
    if (passesThrough) return { wanted: null, input: token, run: () => token }
    const parsed = this.#policy.parse(token)
    if (openV2 !== undefined && parsed.format === 'v2')
      return { wanted: null, input: token, run: () => openV2(parsed, pieces).then(textOf) }
    const ref = { userId, version: parsed.version }
    const open = (key: DataKey) => openTokenText(key, parsed, pieces, this.#emit)
    const run = (found: DataKey | Error | undefined) => {
      this.#assertOpen()
      const key = this.#keys.cached(ref) ?? found
      if (key instanceof Error) throw key
      return key === undefined ? this.#keys.get(ref).then(open) : open(key)
    }
    return { wanted: ref, input: token, run }
  }
}

/** Items between two turns of the event loop, and users in one query. */
const AT_ONCE = 1000

/**
 * Works on items, a thousand at a time.
 *
 * @param prepare checks an item; an item that it refuses causes no look-up
 * @param lookUp looks up the keys of a thousand items
 * @returns a result for each item, in their order
 * @throws ERR_INVALID_ARGUMENT (no array)
 */
async function inBulk<Item extends object, Value>(
  items: readonly Item[],
  prepare: (item: Item) => BulkJob<Value>,
  lookUp: (wanted: readonly WantedKey[]) => Promise<FoundKeys>,
): Promise<ItemResult<Value>[]> {
  if (!Array.isArray(items)) throw invalidArgument(`items must be an array, got ${kindOf(items)}`)
  const results: ItemResult<Value>[] = []
  for (let at = 0; at < items.length; at += AT_ONCE) {
    if (at > 0) await nextTurn()
    // Not items.map, which skips the holes of a sparse array.
    const jobs = Array.from(items.slice(at, at + AT_ONCE), (item) => prepared(item, prepare))
    const keyOf = await lookUp(
      jobs.flatMap((job) => (job instanceof Error || job.wanted === null ? [] : job.wanted)),
    )
    const running: (ItemResult<Value> | Promise<ItemResult<Value>>)[] = []
    for (const job of jobs) {
      if (!(job instanceof Error) && isTurnDueInLoop(weightOf(job.input))) await nextTurn()
      running.push(job instanceof Error ? failed(job) : resultOf(job, keyOf))
    }
    for (const result of running) results.push(result instanceof Promise ? await result : result)
  }
  return results
}

function prepared<Item extends object, Value>(
  item: Item,
  prepare: (item: Item) => BulkJob<Value>,
): BulkJob<Value> | Error {
  try {
    return prepare(ownOptions(item, 'an item'))
  } catch (error) {
    return error as Error
  }
}

function resultOf<Value>(
  job: BulkJob<Value>,
  keyOf: FoundKeys,
): ItemResult<Value> | Promise<ItemResult<Value>> {
  try {
    const value = job.run(job.wanted === null ? undefined : keyOf(job.wanted))
    return value instanceof Promise ? value.then(succeeded, failed) : succeeded(value)
  } catch (error) {
    return failed(error)
  }
}

function succeeded<Value>(value: Value): ItemResult<Value> {
  return { ok: true, value }
}

/** Without an error of a getter, or of a string longer than Node allows: it may hold the plaintext. */
function failed(error: unknown): { readonly ok: false; readonly error: KeystoreError } {
  if (isKeystoreError(error)) return { ok: false, error }
  const unexpected = 'the item cannot be read or processed: reading it, or making its result, threw'
  return { ok: false, error: invalidArgument(unexpected) }
}
