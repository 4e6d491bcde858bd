/** Tables on standard output: as wide as their content in a file or a log, and no wider than the terminal on one. */
import Table from 'cli-table3'

/** One way to show a report as a table. */
export interface TableLayout {
  readonly head: readonly string[]
  readonly rows: readonly (readonly string[])[]
}

/** Columns narrower than this many characters are not read, but spelled. */
const LEAST_COLUMN = 12
/** One blank on each side of a cell. */
const PADDING = 2

/**
 * Prints a table.
 *
 * @param narrower the same report with fewer or narrower columns, for terminals on which it does not fit; the widest first
 */
export function printTable(
  head: TableLayout['head'],
  rows: TableLayout['rows'],
  ...narrower: readonly TableLayout[]
): void {
  console.log(fittedTable([{ head, rows }, ...narrower], process.stdout.columns))
}

/**
 * The first layout that fits as it is; else the last one, with long cells on several lines; else, where not even that fits, each row as lines
 * of its own.
 *
 * @param columns characters in a line of the terminal; undefined where there is none
 */
export function fittedTable(layouts: readonly TableLayout[], columns = Number.POSITIVE_INFINITY): string {
  for (const layout of layouts) {
    const table = tableOf(layout)
    if (table.width <= columns) return table.toString()
  }
  const narrowest = layouts.at(-1) as TableLayout
  const widths = fittedWidths(narrowest, columns)
  return widths === null ? asRecords(narrowest) : tableOf(narrowest, widths).toString()
}

/** Without colours, so that it is the same on a terminal, in a file and in a log. */
function tableOf({ head, rows }: TableLayout, widths?: readonly number[]): Table.Table {
  const table = new Table({
    head: [...head],
    style: { head: [], border: [] },
    ...(widths && { colWidths: [...widths], wordWrap: true }),
  })
  for (const row of rows) table.push(row.map((content, index) => cellOf(content, widths?.[index])))
  return table
}

/** Words longer than the column are broken: the library would cut them. */
function cellOf(content: string, width?: number): Table.Cell {
  if (width === undefined) return content
  const hasLongWord = content.split(/\s/).some((word) => word.length > width - PADDING)
  return { content, wrapOnWordBoundary: !hasLongWord }
}

/** Takes from the widest columns what is too much. @returns null if that leaves no column to read */
function fittedWidths({ head, rows }: TableLayout, columns: number): number[] | null {
  const borders = head.length + 1
  const widths = head.map(
    (name, index) => tableOf({ head: [name], rows: rows.map((row) => [row[index] ?? '']) }).width - 2,
  )
  const sum = () => widths.reduce((total, width) => total + width, borders)
  while (sum() > columns) {
    const widest = Math.max(...widths)
    if (widest <= LEAST_COLUMN + PADDING) return null
    widths[widths.indexOf(widest)] = widest - 1
  }
  return widths
}

function asRecords({ head, rows }: TableLayout): string {
  return rows
    .map((row) => head.map((name, index) => `${name}: ${row[index]?.replaceAll('\n', ', ')}`).join('\n'))
    .join('\n\n')
}
