/** For a dry run: tries new values where the source can take them back, so that a column that refuses them is found before the sweep. */
import { tokenLikeFor } from '../format/token.js'
import type { SourceFinding } from '../sources/finding.js'
import { ColumnTypeError } from '../sources/table.js'
import { keyText, type ValueChange, type ValueSource } from '../sources/value-source.js'
import type { FoundValue } from './sweep-fingerprints.js'

/** So many values of each column are tried first, and then each that is the longest so far. */
const FIRST_VALUES = 20

type TriedValue<Row> = FoundValue<Row> & { readonly plaintext: Uint8Array }

/** What is written at once: a value, or all that are fields of one JSON. */
interface Whole<Row> {
  readonly values: TriedValue<Row>[]
  /** Bytes of plaintext. */
  length: number
}

export class Foresight {
  readonly #source: Pick<ValueSource<never>, 'foresee'>
  /** By what they say. */
  readonly #findings = new Map<string, SourceFinding>()
  readonly #refused = new Set<string>()
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
  async look<Row>(found: readonly TriedValue<Row>[]): Promise<void> {
    if (this.#source.foresee === undefined) return
    for (const [column, wholes] of wholesByColumn(found.filter(({ error }) => error === undefined))) {
      if (this.#refused.has(column)) continue
      const changes = this.#chosen(column, wholes)
      if (changes.length === 0) continue
      for (const finding of await this.#source.foresee(changes)) {
        this.#findings.set(finding.reason, finding)
        if (finding.severity === 'error') this.#refused.add(column)
      }
    }
  }

  #chosen<Row>(column: string, wholes: readonly Whole<Row>[]): ValueChange[] {
    const tried = this.#tried.get(column) ?? { count: 0, longest: -1 }
    this.#tried.set(column, tried)
    const first = wholes.slice(0, Math.max(0, FIRST_VALUES - tried.count))
    const longest = wholes.reduce((one, other) => (other.length > one.length ? other : one))
    const chosen = new Set(first)
    if (longest.length > tried.longest) chosen.add(longest)
    tried.count += first.length
    tried.longest = Math.max(tried.longest, longest.length)
    return [...chosen].flatMap(({ values }) =>
      values.map(({ value: { key, column, owner, value }, plaintext }) => ({
        key,
        column,
        owner,
        from: value as string,
        to: tokenLikeFor(plaintext.length),
      })),
    )
  }
}

/** The values of each column, those that are parts of one whole together. */
function wholesByColumn<Row>(found: readonly TriedValue<Row>[]): Map<string, Whole<Row>[]> {
  const columns = new Map<string, Map<string, Whole<Row>>>()
  for (const tried of found) {
    const { key, column, container = column } = tried.value
    const wholes = columns.get(container) ?? new Map<string, Whole<Row>>()
    columns.set(container, wholes)
    const place = keyText(key)
    const whole = wholes.get(place) ?? { values: [], length: 0 }
    wholes.set(place, whole)
    whole.values.push(tried)
    whole.length += tried.plaintext.length
  }
  return new Map(Array.from(columns, ([column, wholes]) => [column, [...wholes.values()]]))
}
