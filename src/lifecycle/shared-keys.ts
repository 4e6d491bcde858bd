/**
 * Finds data keys that several rows hold. A v2 wrap is bound to no row, so anybody who can write to the database may have copied
 * Alice's wrapped key into Bob's row. An upgrade to v3 would then bind the copy to Bob for good.
 */
import { MasterKeyError } from '../errors.js'
import { CALLS, isTurnDueInLoop, nextTurn } from '../event-loop.js'
import { generateKey, hmacSha256 } from '../format/aead.js'
import type { Format } from '../format/formats.js'
import { isMasterKeyFailure } from '../master-keys/failure.js'
import { describeRef } from '../master-keys/key-wrap.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import { isLocal, isV2Wrap } from '../master-keys/local.js'
import type { KeyStore } from '../store.js'
import { isTenantRow, isTombstone, type KeyRecord, type KeyRef, refKey } from '../table.js'
import { isRowError, type LongWorkOptions, mapConcurrently, ProgressMeter, pagesOf } from './long-work.js'
import type { TenantKeys } from './tenant-keys.js'

export interface SharedKeys {
  /** For each row that shares its data key: all rows that hold the key, itself included. The map keys are made by {@link refKey}. */
  readonly groups: ReadonlyMap<string, readonly KeyRef[]>
  /** Why rows under some master key could not be compared, so that a copy may have been missed; null if all were. */
  readonly failure: MasterKeyError | null
}

export const NO_SHARED_KEYS: SharedKeys = { groups: new Map(), failure: null }

/** By one byte of the digest. Sorting all at once would keep the event loop from turning for as long as there are rows: half a second for 4 million. */
const BUCKETS = 256

/**
 * The first 8 bytes of a keyed digest of each data key: 8 MB for a million rows. Among a million different keys two agree by
 * chance once in about 30 million runs; {@link findRowsOfRepeatedKeys} then compares whole digests.
 */
export class DataKeyDigests {
  /** Made for this run and forgotten with it, so the digests reveal nothing about a key. */
  readonly #key = generateKey()
  readonly #buckets = Array.from({ length: BUCKETS }, () => new Digests())

  /** @returns the whole digest, 32 bytes */
  digest(dataKey: Uint8Array): Buffer {
    return hmacSha256(this.#key, dataKey)
  }

  add(dataKey: Uint8Array): void {
    const digest = this.digest(dataKey)
    this.#buckets[digest.readUInt8()]?.add(digest.readBigUInt64LE())
  }

  /** The 8-byte beginnings that occur more than once. */
  async repeated(): Promise<ReadonlySet<bigint>> {
    const repeated = new Set<bigint>()
    for (const bucket of this.#buckets) {
      if (isTurnDueInLoop(CALLS)) await nextTurn()
      bucket.addRepeatedTo(repeated)
    }
    return repeated
  }
}

class Digests {
  #digests = new BigUint64Array(16)
  #count = 0

  add(digest: bigint): void {
    if (this.#count === this.#digests.length) {
      const larger = new BigUint64Array(this.#count * 2)
      larger.set(this.#digests)
      this.#digests = larger
    }
    this.#digests[this.#count] = digest
    this.#count += 1
  }

  addRepeatedTo(repeated: Set<bigint>): void {
    const sorted = this.#digests.subarray(0, this.#count).sort()
    for (const [index, digest] of sorted.entries()) if (digest === sorted[index - 1]) repeated.add(digest)
  }
}

/** Unwraps every row to find the data keys that occur more than once. Unwraps all rows a second time only if there are any. */
export async function findSharedKeys(
  store: KeyStore,
  tenants: TenantKeys,
  accept: readonly Format[],
  total: number,
  options: LongWorkOptions,
): Promise<SharedKeys> {
  const digests = new DataKeyDigests()
  const progress = new ProgressMeter('comparing data keys', total, options)
  let failure: MasterKeyError | null = null
  for await (const page of unwrappedPages(store, tenants, accept, options)) {
    for (const { dataKey } of page.unwrapped) digests.add(dataKey)
    failure ??= page.failure
    progress.add(page.rows)
  }
  const shared = await findRowsOfRepeatedKeys(store, tenants, accept, digests, options)
  return { ...shared, failure: failure ?? shared.failure }
}

/** Unwraps every row, if any digest is repeated, to find the rows that hold the repeated keys. */
export async function findRowsOfRepeatedKeys(
  store: KeyStore,
  tenants: TenantKeys,
  accept: readonly Format[],
  digests: DataKeyDigests,
  options: LongWorkOptions,
): Promise<SharedKeys> {
  const repeated = await digests.repeated()
  if (repeated.size === 0) return NO_SHARED_KEYS
  const groups = new Map<string, KeyRef[]>()
  let failure: MasterKeyError | null = null
  for await (const { unwrapped, failure: failed } of unwrappedPages(store, tenants, accept, options)) {
    failure ??= failed
    for (const { record, dataKey } of unwrapped) {
      const digest = digests.digest(dataKey)
      if (!repeated.has(digest.readBigUInt64LE())) continue
      const wholeDigest = digest.toString('base64')
      const { userId, version } = record
      const group = groups.get(wholeDigest)
      if (group) group.push({ userId, version })
      else groups.set(wholeDigest, [{ userId, version }])
    }
  }
  const shared = new Map<string, readonly KeyRef[]>()
  for (const refs of groups.values()) {
    for (const ref of refs.length > 1 ? refs : []) {
      if (isTurnDueInLoop()) await nextTurn()
      shared.set(refKey(ref), refs)
    }
  }
  return { groups: shared, failure }
}

/**
 * Whether a row holds a v2 wrap although its KEK id is one of v3. No writer leaves such a row. It would still unwrap, because under
 * a local key the length of a wrap decides its format. So somebody may have put another user's key there.
 */
export function isV2WrapUnderV3Id(keyring: MasterKeyring, { kekId, encryptedKey }: KeyRecord): boolean {
  const masterKey = kekId === null ? null : keyring.find(kekId)
  return masterKey !== null && isLocal(masterKey) && masterKey.id === kekId && isV2Wrap(encryptedKey)
}

/** Whether a row holds a v2 wrap: that of a local key, as far as its master key is known. */
export function isV2Row(keyring: MasterKeyring, { kekId, encryptedKey }: KeyRecord): boolean {
  const masterKey = kekId === null ? null : keyring.find(kekId)
  return isV2Wrap(encryptedKey) && (masterKey === null || isLocal(masterKey))
}

export const V2_WRAP_UNDER_V3_ID = 'A v2 wrap stands under a master key id of v3: it was exchanged'

/** A message names this many rows: a key may be in thousands. */
const MAX_NAMED = 5

/** Names the other rows of a group, for a message about one of them. */
export function describeOtherRows(group: readonly KeyRef[], ref: KeyRef): string {
  const named = group.slice(0, MAX_NAMED + 1).filter((other) => refKey(other) !== refKey(ref))
  const names = named.slice(0, MAX_NAMED).map(describeRef).join('; ')
  const more = group.length - 1 - MAX_NAMED
  return more > 0 ? `${names}; and ${more} more` : names
}

interface UnwrappedPage {
  /** Rows of the page, those included that do not unwrap. */
  readonly rows: number
  readonly unwrapped: readonly { readonly record: KeyRecord; readonly dataKey: Uint8Array }[]
  /** Why a master key did not open one of them. */
  readonly failure: MasterKeyError | null
}

/**
 * Unwraps all live rows, page by page. Wipes the data keys of a page when the next one is requested.
 *
 * Asks a key service too, although that costs a request for each row: after a killed rewrap half of the rows may be under a key
 * service, and a copied key may have its original there.
 */
async function* unwrappedPages(
  store: KeyStore,
  tenants: TenantKeys,
  accept: readonly Format[],
  options: LongWorkOptions,
): AsyncGenerator<UnwrappedPage, void, undefined> {
  for await (const page of pagesOf(store, options, {}, () => undefined)) {
    const unwrapped: { record: KeyRecord; dataKey: Uint8Array }[] = []
    // A tenant's key is bound to its row.
    const live = page.filter((row) => !isTombstone(row) && !isTenantRow(row))
    let failure: MasterKeyError | null = null
    try {
      await mapConcurrently(live, async (record) => {
        try {
          unwrapped.push({ record, dataKey: await tenants.unwrap(record, accept) })
        } catch (error) {
          // The rewrap or the verification itself reports rows that do not unwrap.
          if (!isRowError(error)) throw error
          if (isMasterKeyFailure(error)) failure ??= error
        }
      })
      yield { rows: page.length, unwrapped, failure }
    } finally {
      for (const { dataKey } of unwrapped) dataKey.fill(0)
    }
  }
}

/** Why a row in format v2 is not upgraded whose data key others have too. */
export function sharedKey(ref: KeyRef, group: readonly KeyRef[]): MasterKeyError {
  return new MasterKeyError(
    'ERR_UNWRAP_FAILED',
    `The key of ${describeRef(ref)} is also the key of ${describeOtherRows(group, ref)}: one of them was copied, and none is ` +
      'upgraded. Find out whose key it is, shred or restore the others, and run this again',
  )
}

/** Of the failed master key, but for the row of another one. */
export function notCompared(ref: KeyRef, { message, reason, retryable }: MasterKeyError): MasterKeyError {
  return new MasterKeyError(
    'ERR_MASTER_KEY',
    `The key of ${describeRef(ref)} is not upgraded from format v2, because it could not be compared with all others: it may be a copy of one ` +
      `of them. ${message}`,
    { reason, retryable },
  )
}
