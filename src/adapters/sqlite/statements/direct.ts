/**
 * Statements that skip what Drizzle does at each run, because they run a thousand times in a row. Drizzle still builds their SQL,
 * and its columns still encode and decode their values.
 */
import { is, Param, Placeholder, type Query } from 'drizzle-orm'
import type { SqliteClient } from '../../../drivers/sqlite-client.js'
import type { StoredRow } from '../../stored-rows.js'
import { decodeRow, type RawRow } from './decode.js'

/** The values of a statement's placeholders, by name. */
export type PlaceholderValues = Readonly<Record<string, unknown>>

export interface DirectStatement {
  run(values: PlaceholderValues): { readonly changes: number }
  /** The rows of a statement that selects all columns. */
  all(values: PlaceholderValues): StoredRow[]
}

/** @param query built by Drizzle */
export function prepareDirect(client: SqliteClient, query: { toSQL(): Query }): DirectStatement {
  const { sql: text, params } = query.toSQL()
  const statement = client.prepare(text)
  // The host may have made bigints the default of its connection.
  if (statement.reader) statement.raw().safeIntegers(false)
  const encoders = params.map(encoderOf)
  const encode = (values: PlaceholderValues) => encoders.map((encoder) => encoder(values))
  return {
    run: (values) => statement.run(...encode(values)),
    all: (values) => (statement.all(...encode(values)) as RawRow[]).map(decodeRow),
  }
}

/** Makes the function that takes one parameter's value from the values of a run. */
export function encoderOf(param: unknown): (values: PlaceholderValues) => unknown {
  if (is(param, Placeholder)) return (values) => values[param.name]
  if (!is(param, Param) || !is(param.value, Placeholder)) return () => param
  const { name } = param.value
  return (values) => param.encoder.mapToDriverValue(values[name])
}
