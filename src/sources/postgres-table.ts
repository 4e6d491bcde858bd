/** A table of the host's on node-postgres, as the sweep uses it. Imports no driver: the pool or client is given. */

import { describeDriverError, storeError } from '../drivers/driver-error.js'
import { DEFAULT_DEADLINE_MS, retrying } from '../drivers/retry.js'
import { invalidArgument } from '../errors.js'
import {
  ALTERED,
  assertShape,
  byColumn,
  type Catalog,
  exactNumber,
  keyOf,
  noTable,
  nullKeys,
  partsOf,
  quoted,
  type SqlTable,
  type TableRow,
  type TableShape,
} from './table.js'
import type { ValueChange, ValueKey, ValueRef } from './value-source.js'

/** A `Pool` or `Client` of pg, structurally: the host may have another copy of its types. */
export interface PostgresClient {
  query(text: string, values?: unknown[]): Promise<{ readonly rows: Record<string, unknown>[] }>
}

/** What a SQLSTATE says of a write. */
const HINTS: Readonly<Record<string, string>> = {
  // string_data_right_truncation, of a varchar(n)
  22001: 'tokens are longer than its column allows',
  // division_by_zero: how `replace` undoes itself
  22012: ALTERED,
}
/** Types of which drivers and Drizzle make different things (drizzle-orm/node-postgres/session.js has them raw too). */
const DATES = /^(timestamp|date|interval)|^numeric.*\[\]$/
/** Types whose keys are shown as numbers. */
const WHOLE_NUMBERS = ['smallint', 'integer', 'bigint']

export class PostgresTable implements SqlTable {
  readonly shape: TableShape
  readonly #client: PostgresClient
  readonly #deadlineMs: number
  #statements: Promise<Statements> | null = null

  constructor(client: PostgresClient, shape: TableShape, deadlineMs = DEFAULT_DEADLINE_MS) {
    this.shape = shape
    this.#client = client
    this.#deadlineMs = deadlineMs
  }

  async check(): Promise<Catalog> {
    return (await this.#prepared()).catalog
  }

  /** The next page is read while the caller has the one before. */
  async *pages(limit: number): AsyncGenerator<readonly TableRow[], void, undefined> {
    const { first, next, rowOf } = await this.#prepared()
    const read = async (after: ValueKey | null): Promise<readonly TableRow[]> => {
      const rows =
        after === null
          ? await this.#query('read', first, [limit])
          : await this.#query('read', next, [...textsOf(after), limit])
      return rows.map(rowOf)
    }
    let page = await read(null)
    for (let last = page.at(-1); last !== undefined; last = page.at(-1)) {
      const ahead = read(last.key)
      // Whoever leaves the loop never asks for it.
      ahead.catch(() => undefined)
      yield page
      page = await ahead
    }
  }

  async lastRows(limit: number): Promise<readonly TableRow[]> {
    const { last, rowOf } = await this.#prepared()
    return (await this.#query('read', last, [limit])).map(rowOf)
  }

  /** A statement for each column, none of which holds its locks for the next. */
  async replace(changes: readonly ValueChange[]): Promise<readonly ValueRef[]> {
    const { replace } = await this.#prepared()
    const replaced: ValueRef[] = []
    for (const [column, some] of byColumn(changes)) {
      const byKey = new Map(some.map((change) => [JSON.stringify(textsOf(change.key)), change]))
      const keys = some.map(({ key }) => textsOf(key))
      const rows = await this.#query('change', replace(column), [
        ...this.shape.key.map((_, index) => keys.map((parts) => parts[index])),
        some.map(({ owner }) => owner),
        some.map(({ from }) => from),
        some.map(({ to }) => to),
      ])
      for (const { key } of rows) {
        const change = byKey.get(JSON.stringify(key))
        if (change !== undefined) replaced.push(change)
      }
    }
    return replaced
  }

  async countRows(): Promise<number> {
    const { count } = await this.#prepared()
    const [row] = await this.#query('count the rows of', count, [])
    return Number(row?.count)
  }

  async #prepared(): Promise<Statements> {
    const statements = this.#statements ?? this.#prepare()
    this.#statements = statements
    statements.catch(() => {
      this.#statements = null
    })
    return statements
  }

  async #prepare(): Promise<Statements> {
    const { shape } = this
    const table = nameOf(shape)
    const [found] = await this.#query('look at', TABLE, [table])
    if (found === undefined) throw noTable(table)
    if (found.hidesRows === true) throw hidden(table)
    const columns = await this.#query('look at', COLUMNS, [table])
    const uniqueKeys = await this.#query('look at', UNIQUE_KEYS, [table])
    const catalog: Catalog = {
      columns: columns.map(({ name, type, nullable, isText }) => ({
        name: String(name),
        type: String(type),
        nullable: nullable === true,
        isText: isText === true,
      })),
      uniqueKeys: uniqueKeys.map(({ names }) => names as string[]),
    }
    assertShape(shape, catalog)
    for (const name of shape.key.filter((key) => catalog.columns.some((c) => c.name === key && c.nullable))) {
      const nulls = `select 1 from ${table} where ${quoted(name)} is null limit 1`
      if ((await this.#query('look at', nulls, [])).length > 0) throw nullKeys(shape)
    }
    return statementsFor(shape, catalog)
  }

  #query(action: string, text: string, values: unknown[]): Promise<Record<string, unknown>[]> {
    const isTransient = (error: unknown) => describeDriverError(error).transient
    const policy = { deadlineMs: this.#deadlineMs, firstWaitMs: 20, longestWaitMs: 500, isTransient }
    return retrying(policy, async () => (await this.#client.query(text, values)).rows).catch((error) => {
      const hint = HINTS[describeDriverError(error).code ?? '']
      const what = `${action} table ${nameOf(this.shape)}`
      throw storeError(hint === undefined ? what : `${what}: ${hint}`, error, 'The sweep')
    })
  }
}

type Statements = ReturnType<typeof statementsFor>

const TABLE = `select row_security_active(oid) as "hidesRows" from pg_class where oid = to_regclass($1)`

/** Not char(n), which pads tokens, nor name, which cuts them. */
const COLUMNS = `select a.attname::text as name, format_type(a.atttypid, a.atttypmod) as type, not a.attnotnull as nullable,
    t.typcategory = 'S' and coalesce(nullif(t.typbasetype, 0), t.oid) not in ('bpchar'::regtype, 'name'::regtype) as "isText"
  from pg_attribute a join pg_type t on t.oid = a.atttypid
  where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped`

/** Only of whole rows, and of columns: an expression's number is 0. Columns that are merely included stand after the key's. */
const UNIQUE_KEYS = `select array(
    select a.attname::text from pg_attribute a where a.attrelid = i.indrelid
      and a.attnum = any ((string_to_array(i.indkey::text, ' ')::int2[])[1:i.indnkeyatts])) as names
  from pg_index i
  where i.indrelid = to_regclass($1) and i.indisunique and i.indisvalid and i.indpred is null
    and i.indexprs is null`

function nameOf({ schema, table }: TableShape): string {
  return schema === undefined ? quoted(table) : `${quoted(schema)}.${quoted(table)}`
}

/**
 * Cursors and the keys of changes travel as text, which keeps every type exactly, and are cast to the type of the column. The column
 * itself stays as it is, with its own collation, so that its index gives the pages in order.
 */
function statementsFor(shape: TableShape, catalog: Catalog) {
  const { key, owner, columns, wholeRows, datesAsText = false } = shape
  const table = nameOf(shape)
  const keys = key.map(quoted)
  const types = key.map((name) => catalog.columns.find((column) => column.name === name)?.type ?? 'text')
  const names = [...new Set([...key, ...(wholeRows ? catalog.columns.map(({ name }) => name) : columns)])]
  if (owner !== null && !names.includes(owner)) names.push(owner)
  const ownerText = (of: string) => (owner === null ? 'null::text' : `${of}${quoted(owner)}::text`)

  const isDate = (name: string) => catalog.columns.some((c) => c.name === name && DATES.test(c.type))
  const read = (name: string) => (datesAsText && isDate(name) ? `${quoted(name)}::text` : quoted(name))
  const select = `select array[${keys.map((name) => `${name}::text`).join(', ')}] as key, ${ownerText('')} as owner,
    ${names.map((name, index) => `${read(name)} as c${index}`).join(', ')} from ${table} as t`
  // Said of the table: a bare name would be that of the result's own column "key", "owner" or "c0", if the host's key is called so.
  const places = keys.map((name) => `t.${name}`)
  const cursor = types.map((type, index) => `$${index + 1}::${type}`).join(', ')
  const ordered = (direction: string, limit: number) =>
    `order by ${places.map((place) => `${place} ${direction}`).join(', ')} limit $${limit}::int`

  /**
   * Locks the rows in the order of their keys before it changes any, or two sweeps would wait for each other; and not against rows that
   * refer to them. "(select $1)" hides the arrays' lengths from the planner, which would else read the whole table for a thousand keys;
   * "materialized" keeps it from locking all of them again for each row, when its statistics are of a table that was nearly empty.
   * A row that does not hold in the end what was written ends the statement by a division by zero, and nothing is changed.
   */
  function replace(column: string): string {
    const inputs = [...key.map((_, index) => `k${index}`), 'owner', 'old', 'new']
    const arrays = inputs.map((_, index) => `(select $${index + 1}::text[])`).join(', ')
    const sameKey = (of: string) =>
      keys.map((name, index) => `${of}.${name} = input.k${index}::${types[index]}`).join(' and ')
    const name = quoted(column)
    return `update ${table} as t set ${name} = input.new
      from (
        with locked as materialized (
          select input.* from unnest(${arrays}) as input(${inputs.join(', ')})
          join ${table} as k on ${sameKey('k')}
          order by ${keys.map((name) => `k.${name}`).join(', ')} for no key update of k)
        select * from locked
      ) as input
      where ${sameKey('t')} and t.${name}::text collate "C" = input.old collate "C"
        and ${ownerText('t.')} collate "C" is not distinct from input.owner collate "C"
      returning array[${key.map((_, index) => `input.k${index}`).join(', ')}] as key,
        case when t.${name}::text collate "C" = input.new collate "C" then 1 else 1 / (length(input.new) - length(input.new)) end as written`
  }

  return {
    catalog,
    first: `${select} ${ordered('asc', 1)}`,
    next: `${select} where (${places.join(', ')}) > (${cursor}) ${ordered('asc', key.length + 1)}`,
    last: `${select} ${ordered('desc', 1)}`,
    count: `select count(*) as count from ${table}`,
    replace,
    rowOf: (row: Record<string, unknown>): TableRow => ({
      key: keyOf((row.key as string[]).map((text, index) => shown(text, types[index]))),
      owner: row.owner as string | null,
      values: Object.fromEntries(names.map((name, index) => [name, row[`c${index}`]])),
    }),
  }
}

/** What is hidden would stay as it is, and the report would say that nothing is left. */
function hidden(table: string): Error {
  return invalidArgument(
    `row-level security is in force for this role on table ${table}, and may hide rows: connect as the table's owner, or as a role with BYPASSRLS`,
  )
}

/** A part of a key, as reports show it. */
function shown(text: string, type: string | undefined): string | number | bigint {
  return type !== undefined && WHOLE_NUMBERS.includes(type) ? exactNumber(BigInt(text)) : text
}

function textsOf(key: ValueKey): string[] {
  return partsOf(key).map(String)
}
