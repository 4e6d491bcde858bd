/** The pages of a table in another order than that of its key, so that several processes need not all go through the same ones. */
import type { PageOrder } from './value-source.js'

/** So many cuts are kept at most: of a longer table each stretch has several pages. */
const MAX_CUTS = 8192

/**
 * The keys that cut a table into stretches of about so many rows: each is the last one of its stretch. All keys are passed on the way, which
 * takes seconds for millions of rows: it ends early where the order says that the work is over, and gives no pages any more.
 *
 * @param keyAfter the key of the row that is so many rows behind another one, or behind the beginning; null if there is none
 */
export async function cutsOf<Key>(
  rows: number,
  order: PageOrder,
  keyAfter: (after: Key | null, rows: number) => Promise<Key | null>,
): Promise<Key[]> {
  let cuts: Key[] = []
  for (let step = rows; ; ) {
    const cut = await keyAfter(cuts.at(-1) ?? null, step)
    if (cut === null || order.isOver()) return cuts
    cuts.push(cut)
    if (cuts.length === MAX_CUTS) {
      cuts = cuts.filter((_, index) => index % 2 === 1)
      step *= 2
    }
  }
}

/** What {@link stretchPages} reads with. */
interface StretchReader<Row, Key> {
  /** Reads a page of the rows after one key, up to and with another; null: from the beginning, or to the end. */
  read(after: Key | null, upTo: Key | null): Promise<readonly Row[]>
  keyOf(row: Row): Key
  isSame(a: Key, b: Key): boolean
  /** How many rows a page has at most. */
  readonly limit: number
}

/** The pages of all stretches, and of which stretch each is. The union of the stretches is the table, whatever is written meanwhile. */
export async function* stretchPages<Row, Key>(
  order: PageOrder,
  cuts: readonly Key[],
  { read, keyOf, isSame, limit }: StretchReader<Row, Key>,
): AsyncGenerator<{ readonly rows: readonly Row[]; readonly at: number }, void, undefined> {
  order.begin(cuts.length + 1)
  for (let at = order.next(); at !== null; at = order.next()) {
    const upTo = cuts[at] ?? null
    for (let after: Key | null = cuts[at - 1] ?? null; ; ) {
      const rows = await read(after, upTo)
      const last = rows.at(-1)
      if (last === undefined) break
      yield { rows, at }
      after = keyOf(last)
      if (rows.length < limit || (upTo !== null && isSame(after, upTo))) break
    }
  }
}
