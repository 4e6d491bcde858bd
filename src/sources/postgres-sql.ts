/**
 * The SQL of the sweep on a Postgres table. Names the schema of all that is Postgres's own, operators and types too: see
 * adapters/postgres/catalog.ts.
 */
import { MAKE_DURABLE } from '../drivers/postgres-durability.js'
import {
  type Catalog,
  exactNumber,
  JSON_TYPES,
  keyFromParts,
  namedValues,
  ownerColumns,
  quoteIdentifier,
  selectedColumns,
  type TableRow,
  type TableShape,
} from './table.js'
import type { ValueKey } from './value-source.js'

/** A column in Postgres's catalogue. */
export type PostgresColumn = Catalog['columns'][number] & {
  /** Its type, with its schema, to cast to. */
  readonly castType: string
  /** The schema of the operators that its index is sorted by: that of an extension, if the type is an extension's. */
  readonly operatorSchema: string
}

/** Types that pg parses and Drizzle reads as text (see drizzle-orm/node-postgres/session.js). */
const DATES = /^(timestamp|date|interval)|^numeric.*\[\]$/
/** Types of key columns that are given as numbers. */
const WHOLE_NUMBERS = ['smallint', 'integer', 'bigint']
const OPERATORS_OF_POSTGRES = 'pg_catalog'
const EQUALS = 'operator(pg_catalog.=)'
/** Strategy numbers of B-tree indexes (postgresql.org/docs/current/xindex.html). */
const GREATER_STRATEGY = 5

export const TABLE_QUERY = `select pg_catalog.row_security_active(oid) as "hidesRows" from pg_catalog.pg_class
  where oid ${EQUALS} pg_catalog.to_regclass($1)`

/** `isText` excludes char(n), which pads tokens, and name, which cuts them. */
export const COLUMNS_QUERY = `select a.attname::pg_catalog.text as name, pg_catalog.format_type(a.atttypid, a.atttypmod) as type,
    not a.attnotnull as nullable,
    t.typcategory ${EQUALS} 'S' and base.oid operator(pg_catalog.<>) all
      (array['pg_catalog.bpchar'::pg_catalog.regtype, 'pg_catalog.name'::pg_catalog.regtype]::pg_catalog.oid[]) as "isText",
    pg_catalog.format('%I.%I', n.nspname, t.typname) as "castType",
    coalesce(pg_catalog.quote_ident(sorted.nspname), '${OPERATORS_OF_POSTGRES}') as "operatorSchema"
  from pg_catalog.pg_attribute a
  join pg_catalog.pg_type t on t.oid ${EQUALS} a.atttypid
  join pg_catalog.pg_namespace n on n.oid ${EQUALS} t.typnamespace
  cross join lateral (
    with recursive under(oid, base) as (
      select t.oid, t.typbasetype
      union all select b.oid, b.typbasetype from under join pg_catalog.pg_type b on b.oid ${EQUALS} under.base)
    select oid from under where base ${EQUALS} 0) base
  left join lateral (
    select sn.nspname from pg_catalog.pg_opclass c
      join pg_catalog.pg_am am on am.oid ${EQUALS} c.opcmethod and am.amname ${EQUALS} 'btree'
      join pg_catalog.pg_amop m on m.amopfamily ${EQUALS} c.opcfamily and m.amopstrategy ${EQUALS} ${GREATER_STRATEGY}
        and m.amoplefttype ${EQUALS} c.opcintype and m.amoprighttype ${EQUALS} c.opcintype
      join pg_catalog.pg_operator o on o.oid ${EQUALS} m.amopopr
      join pg_catalog.pg_namespace sn on sn.oid ${EQUALS} o.oprnamespace
      where c.opcdefault and c.opcintype ${EQUALS} base.oid) sorted on true
  where a.attrelid ${EQUALS} pg_catalog.to_regclass($1) and a.attnum operator(pg_catalog.>) 0 and not a.attisdropped`

/** As JSON, since drivers differ in which arrays they read. Unique indexes of all rows, and not on expressions. Columns after the first `indnkeyatts` are only included, and are not part of the key. */
export const UNIQUE_KEYS_QUERY = `select pg_catalog.array_to_json(array(
    select a.attname::pg_catalog.text from pg_catalog.pg_attribute a where a.attrelid ${EQUALS} i.indrelid
      and a.attnum ${EQUALS} any (
        (pg_catalog.string_to_array(i.indkey::pg_catalog.text, ' ')::pg_catalog.int2[])[1:i.indnkeyatts])))::pg_catalog.text as names
  from pg_catalog.pg_index i
  where i.indrelid ${EQUALS} pg_catalog.to_regclass($1) and i.indisunique and i.indisvalid and i.indpred is null
    and i.indexprs is null`

/** Triggers that run at an update (bit 4 of tgtype, pg_trigger.h), but for those of constraints. */
export const TRIGGERS_QUERY = `select tgname::pg_catalog.text as name from pg_catalog.pg_trigger
  where tgrelid ${EQUALS} pg_catalog.to_regclass($1) and not tgisinternal and tgenabled operator(pg_catalog.<>) 'D'
    and (tgtype operator(pg_catalog.&) 16) operator(pg_catalog.<>) 0`

/** Generated columns, and the columns that they are made of. The dependency is the column's up to Postgres 14, then its expression's. */
export const GENERATED_QUERY = `select distinct made.attname::pg_catalog.text as name, source.attname::pg_catalog.text as of
  from pg_catalog.pg_attribute made
  join pg_catalog.pg_attrdef def on def.adrelid ${EQUALS} made.attrelid and def.adnum ${EQUALS} made.attnum
  join pg_catalog.pg_depend d on d.refobjid ${EQUALS} made.attrelid and (
    d.classid ${EQUALS} 'pg_catalog.pg_attrdef'::pg_catalog.regclass and d.objid ${EQUALS} def.oid
    or d.classid ${EQUALS} 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid ${EQUALS} made.attrelid
      and d.objsubid ${EQUALS} made.attnum)
  join pg_catalog.pg_attribute source on source.attrelid ${EQUALS} d.refobjid and source.attnum ${EQUALS} d.refobjsubid
  where made.attrelid ${EQUALS} pg_catalog.to_regclass($1) and made.attgenerated operator(pg_catalog.<>) ''
    and source.attnum operator(pg_catalog.<>) made.attnum`

/** Replaces values and ends with an error, so that nothing stays: for a connection on which no transaction can be begun. */
export function triedOut(replace: string): string {
  return `with tried as (${replace}) select ('${TRIED_OUT}' operator(pg_catalog.||) pg_catalog.count(written)::pg_catalog.text)::pg_catalog.int4
    from tried`
}

/** No number. Postgres quotes it in its error, in any language. */
export const TRIED_OUT = 'a dry run of drizzle-keystore, rolled back on purpose: '

/** The table as SQL names it. */
export function qualifiedName({ schema, table }: TableShape): string {
  return schema === undefined
    ? quoteIdentifier(table)
    : `${quoteIdentifier(schema)}.${quoteIdentifier(table)}`
}

export type Statements = ReturnType<typeof statementsFor>

/**
 * The statements on a table. Keys travel as text, which is exact for every type, and are cast to the type of their column. The column
 * itself is not cast and keeps its collation, so that its index gives the pages in order.
 */
export function statementsFor(shape: TableShape, columns: readonly PostgresColumn[], catalog: Catalog) {
  const keys = keyColumns(shape, columns)
  const names = selectedColumns(shape, catalog)
  const aliases = names.map((_, index) => `c${index}`)
  const table = qualifiedName(shape)
  const keyTexts = keys.map(({ name }, index) => `${name}::pg_catalog.text as k${index}`).join(', ')
  const owner = ownerText(shape, catalog)
  const select = `select ${keyTexts}, ${owner} as owner,
    ${names.map((name, index) => `${readAs(name, shape, catalog)} as ${aliases[index]}`).join(', ')} from ${table} as t`
  // With "t.", because a bare name means the result's column "k0", "owner" or "c0" if the table has a column of that name.
  const ordered = (direction: string, limit: number) =>
    `order by ${keys.map(({ name }) => `t.${name} ${direction}`).join(', ')} limit $${limit}::int`
  const bounded = (selected: string, hasAfter: boolean, hasUpTo: boolean) => {
    const first = hasAfter ? keys.length : 0
    const count = first + (hasUpTo ? keys.length : 0)
    const bounds = [
      ...(hasAfter ? [isAfterCursor(keys)] : []),
      ...(hasUpTo ? [isUpToCursor(keys, first)] : []),
    ]
    const where = bounds.length === 0 ? '' : `where ${bounds.join(' and ')}`
    return `${selected} ${where} ${ordered('asc', count + 1)} offset $${count + 2}::bigint`
  }
  const keyOf = (row: Record<string, unknown>): ValueKey =>
    keyFromParts(keyTextsOf(row, keys.length).map((text, index) => keyPart(text, keys[index]?.type)))
  return {
    catalog,
    first: `${select} ${ordered('asc', 1)}`,
    next: `${select} where ${isAfterCursor(keys)} ${ordered('asc', keys.length + 1)}`,
    /** Rows after one key and up to another, each if it is given. The parameters end with a limit and an offset. */
    between: (hasAfter: boolean, hasUpTo: boolean) => bounded(select, hasAfter, hasUpTo),
    /** Keys alone, which an index may have: after one if it is given. The same last parameters. */
    keysAfter: (hasAfter: boolean) => bounded(`select ${keyTexts} from ${table} as t`, hasAfter, false),
    keyOf,
    last: `${select} ${ordered('desc', 1)}`,
    count: `select pg_catalog.count(*) as count from ${table}`,
    replace: (column: string, beside?: string) =>
      replaceStatement({ name: column, cast: castOf(column, catalog) }, beside, shape, keys, owner),
    holding: (column: string) => holdingStatement(column, shape, keys),
    decodeRow: (row: Record<string, unknown>): TableRow => ({
      key: keyOf(row),
      owner: row.owner as string | null,
      values: namedValues(names, (at) => row[aliases[at] as string]),
    }),
  }
}

/** A column of the key. */
interface KeyColumn {
  /** Quoted. */
  readonly name: string
  readonly type: string
  readonly castType: string
  readonly operatorSchema: string
}

function keyColumns({ key }: TableShape, columns: readonly PostgresColumn[]): KeyColumn[] {
  return key.flatMap((name) => {
    const column = columns.find((column) => column.name === name)
    return column === undefined ? [] : [{ ...column, name: quoteIdentifier(name) }]
  })
}

/** Whether a row is after the one whose key is given as `$1`, `$2` … An index gives what a comparison of rows asks for, in its order. */
function isAfterCursor(keys: readonly KeyColumn[]): string {
  const cursor = keys.map(({ castType }, index) => `$${index + 1}::${castType}`)
  const [schema, ...others] = new Set(keys.map(({ operatorSchema }) => operatorSchema))
  if (others.length === 0)
    return `(${keys.map(({ name }) => `t.${name}`).join(', ')}) operator(${schema}.>) (${cursor.join(', ')})`
  // One comparison of rows has operators of one schema only.
  const compare = (index: number, operator: string) => {
    const key = keys[index]
    return `t.${key?.name} operator(${key?.operatorSchema}.${operator}) ${cursor[index]}`
  }
  const isAfter = (index: number): string =>
    index === keys.length - 1
      ? compare(index, '>')
      : `(${compare(index, '>')} or ${compare(index, '=')} and ${isAfter(index + 1)})`
  return `${compare(0, '>=')} and ${isAfter(0)}`
}

/** Whether a row is not after the one whose key is given after so many parameters. */
function isUpToCursor(keys: readonly KeyColumn[], before: number): string {
  const cursor = keys.map(({ castType }, index) => `$${before + index + 1}::${castType}`)
  const [schema, ...others] = new Set(keys.map(({ operatorSchema }) => operatorSchema))
  if (others.length === 0)
    return `(${keys.map(({ name }) => `t.${name}`).join(', ')}) operator(${schema}.<=) (${cursor.join(', ')})`
  const compare = (index: number, operator: string) => {
    const key = keys[index]
    return `t.${key?.name} operator(${key?.operatorSchema}.${operator}) ${cursor[index]}`
  }
  const isUpTo = (index: number): string =>
    index === keys.length - 1
      ? compare(index, '<=')
      : `(${compare(index, '<')} or ${compare(index, '=')} and ${isUpTo(index + 1)})`
  return `${compare(0, '<=')} and ${isUpTo(0)}`
}

/** A column as it is selected. */
function readAs(name: string, { datesAsText = false, json = [] }: TableShape, { columns }: Catalog): string {
  // As text it has all digits of its numbers.
  if (json.includes(name)) return `${quoteIdentifier(name)}::pg_catalog.text`
  const type = columns.find((column) => column.name === name)?.type ?? ''
  if (!datesAsText || !DATES.test(type)) return quoteIdentifier(name)
  return `${quoteIdentifier(name)}::pg_catalog.text${type.endsWith('[]') ? '[]' : ''}`
}

/** The owner of a row of "t" as text. */
function ownerText(shape: TableShape, catalog: Catalog): string {
  if (shape.ownerOfRow) {
    const columns = ownerColumns(shape, catalog).map((name) => `t.${quoteIdentifier(name)}`)
    const text = `pg_catalog.convert_to(row(${columns.join(', ')})::pg_catalog.text, 'UTF8')`
    return `pg_catalog.encode(pg_catalog.sha256(${text}), 'hex')`
  }
  return shape.owner === null ? 'null::pg_catalog.text' : `t.${quoteIdentifier(shape.owner)}::pg_catalog.text`
}

/** The values that a statement is given, one array for each of `inputs`, as the rows `input`. */
function inputRows(inputs: readonly string[]): string {
  // "(select $1)" hides the arrays' lengths from the planner, which would else read the whole table for a thousand keys.
  const arrays = inputs.map((_, index) => `pg_catalog.unnest((select $${index + 1}::pg_catalog.text[]))`)
  return `rows from (${arrays.join(', ')}) as input(${inputs.join(', ')})`
}

function keyInputs(keys: readonly KeyColumn[]): string[] {
  return keys.map((_, index) => `k${index}`)
}

function hasKeyOfInput(alias: string, keys: readonly KeyColumn[]): string {
  return keys
    .map(
      ({ name, castType, operatorSchema }, index) =>
        `${alias}.${name} operator(${operatorSchema}.=) input.k${index}::${castType}`,
    )
    .join(' and ')
}

/** Whether the column of `t` has the text of `input`, byte by byte, or both are null. */
function hasTextOfInput(column: string, input: string): string {
  return isSameText(`t.${quoteIdentifier(column)}::pg_catalog.text`, `input.${input}`)
}

function isSameText(a: string, b: string): string {
  return `(${a} collate pg_catalog."C" ${EQUALS} ${b} collate pg_catalog."C" or ${a} is null and ${b} is null)`
}

/** What turns a text into a column's type. */
function castOf(column: string, { columns }: Catalog): string {
  const type = columns.find(({ name }) => name === column)?.type ?? ''
  return JSON_TYPES.test(type) ? `::pg_catalog.${type}` : ''
}

/**
 * The statement that replaces values of one column.
 *
 * - With `beside`, only where that column too has the text that it was read with.
 * - Locks the rows in the order of their keys before it changes any. Else two sweeps could deadlock. A "for no key update" lock does not
 *   conflict with inserts of rows that refer to them.
 * - "materialized" keeps it from locking all of the rows again for each row, when its statistics are of a nearly empty table. And each row is
 *   looked up by itself: without statistics, as of a table that was just filled or is partitioned, a planner expects many rows for each key of
 *   several columns, and would read all of the table instead.
 * - A row that does not hold the new value afterwards ends the statement by a division by zero, and nothing is changed.
 */
function replaceStatement(
  { name: column, cast }: { readonly name: string; readonly cast: string },
  beside: string | undefined,
  shape: TableShape,
  keys: readonly KeyColumn[],
  owner: string,
): string {
  const table = qualifiedName(shape)
  const inputs = [...keyInputs(keys), 'owner', 'old', 'new', ...(beside === undefined ? [] : ['beside'])]
  const isBeside = beside === undefined ? '' : ` and ${hasTextOfInput(beside, 'beside')}`
  const newLength = "pg_catalog.length(coalesce(input.new, ''))"
  const zero = `(${newLength} operator(pg_catalog.-) ${newLength})`
  return `update ${table} as t set ${quoteIdentifier(column)} = input.new${cast}
      from (
        with locked as materialized (
          select input.* from (
            select input.* from ${inputRows(inputs)}
            order by ${keys.map(({ castType }, index) => `input.k${index}::${castType}`).join(', ')}) as input
          cross join lateral (
            select 1 from ${table} as k where ${hasKeyOfInput('k', keys)} limit 1 for no key update) as k)
        select * from locked
      ) as input
      where ${hasKeyOfInput('t', keys)} and ${hasTextOfInput(column, 'old')}
        and ${isSameText(owner, 'input.owner')}${isBeside}
        and (select ${MAKE_DURABLE}) is not null
      returning ${keyOfInput(keys)}, case when ${hasTextOfInput(column, 'new')} then 1
        else 1 operator(pg_catalog./) ${zero} end as written`
}

/** The statement that finds rows which hold a value that is to be written. */
function holdingStatement(column: string, shape: TableShape, keys: readonly KeyColumn[]): string {
  return `select ${keyOfInput(keys)} from ${inputRows([...keyInputs(keys), 'new'])}
    join ${qualifiedName(shape)} as t on ${hasKeyOfInput('t', keys)} and ${hasTextOfInput(column, 'new')}`
}

function keyOfInput(keys: readonly KeyColumn[]): string {
  return keyInputs(keys)
    .map((name) => `input.${name}`)
    .join(', ')
}

/** The columns `k0`, `k1` … of a result. */
export function keyTextsOf(row: Readonly<Record<string, unknown>>, length: number): string[] {
  return Array.from({ length }, (_, index) => String(row[`k${index}`]))
}

/** A part of a key, from the text in which it is read. */
function keyPart(text: string, type: string | undefined): string | number | bigint {
  return type !== undefined && WHOLE_NUMBERS.includes(type) ? exactNumber(BigInt(text)) : text
}
