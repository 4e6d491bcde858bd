/** Ids in the order of their UTF-8 bytes, in which pages are read. */
import { compareUtf8 } from '../table.js'

/** An insertion moves so many ids at most. */
const MAX_BUCKET = 512

/** A set that stays sorted: sorted buckets one after the other, of which none is empty. */
export class SortedIds {
  #buckets: string[][] = []

  /** Adds an id that is not in the set. */
  add(id: string): void {
    const at = this.#bucketOf(id)
    const bucket = this.#buckets[at]
    if (bucket === undefined) {
      this.#buckets.push([id])
      return
    }
    bucket.splice(firstNotBelow(bucket, id), 0, id)
    if (bucket.length > MAX_BUCKET) this.#buckets.splice(at + 1, 0, bucket.splice(MAX_BUCKET / 2))
  }

  delete(id: string): void {
    const at = this.#bucketOf(id)
    const bucket = this.#buckets[at] ?? []
    const index = firstNotBelow(bucket, id)
    if (bucket[index] !== id) return
    bucket.splice(index, 1)
    if (bucket.length === 0) this.#buckets.splice(at, 1)
  }

  clear(): void {
    this.#buckets = []
  }

  /** The ids from this one on. The set must not change meanwhile. */
  *from(id: string): Generator<string, void, undefined> {
    for (let at = this.#bucketOf(id); ; at++) {
      const bucket = this.#buckets[at]
      if (bucket === undefined) return
      for (let index = firstNotBelow(bucket, id); index < bucket.length; index++)
        yield bucket[index] as string
    }
  }

  /** The last bucket whose first id is not above this one, or else the first bucket. */
  #bucketOf(id: string): number {
    let [low, high] = [0, this.#buckets.length]
    while (high - low > 1) {
      const middle = (low + high) >>> 1
      if (compareUtf8(this.#buckets[middle]?.[0] as string, id) <= 0) low = middle
      else high = middle
    }
    return low
  }
}

/** Where the first id stands that is not below this one. */
function firstNotBelow(bucket: readonly string[], id: string): number {
  let [low, high] = [0, bucket.length]
  while (low < high) {
    const middle = (low + high) >>> 1
    if (compareUtf8(bucket[middle] as string, id) < 0) low = middle + 1
    else high = middle
  }
  return low
}
