/**
 * Finds data keys that stand in more than one row. A v2 wrap is bound to no row: whoever can write to the database may have put
 * Alice's into Bob's, and a wrap of v3 would then bind the copy to Bob for good.
 */
import { generateKey, hmacSha256 } from '../format/aead.js'
import type { Format } from '../format/formats.js'
import { describeRef, unwrapDataKey } from '../master-keys/key-wrap.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import { isLocal, isV2Wrap } from '../master-keys/local.js'
import type { KeyStore } from '../store.js'
import { type KeyRecord, type KeyRef, refKey } from '../table.js'
import { inTurns, isOfOneRow, type LongWorkOptions, ProgressMeter, pagesOf } from './long-work.js'

/** For each row whose data key stands in others too, all that hold it. By {@link refKey}. */
export type SharedKeys = ReadonlyMap<string, readonly KeyRef[]>

export const NONE_SHARED: SharedKeys = new Map()

/**
 * Keyed digests of data keys, 8 bytes each: of a million rows 8 MB. Two of a million different keys agree by chance once in about 30
 * million runs, and whoever asks compares the keys' whole digests.
 */
export class DataKeyDigests {
  /** Of this run only: what stays in the memory says nothing about a key. */
  readonly #key = generateKey()
  #digests = new BigUint64Array(1024)
  #count = 0

  /** @returns the whole digest, 32 bytes */
  digest(dataKey: Uint8Array): Buffer {
    return hmacSha256(this.#key, dataKey)
  }

  add(dataKey: Uint8Array): void {
    if (this.#count === this.#digests.length) {
      const larger = new BigUint64Array(this.#count * 2)
      larger.set(this.#digests)
      this.#digests = larger
    }
    this.#digests[this.#count] = this.digest(dataKey).readBigUInt64LE()
    this.#count += 1
  }

  /** The beginnings that more than one digest has. */
  repeated(): ReadonlySet<bigint> {
    const sorted = this.#digests.subarray(0, this.#count).sort()
    return new Set(sorted.filter((digest, index) => digest === sorted[index - 1]))
  }
}

/** Reads and opens every row; a second time only if it finds a key twice. */
export async function findSharedKeys(
  store: KeyStore,
  keyring: MasterKeyring,
  accept: readonly Format[],
  total: number,
  options: LongWorkOptions,
): Promise<SharedKeys> {
  const digests = new DataKeyDigests()
  const progress = new ProgressMeter('comparing data keys', total, options)
  for await (const page of openedPages(store, keyring, accept, options)) {
    for (const { dataKey } of page.opened) digests.add(dataKey)
    progress.add(page.rows)
  }
  return sharedAmong(store, keyring, accept, digests, options)
}

/** Names the rows whose data keys repeat among the digests. */
export async function sharedAmong(
  store: KeyStore,
  keyring: MasterKeyring,
  accept: readonly Format[],
  digests: DataKeyDigests,
  options: LongWorkOptions,
): Promise<SharedKeys> {
  const repeated = digests.repeated()
  if (repeated.size === 0) return NONE_SHARED
  const groups = new Map<string, KeyRef[]>()
  for await (const { opened } of openedPages(store, keyring, accept, options)) {
    for (const { record, dataKey } of opened) {
      const digest = digests.digest(dataKey)
      if (!repeated.has(digest.readBigUInt64LE())) continue
      const name = digest.toString('base64')
      const { userId, version } = record
      const group = groups.get(name)
      if (group) group.push({ userId, version })
      else groups.set(name, [{ userId, version }])
    }
  }
  const shared = new Map<string, readonly KeyRef[]>()
  for (const refs of groups.values()) {
    for (const ref of refs.length > 1 ? refs : []) shared.set(refKey(ref), refs)
  }
  return shared
}

/**
 * A v2 wrap under a KEK id of v3: no writer leaves that, but under a local key the length of a wrap decides its format, and so it would
 * open. Put there by somebody, it could be anybody's.
 */
export function isExchanged(keyring: MasterKeyring, { kekId, encryptedKey }: KeyRecord): boolean {
  const masterKey = kekId === null ? null : keyring.find(kekId)
  return masterKey !== null && isLocal(masterKey) && masterKey.id === kekId && isV2Wrap(encryptedKey)
}

export const EXCHANGED = 'A v2 wrap stands under a master key id of v3: it was exchanged'

/** Rows that a message names; a key may stand in thousands. */
const MAX_NAMED = 5

/** For messages: the rows of a group but one. */
export function describeOthers(group: readonly KeyRef[], ref: KeyRef): string {
  const named = group.slice(0, MAX_NAMED + 1).filter((other) => refKey(other) !== refKey(ref))
  const names = named.slice(0, MAX_NAMED).map(describeRef).join('; ')
  const more = group.length - 1 - MAX_NAMED
  return more > 0 ? `${names}; and ${more} more` : names
}

interface OpenedPage {
  readonly rows: number
  readonly opened: readonly { readonly record: KeyRecord; readonly dataKey: Uint8Array }[]
}

/**
 * Under a key service too, though it is asked, and paid, for each row: of a rewrap to one that was killed the first half is there
 * already, and the copy in the other. The data keys are wiped when the next page is asked for.
 */
async function* openedPages(
  store: KeyStore,
  keyring: MasterKeyring,
  accept: readonly Format[],
  options: LongWorkOptions,
): AsyncGenerator<OpenedPage, void, undefined> {
  for await (const page of pagesOf(store, options, {}, () => undefined)) {
    const opened: { record: KeyRecord; dataKey: Uint8Array }[] = []
    const live = page.filter(({ shreddedAt }) => shreddedAt === null)
    try {
      await inTurns(live, async (record) => {
        try {
          opened.push({ record, dataKey: await unwrapDataKey(keyring, record, accept) })
        } catch (error) {
          // What does not open is reported by whoever rewraps or verifies it.
          if (!isOfOneRow(error)) throw error
        }
      })
      yield { rows: page.length, opened }
    } finally {
      for (const { dataKey } of opened) dataKey.fill(0)
    }
  }
}
