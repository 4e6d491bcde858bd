/** Answers that many wait for and few have to ask for: open keys and rows of tenants in a long operation. */

/** Answers that are kept, such as of open keys about 2 KB each. A further one takes the place of the one that was asked for first. */
const MOST_KEPT = 10_000
/** What failed is not asked for again so soon: a root that fails is asked about once a second for a tenant. */
export const ASK_AGAIN_MS = 1000

interface Answer<T> {
  readonly answer: Promise<T>
  until: number
}

/** What was asked for: once for all who ask at the same time, and kept for a while. What failed is not asked for again so soon. */
export class KeptAnswers<T> {
  readonly #keptMs: number
  readonly #answers = new Map<string, Answer<T>>()

  /** @param keptMs how long an answer is kept, in milliseconds */
  constructor(keptMs: number) {
    this.#keptMs = keptMs
  }

  delete(name: string): void {
    this.#answers.delete(name)
  }

  /** The same answer under another name too. */
  copy(name: string, to: string): void {
    const known = this.#answers.get(name)
    if (known !== undefined) this.#keep(to, known)
  }

  get(name: string, ask: () => Promise<T>): Promise<T> {
    const known = this.#answers.get(name)
    if (known !== undefined && performance.now() < known.until) return known.answer
    const entry: Answer<T> = { answer: ask(), until: Number.POSITIVE_INFINITY }
    this.#keep(name, entry)
    entry.answer.then(
      () => {
        entry.until = performance.now() + this.#keptMs
      },
      () => {
        entry.until = performance.now() + ASK_AGAIN_MS
      },
    )
    return entry.answer
  }

  #keep(name: string, entry: Answer<T>): void {
    this.#answers.delete(name)
    this.#answers.set(name, entry)
    const [oldest] = this.#answers.keys()
    if (this.#answers.size > MOST_KEPT && oldest !== undefined) this.#answers.delete(oldest)
  }
}
