/** What a sweep has written, so that its last look need not open it again. */
import type { UserHandle } from '../envelope/user-handle.js'
import { shortDigest } from '../format/aead.js'
import { contextPieces, type EncryptionContext } from '../format/context.js'
import { type ValueRef, valueRefKey } from '../sources/value-source.js'

/** A value as the sweep reads it; its contexts were made. */
interface ValueAndContexts extends ValueRef {
  readonly contexts: unknown
}

/** At most half of the places are taken: 2 million values, in 32 MiB. What is written after that is opened by the last look. */
const MAX_PLACES = 2 ** 22
const FIRST_PLACES = 2 ** 12

/**
 * A set of the tokens that were written and verified. Each is known by 64 bits of a SHA-256 of its whole text, of where it is stored, of its
 * owner's key and of its context: it counts as current only where exactly the same is read again under the same key and context. Whatever
 * somebody else has changed since, be it a value, the owner, or the newest version of the owner's key, is looked at as if nothing was known.
 */
export class WrittenValues {
  /** Two words for each place; a place with two zeros is free. */
  #places = new Uint32Array(2 * FIRST_PLACES)
  #size = 0
  #context: EncryptionContext | null = null
  #contextText = ''

  /** A token that the database holds now. @param keys those of its owner: it is under the newest version */
  add(value: ValueAndContexts, token: string, keys: UserHandle): void {
    if (2 * (this.#size + 1) > this.#capacity && !this.#grow()) return
    const [high, low] = this.#digest(value, token, keys)
    if (this.#put(high, low)) this.#size += 1
  }

  /** Whether what was read is what was written. */
  has(value: ValueAndContexts, stored: string, keys: UserHandle): boolean {
    if (this.#size === 0) return false
    const [high, low] = this.#digest(value, stored, keys)
    return this.#isTaken(this.#placeOf(high, low))
  }

  get #capacity(): number {
    return this.#places.length / 2
  }

  #digest(value: ValueAndContexts, token: string, keys: UserHandle): readonly [number, number] {
    const [context] = value.contexts as readonly [EncryptionContext]
    const owner = JSON.stringify(value.owner)
    return shortDigest(
      `${valueRefKey(value)} ${owner} ${keys.activeKeyName} ${this.#textOf(context)} ${token}`,
    )
  }

  /** Mostly all values have the same context. */
  #textOf(context: EncryptionContext): string {
    if (context !== this.#context) {
      this.#context = context
      this.#contextText = JSON.stringify(contextPieces(context))
    }
    return this.#contextText
  }

  /** The place of a digest, or the free one where it would be. Half of the places are free. */
  #placeOf(high: number, low: number): number {
    const places = this.#places
    const mask = this.#capacity - 1
    let place = low & mask
    while (this.#isTaken(place) && (places[2 * place] !== high || places[2 * place + 1] !== low))
      place = (place + 1) & mask
    return place
  }

  #isTaken(place: number): boolean {
    return this.#places[2 * place] !== 0 || this.#places[2 * place + 1] !== 0
  }

  /** @returns whether it was not there */
  #put(high: number, low: number): boolean {
    const place = this.#placeOf(high, low)
    if (this.#isTaken(place)) return false
    this.#places[2 * place] = high
    this.#places[2 * place + 1] = low
    return true
  }

  /** @returns whether there is room for one more */
  #grow(): boolean {
    if (this.#capacity >= MAX_PLACES) return false
    const before = this.#places
    this.#places = new Uint32Array(2 * before.length)
    for (let at = 0; at < before.length; at += 2) {
      const [high, low] = [before[at] as number, before[at + 1] as number]
      if (high !== 0 || low !== 0) this.#put(high, low)
    }
    return true
  }
}
