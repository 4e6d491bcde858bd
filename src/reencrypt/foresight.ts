/** For a dry run: tries new values where the source can take them back, so that a column that refuses them is found before the sweep. */
import { tokenLikeFor } from '../format/token.js'
import type { SourceFinding } from '../sources/finding.js'
import { ColumnTypeError } from '../sources/table.js'
import type { ValueChange, ValueSource } from '../sources/value-source.js'
import type { FoundValue } from './sweep-fingerprints.js'

/** So many values of each column are tried first, and then each that is the longest so far. */
const FIRST_VALUES = 20

export class Foresight {
  readonly #source: Pick<ValueSource<never>, 'foresee'>
  /** By what they say. */
  readonly #findings = new Map<string, SourceFinding>()
  readonly #tried = new Map<string, { count: number; longest: number }>()

  constructor(source: Pick<ValueSource<never>, 'foresee'>) {
    this.#source = source
  }

  get findings(): readonly SourceFinding[] {
    return [...this.#findings.values()]
  }

  /** @returns what is counted; null if the columns are of a type that cannot hold tokens, as a finding says then. @throws what `count` throws */
  async counted(count: () => Promise<number> | number): Promise<number | null> {
    try {
      return await count()
    } catch (error) {
      if (!(error instanceof ColumnTypeError)) throw error
      const { columnName: column, message: reason } = error
      this.#findings.set(reason, { severity: 'error', kind: 'wrongType', column, reason })
      return null
    }
  }

  /** @param found the values of a page that the sweep would replace. @throws what the source throws */
  async look<Row>(found: readonly (FoundValue<Row> & { readonly plaintext: Uint8Array })[]): Promise<void> {
    if (this.#source.foresee === undefined) return
    const accepted = found.filter(({ error }) => error === undefined)
    for (const column of new Set(accepted.map(({ value }) => value.column))) {
      if (this.#isRefused(column)) continue
      const values = accepted.filter(({ value }) => value.column === column)
      const changes = this.#chosen(column, values)
      if (changes.length === 0) continue
      for (const finding of await this.#source.foresee(changes)) this.#findings.set(finding.reason, finding)
    }
  }

  #isRefused(column: string): boolean {
    return this.findings.some((finding) => finding.severity === 'error' && finding.column === column)
  }

  #chosen<Row>(
    column: string,
    values: readonly (FoundValue<Row> & { readonly plaintext: Uint8Array })[],
  ): ValueChange[] {
    const tried = this.#tried.get(column) ?? { count: 0, longest: -1 }
    this.#tried.set(column, tried)
    const first = values.slice(0, Math.max(0, FIRST_VALUES - tried.count))
    const longest = values.reduce((one, other) =>
      other.plaintext.length > one.plaintext.length ? other : one,
    )
    const chosen = new Set(first)
    if (longest.plaintext.length > tried.longest) chosen.add(longest)
    tried.count += first.length
    tried.longest = Math.max(tried.longest, longest.plaintext.length)
    return Array.from(chosen, ({ value: { key, column, owner, value }, plaintext }) => ({
      key,
      column,
      owner,
      from: value as string,
      to: tokenLikeFor(plaintext.length),
    }))
  }
}
