/** Counts the users whom a sweep encrypts for, and those of them who had no key: many of these, and the owner column is likely the wrong one. */

/** Counted up to here, which takes a few megabytes. */
export const MOST_OWNERS = 100_000

/** The users whose values a sweep encrypts. */
export interface OwnerReport {
  /** How many there are. 100,000 stands for that many or more. */
  readonly count: number
  /** How many of them had no key, and get one. */
  readonly withoutKey: number
}

export class OwnerCount {
  readonly #owners = new Set<string>()
  #withoutKey = 0

  /** Counts an owner once. The pool is none. */
  add(owner: string | null, lacksKey: boolean): void {
    if (owner === null || this.#owners.has(owner) || this.#owners.size === MOST_OWNERS) return
    this.#owners.add(owner)
    if (lacksKey) this.#withoutKey += 1
  }

  get report(): OwnerReport {
    return { count: this.#owners.size, withoutKey: this.#withoutKey }
  }
}
