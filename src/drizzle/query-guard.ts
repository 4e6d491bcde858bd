/**
 * Refuses queries that sort by an encrypted column, group by it, take distinct values of it or aggregate it: they would run, and give the
 * order and the groups of random tokens. No column can see that. Drizzle's dialects do: {@link guardQueries} wraps their methods that build
 * statements, which get the clauses before these are SQL.
 */
import { Column, getTableColumns, is, SQL, StringChunk, Table } from 'drizzle-orm'
import { invalidArgument } from '../errors.js'
import { markOf } from './encrypted-column.js'

/** What is read of the configurations of selects, updates and deletes, in 0.45 and 1.0. */
interface QueryConfig {
  /** By the names of the result: columns, expressions, tables, or objects of these. */
  readonly fields?: Readonly<Record<string, unknown>>
  /** In place of `fields`. */
  readonly fieldsFlat?: readonly { readonly field: unknown }[]
  readonly distinct?: boolean | { readonly on: readonly unknown[] }
  readonly groupBy?: readonly unknown[]
  readonly having?: unknown
  readonly orderBy?: readonly unknown[]
  readonly setOperators?: readonly {
    readonly type: string
    readonly isAll: boolean
    readonly orderBy?: readonly unknown[]
  }[]
}

interface DialectMethods {
  buildSelectQuery(config: QueryConfig): unknown
  buildUpdateQuery(config: QueryConfig): unknown
  buildDeleteQuery(config: QueryConfig): unknown
  /** 1.0 only: the relational queries of 0.45 go through `buildSelectQuery`. */
  buildRelationalQuery?(config: unknown): { readonly sql: unknown }
}

const guarded = new WeakSet<object>()

/** @param dialect the prototype of `SQLiteDialect` or `PgDialect` */
export function guardQueries(dialect: object): void {
  if (guarded.has(dialect)) return
  guarded.add(dialect)
  const methods = dialect as DialectMethods
  for (const name of ['buildSelectQuery', 'buildUpdateQuery', 'buildDeleteQuery'] as const) {
    const build = methods[name]
    methods[name] = function (this: DialectMethods, config) {
      assertAnswerable(config)
      return build.call(this, config)
    }
  }
  const { buildRelationalQuery } = methods
  if (buildRelationalQuery === undefined) return
  methods.buildRelationalQuery = function (this: DialectMethods, config) {
    const query = buildRelationalQuery.call(this, config)
    const { text } = outline(query.sql)
    if (SORTED.test(text)) refuseSorting()
    return query
  }
}

/** Stands for an encrypted column in the outline of an expression. */
const SECRET = '\0'
/** Stands for a JSON column with encrypted fields: what an operator takes out of it can be sorted by. */
const JSON_WITH_SECRETS = '\x01'
const FIELD_OF_JSON = new RegExp(`${JSON_WITH_SECRETS}(?=\\s*[-#@?])`, 'g')
/** The whole of an expression is an encrypted column. `order by note is null` sorts by something else. */
const ALONE = new RegExp(`^[\\s(]*${SECRET}[\\s)]*(asc|desc)?(\\s+nulls\\s+(first|last))?\\s*$`, 'i')
const SORTED = new RegExp(
  `\\border by\\s+${SECRET}\\s*(?=$|,|limit|offset|\\))|${SECRET}\\s+(asc|desc)\\b`,
  'i',
)
const AGGREGATED = new RegExp(`\\b(max|min|sum|avg)\\(\\s*(distinct\\s+)?${SECRET}`, 'i')
const COUNTED = new RegExp(`\\bdistinct\\s+${SECRET}`, 'i')

/** @throws ERR_INVALID_ARGUMENT */
function assertAnswerable(config: QueryConfig): void {
  const { distinct, groupBy = [], having, orderBy = [], setOperators = [] } = config
  const orders = [...orderBy, ...setOperators.flatMap(({ orderBy = [] }) => orderBy)]
  if (orders.some((order) => ALONE.test(outline(order).text))) refuseSorting()
  assertRowsApart(groupBy)
  const fields = [...(config.fieldsFlat?.map(({ field }) => field) ?? leavesOf(config.fields ?? {}))]
  if (distinct === true || setOperators.some(({ isAll }) => !isAll)) assertRowsApart(fields)
  else if (typeof distinct === 'object') assertRowsApart(distinct.on)
  for (const expression of [...fields, having, ...orders, ...groupBy]) {
    if (is(expression, Column)) continue
    const { text } = outline(expression)
    if (AGGREGATED.test(text)) refuseAggregate()
    if (COUNTED.test(text)) refuseGrouping()
  }
}

/**
 * Rows are told apart by an encrypted column, unless a key of its table is among the columns too: then it is the key that does, and
 * `distinct` removes the copies that a join has made of one row.
 */
function assertRowsApart(expressions: readonly unknown[]): void {
  const keyed = new Set<unknown>()
  for (const column of expressions) {
    if (is(column, Column) && (column.primary || (column.isUnique && column.notNull)))
      keyed.add(nameOf(column))
  }
  for (const expression of expressions) {
    const { text, secrets } = outline(expression)
    if (ALONE.test(text) && secrets.some((secret) => !keyed.has(nameOf(secret)))) refuseGrouping()
  }
}

/** The table's name, or its alias in the query. */
function nameOf({ table }: Column): unknown {
  return Reflect.get(table, Symbol.for('drizzle:Name'))
}

interface Outline {
  /** SQL in which encrypted columns are {@link SECRET} and all else that is no text `?`. */
  readonly text: string
  readonly secrets: readonly Column[]
}

function outline(expression: unknown): Outline {
  const secrets: Column[] = []
  const textOf = (chunk: unknown): string => {
    // An array in 0.45, a string in 1.0.
    if (is(chunk, StringChunk)) return [chunk.value].flat().join('')
    if (is(chunk, SQL)) return chunk.queryChunks.map(textOf).join('')
    if (is(chunk, SQL.Aliased)) return textOf(chunk.sql)
    if (Array.isArray(chunk)) return `(${chunk.map(textOf).join(', ')})`
    if (!is(chunk, Column) || !isSecret(chunk)) return '?'
    secrets.push(chunk)
    return markOf(chunk)?.kind === 'fields' ? JSON_WITH_SECRETS : SECRET
  }
  const text = textOf(expression).replaceAll(FIELD_OF_JSON, '?').replaceAll(JSON_WITH_SECRETS, SECRET)
  return { text, secrets }
}

/** Columns of tokens are the application's own to compare. */
function isSecret(column: Column): boolean {
  const mark = markOf(column)
  return mark !== null && mark.kind !== 'token'
}

/** As Drizzle orders the fields of a selection. */
function* leavesOf(fields: Readonly<Record<string, unknown>>): Generator {
  for (const field of Object.values(fields)) {
    if (is(field, Table)) yield* leavesOf(getTableColumns(field))
    else if (isPlain(field)) yield* leavesOf(field)
    else yield field
  }
}

function isPlain(field: unknown): field is Readonly<Record<string, unknown>> {
  return typeof field === 'object' && field !== null && Object.getPrototypeOf(field) === Object.prototype
}

function refuseSorting(): never {
  throw invalidArgument(
    'An encrypted column cannot be sorted by: its tokens are in random order. Sort the rows when you have read them, or by another column',
  )
}

function refuseGrouping(): never {
  throw invalidArgument(
    'An encrypted column cannot tell distinct values or groups: equal values have different tokens. ' +
      'Add a column of fingerprintText and use that, or select the primary key of its table too',
  )
}

function refuseAggregate(): never {
  throw invalidArgument(
    'An encrypted column cannot be aggregated: max, min, sum and avg would be those of random tokens. Compute them of the rows that you have read',
  )
}
