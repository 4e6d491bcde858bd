/** A table of the host application on node-postgres, as the sweep uses it. Imports no driver: the pool or client is given. */

import { describeDriverError, storeError } from '../drivers/driver-error.js'
import { DEFAULT_DEADLINE_MS, retryingPostgres } from '../drivers/retry.js'
import { invalidArgument, printable } from '../errors.js'
import {
  ALTERED_BY_TRIGGER,
  assertShape,
  type Catalog,
  exactNumber,
  groupByColumn,
  keyFromParts,
  keyParts,
  nullKeyError,
  quoteIdentifier,
  type SqlTable,
  selectedColumns,
  type TableRow,
  type TableShape,
  tableNotFound,
} from './table.js'
import type { ValueChange, ValueKey, ValueRef } from './value-source.js'

/** A `Pool` or `Client` of pg. Typed structurally: the host application may have another copy of pg's types. */
export interface PostgresClient {
  query(text: string, values?: unknown[]): Promise<{ readonly rows: Record<string, unknown>[] }>
}

/** What a SQLSTATE means for a change. */
const HINTS: Readonly<Record<string, string>> = {
  // string_data_right_truncation: the column is a varchar(n)
  22001: 'tokens are longer than its column allows',
  // division_by_zero: how the statement of `replaceStatement` undoes itself
  22012: ALTERED_BY_TRIGGER,
}
/** Types that pg parses and Drizzle reads as text (see drizzle-orm/node-postgres/session.js). */
const DATES = /^(timestamp|date|interval)|^numeric.*\[\]$/
/** Types of key columns that are given as numbers. */
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
    const { first, next, decodeRow } = await this.#prepared()
    const read = async (after: ValueKey | null): Promise<readonly TableRow[]> => {
      const rows =
        after === null
          ? await this.#query('read', first, [limit])
          : await this.#query('read', next, [...keyTexts(after), limit])
      return rows.map(decodeRow)
    }
    let page = await read(null)
    for (let last = page.at(-1); last !== undefined; last = page.at(-1)) {
      const ahead = read(last.key)
      // Else its failure would be an unhandled rejection if the caller leaves the loop.
      ahead.catch(() => undefined)
      yield page
      page = await ahead
    }
  }

  async lastRows(limit: number): Promise<readonly TableRow[]> {
    const { last, decodeRow } = await this.#prepared()
    return (await this.#query('read', last, [limit])).map(decodeRow)
  }

  /** One statement for each column, so that no locks are held from one to the next. */
  async replace(changes: readonly ValueChange[]): Promise<readonly ValueRef[]> {
    const { replace } = await this.#prepared()
    const replaced: ValueRef[] = []
    for (const [column, some] of groupByColumn(changes)) {
      const byKey = new Map(some.map((change) => [JSON.stringify(keyTexts(change.key)), change]))
      const keys = some.map(({ key }) => keyTexts(key))
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
    const table = qualifiedName(shape)
    const [found] = await this.#query('look at', TABLE_QUERY, [table])
    if (found === undefined) throw tableNotFound(table)
    if (found.hidesRows === true) throw rowsHiddenError(table)
    const columns = await this.#query('look at', COLUMNS_QUERY, [table])
    const uniqueKeys = await this.#query('look at', UNIQUE_KEYS_QUERY, [table])
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
      const nulls = `select 1 from ${table} where ${quoteIdentifier(name)} is null limit 1`
      if ((await this.#query('look at', nulls, [])).length > 0) throw nullKeyError(shape)
    }
    return statementsFor(shape, catalog)
  }

  #query(action: string, text: string, values: unknown[]): Promise<Record<string, unknown>[]> {
    const attempt = async () => (await this.#client.query(text, values)).rows
    return retryingPostgres(this.#deadlineMs, attempt).catch((error) => {
      const hint = HINTS[describeDriverError(error).code ?? '']
      const what = `${action} table ${qualifiedName(this.shape)}`
      throw storeError(hint === undefined ? what : `${what}: ${hint}`, error, 'The sweep')
    })
  }
}

type Statements = ReturnType<typeof statementsFor>

const TABLE_QUERY = `select row_security_active(oid) as "hidesRows" from pg_class where oid = to_regclass($1)`

/** `isText` excludes char(n), which pads tokens, and name, which cuts them. */
const COLUMNS_QUERY = `select a.attname::text as name, format_type(a.atttypid, a.atttypmod) as type, not a.attnotnull as nullable,
    t.typcategory = 'S' and coalesce(nullif(t.typbasetype, 0), t.oid) not in ('bpchar'::regtype, 'name'::regtype) as "isText"
  from pg_attribute a join pg_type t on t.oid = a.atttypid
  where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped`

/** Unique indexes of all rows, and not on expressions. Columns after the first `indnkeyatts` are only included, and are not part of the key. */
const UNIQUE_KEYS_QUERY = `select array(
    select a.attname::text from pg_attribute a where a.attrelid = i.indrelid
      and a.attnum = any ((string_to_array(i.indkey::text, ' ')::int2[])[1:i.indnkeyatts])) as names
  from pg_index i
  where i.indrelid = to_regclass($1) and i.indisunique and i.indisvalid and i.indpred is null
    and i.indexprs is null`

function qualifiedName({ schema, table }: TableShape): string {
  return schema === undefined
    ? quoteIdentifier(table)
    : `${quoteIdentifier(schema)}.${quoteIdentifier(table)}`
}

/**
 * The statements on a table. Keys travel as text, which is exact for every type, and are cast to the type of their column. The column
 * itself is not cast and keeps its collation, so that its index gives the pages in order.
 */
function statementsFor(shape: TableShape, catalog: Catalog) {
  const keys = keyColumns(shape, catalog)
  const names = selectedColumns(shape, catalog)
  const table = qualifiedName(shape)
  const select = `select array[${keys.map(({ name }) => `${name}::text`).join(', ')}] as key, ${ownerText(shape, '')} as owner,
    ${names.map((name, index) => `${readAs(name, shape, catalog)} as c${index}`).join(', ')} from ${table} as t`
  // With "t.", because a bare name means the result's column "key", "owner" or "c0" if the table has a column of that name.
  const inTable = keys.map(({ name }) => `t.${name}`)
  const cursor = keys.map(({ type }, index) => `$${index + 1}::${type}`).join(', ')
  const ordered = (direction: string, limit: number) =>
    `order by ${inTable.map((column) => `${column} ${direction}`).join(', ')} limit $${limit}::int`
  return {
    catalog,
    first: `${select} ${ordered('asc', 1)}`,
    next: `${select} where (${inTable.join(', ')}) > (${cursor}) ${ordered('asc', keys.length + 1)}`,
    last: `${select} ${ordered('desc', 1)}`,
    count: `select count(*) as count from ${table}`,
    replace: (column: string) => replaceStatement(column, shape, keys),
    decodeRow: (row: Record<string, unknown>): TableRow => ({
      key: keyFromParts((row.key as string[]).map((text, index) => keyPart(text, keys[index]?.type))),
      owner: row.owner as string | null,
      values: Object.fromEntries(names.map((name, index) => [name, row[`c${index}`]])),
    }),
  }
}

/** A column of the key: its quoted name, and its type as SQL names it. */
interface KeyColumn {
  readonly name: string
  readonly type: string
}

function keyColumns({ key }: TableShape, { columns }: Catalog): KeyColumn[] {
  return key.map((name) => ({
    name: quoteIdentifier(name),
    type: columns.find((column) => column.name === name)?.type ?? 'text',
  }))
}

/** A column as it is selected. */
function readAs(name: string, { datesAsText = false }: TableShape, { columns }: Catalog): string {
  const isDate = columns.some((column) => column.name === name && DATES.test(column.type))
  return datesAsText && isDate ? `${quoteIdentifier(name)}::text` : quoteIdentifier(name)
}

/** @param prefix of the table, with its dot */
function ownerText({ owner }: TableShape, prefix: string): string {
  return owner === null ? 'null::text' : `${prefix}${quoteIdentifier(owner)}::text`
}

/**
 * The statement that replaces values of one column.
 *
 * - Locks the rows in the order of their keys before it changes any. Else two sweeps could deadlock. A "for no key update" lock does not
 *   conflict with inserts of rows that refer to them.
 * - "(select $1)" hides the arrays' lengths from the planner, which would else read the whole table for a thousand keys.
 * - "materialized" keeps it from locking all of the rows again for each row, when its statistics are of a nearly empty table.
 * - A row that does not hold the new value afterwards ends the statement by a division by zero, and nothing is changed.
 */
function replaceStatement(column: string, shape: TableShape, keys: readonly KeyColumn[]): string {
  const table = qualifiedName(shape)
  const keyInputs = keys.map((_, index) => `k${index}`)
  const inputs = [...keyInputs, 'owner', 'old', 'new']
  const arrays = inputs.map((_, index) => `(select $${index + 1}::text[])`).join(', ')
  const sameKey = (alias: string) =>
    keys.map(({ name, type }, index) => `${alias}.${name} = input.k${index}::${type}`).join(' and ')
  const name = quoteIdentifier(column)
  return `update ${table} as t set ${name} = input.new
      from (
        with locked as materialized (
          select input.* from unnest(${arrays}) as input(${inputs.join(', ')})
          join ${table} as k on ${sameKey('k')}
          order by ${keys.map((key) => `k.${key.name}`).join(', ')} for no key update of k)
        select * from locked
      ) as input
      where ${sameKey('t')} and t.${name}::text collate "C" = input.old collate "C"
        and ${ownerText(shape, 't.')} collate "C" is not distinct from input.owner collate "C"
      returning array[${keyInputs.map((input) => `input.${input}`).join(', ')}] as key,
        case when t.${name}::text collate "C" = input.new collate "C" then 1 else 1 / (length(input.new) - length(input.new)) end as written`
}

/** The sweep would leave hidden rows as they are, and report that nothing is left. */
function rowsHiddenError(table: string): Error {
  return invalidArgument(
    `row-level security is in force for this role on table ${printable(table)}, and may hide rows: connect as the table's owner, or as a role with BYPASSRLS`,
  )
}

/** A part of a key, from the text in which it is read. */
function keyPart(text: string, type: string | undefined): string | number | bigint {
  return type !== undefined && WHOLE_NUMBERS.includes(type) ? exactNumber(BigInt(text)) : text
}

function keyTexts(key: ValueKey): string[] {
  return keyParts(key).map(String)
}
