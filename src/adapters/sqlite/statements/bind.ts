/**
 * Statements that skip what Drizzle does at each run, because they run a thousand times in a row. Drizzle still builds their SQL,
 * and its columns still encode and decode their values.
 */
import { is, Param, Placeholder, type Query } from 'drizzle-orm'

/** The values of a statement's placeholders, by name. */
export type PlaceholderValues = Readonly<Record<string, unknown>>

/** A statement that any driver can run. */
export interface Statement {
  readonly sql: string
  /** The values of its parameters in their order, encoded for the driver. */
  bind(values: PlaceholderValues): unknown[]
}

/** @param query built by Drizzle */
export function statementOf(query: { toSQL(): Query }): Statement {
  const { sql, params } = query.toSQL()
  const encoders = params.map(encoderOf)
  return { sql, bind: (values) => encoders.map((encoder) => encoder(values)) }
}

/** A statement on a fixed number of rows. */
export interface RowsStatement {
  readonly sql: string
  readonly rows: number
  /** @param rows as many as {@link RowsStatement.rows} says */
  bind(rows: readonly PlaceholderValues[]): unknown[]
}

/** @param query built by Drizzle, with the same parameters for each of the rows, row after row */
export function rowsStatementOf(query: { toSQL(): Query }, rows: number): RowsStatement {
  const { sql, params } = query.toSQL()
  const encoders = params.slice(0, params.length / rows).map(encoderOf)
  const bind = (values: readonly PlaceholderValues[]) => {
    const bound: unknown[] = []
    for (const row of values) for (const encoder of encoders) bound.push(encoder(row))
    return bound
  }
  return { sql, rows, bind }
}

/** Makes the function that takes one parameter's value from the values of a run. */
function encoderOf(param: unknown): (values: PlaceholderValues) => unknown {
  if (is(param, Placeholder)) return (values) => values[param.name]
  if (!is(param, Param) || !is(param.value, Placeholder)) return () => param
  const { name } = param.value
  return (values) => param.encoder.mapToDriverValue(values[name])
}
