/** When two stores have the same record, and the digest over many. */
import { incrementalSha256 } from '../format/aead.js'
import { preAuthEncode, preAuthWrite } from '../format/encoding.js'
import { isoText } from '../iso-time.js'
import { isTombstone, type KeyRecord } from '../table.js'

/** For `isTurnDueInLoop`: comparing two records, or the rows of a user, takes as long as so many tokens. */
export const COMPARISON_WEIGHT = 4

/**
 * Whether the digest takes two rows for the same record. What had wrapped an erased key says nothing any more, and two stores may have erased
 * it at different times.
 */
export function isSameRecord(a: KeyRecord, b: KeyRecord): boolean {
  if (a.version !== b.version || a.createdAt.getTime() !== b.createdAt.getTime()) return false
  if (a.userId !== b.userId || Buffer.compare(a.encryptedKey, b.encryptedKey) !== 0) return false
  if (isTombstone(a) || isTombstone(b)) return isTombstone(a) && isTombstone(b)
  return a.kekId === b.kekId && a.wrappedAt?.getTime() === b.wrappedAt?.getTime()
}

/** What is hashed of a record: equal for two of them if and only if {@link isSameRecord}. */
function canonicalPieces(record: KeyRecord): readonly (string | Uint8Array)[] {
  const { userId, version, encryptedKey, kekId, createdAt, wrappedAt, shreddedAt } = record
  const isLive = shreddedAt === null
  const kek = isLive ? kekId : null
  const wrapped = isLive ? wrappedAt : null
  // Each value that may be null has a flag before it, so that a null KEK id and an empty one have different bytes.
  return [
    userId,
    String(version),
    encryptedKey,
    isoText(createdAt),
    kek === null ? '0' : '1',
    kek ?? '',
    wrapped === null ? '0' : '1',
    wrapped === null ? '' : isoText(wrapped),
    isLive ? '0' : '1',
    isLive ? '' : 'shredded',
  ]
}

/** About sixty records. A call of the hash costs as much as hashing a thousand bytes. */
const BYTES_A_CALL = 16_384

/** The digest of records that are added in order. */
export class RecordsHash {
  readonly #hash
  readonly #pending = Buffer.allocUnsafeSlow(BYTES_A_CALL)
  #pendingBytes = 0

  constructor(hash = incrementalSha256()) {
    this.#hash = hash
  }

  add(record: KeyRecord): void {
    const pieces = canonicalPieces(record)
    let end = preAuthWrite(this.#pending, this.#pendingBytes, pieces)
    if (end === null) {
      this.#flush()
      end = preAuthWrite(this.#pending, 0, pieces)
    }
    if (end === null) this.#hash.update(preAuthEncode(pieces))
    else this.#pendingBytes = end
  }

  /** One that goes on from here by itself. */
  copy(): RecordsHash {
    this.#flush()
    return new RecordsHash(this.#hash.copy())
  }

  /** SHA-256 over all records, as hexadecimal text. */
  digest(): string {
    this.#flush()
    return this.#hash.digest().toString('hex')
  }

  #flush(): void {
    if (this.#pendingBytes > 0) this.#hash.update(this.#pending.subarray(0, this.#pendingBytes))
    this.#pendingBytes = 0
  }
}

/** The digests of a source and of its target, in one pass over both. */
export class PairedDigests {
  readonly #from = new RecordsHash()
  /** Null as long as both have the same records: one hash is enough for them. */
  #to: RecordsHash | null = null
  #extra = 0

  /** Adds the rows of one user, by version. */
  add(from: readonly KeyRecord[], to: readonly KeyRecord[]): void {
    if (this.#to === null && !areSame(from, to)) this.#to = this.#from.copy()
    for (const row of from) this.#from.add(row)
    if (this.#to === null) return
    for (const row of to) this.#to.add(row)
    this.#extra += onlyInSecond(from, to)
  }

  /** `extra`: how many rows only the target has. Counts of all rows would not tell it: what the target lacks would hide as many. */
  digests(): { readonly from: string; readonly to: string; readonly extra: number } {
    const from = this.#from.digest()
    return { from, to: this.#to?.digest() ?? from, extra: this.#extra }
  }
}

/** How many rows of the second have a version that the first has not; both are of one user, by version. */
function onlyInSecond(first: readonly KeyRecord[], second: readonly KeyRecord[]): number {
  let at = 0
  let count = 0
  for (const { version } of second) {
    while ((first[at]?.version ?? version) < version) at += 1
    if (first[at]?.version !== version) count += 1
  }
  return count
}

function areSame(a: readonly KeyRecord[], b: readonly KeyRecord[]): boolean {
  return a.length === b.length && a.every((row, at) => isSameRecord(row, b[at] as KeyRecord))
}
