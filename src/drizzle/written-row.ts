/**
 * The row that is being written, for columns that need more of it than their own value.
 *
 * Drizzle gives a custom column its own value only, and not even that if it is null or an `sql` expression. Two methods of its dialects see
 * all of them, in 0.45 as in 1.0: `buildInsertQuery` gets the rows of `values()`, and `buildUpdateSet` gets what `set()` assigns, also in
 * `onConflictDoUpdate`. Everything that writes through a table goes through them: batches, transactions, prepared statements, `$with`.
 * {@link watchWrites} wraps the two, on the dialect's class, once a column needs it. Before Drizzle builds the statement, the table's rules
 * then see a copy of each row, and may change what is written and how it is encoded. A row is built before it is encoded: constants are
 * encoded when the statement is rendered, placeholders at each execution. So a rule must not need a scope; what it hands to `write` may.
 *
 * A host may have two copies of drizzle-orm, of which only one is watched. A column that needs its row must therefore refuse to encode
 * outside a rule (`refuseUnseenRow` of encrypted-column.ts), and must not store something else instead.
 */
import { aliasedTableColumn, type Column, is, Param, Placeholder, type SQL, sql } from 'drizzle-orm'
import { invalidArgument, quoted } from '../errors.js'

/** What a statement writes to one column. */
export type Cell =
  /** Null too. */
  | { readonly kind: 'value'; readonly value: unknown }
  /** Of a prepared statement: each execution has its own. */
  | { readonly kind: 'placeholder'; readonly value: Placeholder }
  /**
   * An `sql` expression, another column, or what `insert … select` selects: only the database knows it. `sources` has these, one for each of
   * the selects that are combined, and is empty where the rows are of an application's own SQL.
   */
  | { readonly kind: 'unseen'; readonly sources: readonly unknown[] }
  /** An insert leaves it to the database's default, and an update as it is. */
  | { readonly kind: 'absent' }

/** A cell that Drizzle encodes. */
export type EncodedCell = Extract<Cell, { readonly value: unknown }>

type Encode = (value: unknown) => unknown

/** Called for each row of an insert, and once for what an update assigns. */
export type RowRule = (row: WrittenRow) => void

/** A column, as far as Drizzle 0.45 and 1.0 agree on it. */
interface TableColumn {
  /** Such as `PgUUID`. */
  readonly columnType: string
  readonly notNull: boolean
  readonly default: unknown
  readonly defaultFn?: () => unknown
  readonly onUpdateFn?: () => unknown
  mapToDriverValue(value: unknown): unknown
}

type Columns = Readonly<Record<string, TableColumn>>
type Cells = Record<string, unknown>

const COLUMNS = Symbol.for('drizzle:Columns')
/** On the table. Not a registered symbol: another copy of this package wraps the dialect for itself. */
const RULES = Symbol('drizzle-keystore/row-rules')

/** A row on its way into the database. Columns go by the table's property names. */
export class WrittenRow {
  readonly statement: 'insert' | 'insert-select' | 'update'
  readonly #columns: Columns
  /** As Drizzle's dialect takes them. */
  readonly #cells: Cells
  /** The columns that are written, in their order in the statement. Undefined: all, in the table's order. */
  readonly #list: readonly string[] | undefined
  /** Of `insert … select`. */
  readonly #select: unknown
  /** What this row's cells are and how they are encoded, where a rule has changed it. */
  readonly #written = new Map<string, { readonly cell: EncodedCell; readonly encode: Encode }>()
  /** Of an update: what its rows must hold, by column. */
  readonly #required = new Map<string, SQL[]>()

  /** @internal */
  constructor(
    statement: WrittenRow['statement'],
    columns: Columns,
    cells: Cells,
    list?: readonly string[],
    select?: unknown,
  ) {
    this.statement = statement
    this.#columns = columns
    this.#cells = cells
    this.#list = list
    this.#select = select
  }

  /** What the statement writes to a column. The result of `$defaultFn` or `$onUpdateFn`, if Drizzle would call it. */
  read(property: string): Cell {
    const column = this.#column(property)
    const written = this.#written.get(property)
    if (written !== undefined) return written.cell
    if (this.#required.has(property)) return ABSENT
    if (this.statement === 'insert-select') {
      const sources = selectionsOf(this.#select).flatMap((fields) => fields[property] ?? [])
      return { kind: 'unseen', sources }
    }
    if (this.#list !== undefined && !this.#list.includes(property)) return { kind: 'absent' }
    const cell = cellOf(this.#cells[property])
    if (cell.kind !== 'absent') return cell
    const made = this.#default(column)
    // Kept, since it may be another one at the next call.
    if ('value' in made) this.write(property, made, (value) => column.mapToDriverValue(value))
    return made
  }

  /**
   * Writes a cell to a column: its own or that of another column.
   *
   * @param encode what Drizzle calls in place of the column's own encoder, at the moment at which it encodes. Not for a null
   */
  write(property: string, cell: EncodedCell, encode: Encode): void {
    const column = this.#column(property)
    if (this.#list !== undefined && !this.#list.includes(property))
      throw invalidArgument(
        `The insert's list of columns lacks ${quoted(property)}, which must be written too`,
      )
    this.#written.set(property, { cell, encode })
    const encoder = Object.create(column, { mapToDriverValue: { value: encode } })
    // An expression: 0.45 and 1.0 take other things for a value, and both render a parameter in it.
    this.#cells[property] = sql`${new Param(cell.value, encoder)}`
  }

  /** A default of an inserted column that is left out, if it is no expression: some dialects encode it themselves. Undefined if there is none. */
  constantDefault(property: string): unknown {
    const isListed = this.#list === undefined || this.#list.includes(property)
    const isLeftOut = this.#cells[property] === undefined
    if (this.statement !== 'insert' || !isListed || !isLeftOut) return undefined
    const given = cellOf(this.#column(property).default ?? undefined)
    return given.kind === 'value' ? given.value : undefined
  }

  /** Has `seen` called with each value of a column, just before it is encoded. Not with a null. */
  onEncode(property: string, seen: (value: unknown) => void): void {
    const cell = this.read(property)
    if (!('value' in cell)) return
    const column = this.#column(property)
    const encode = this.#written.get(property)?.encode ?? ((value) => column.mapToDriverValue(value))
    this.write(property, cell, (value) => {
      seen(value)
      return encode(value)
    })
  }

  /**
   * Of an update that leaves a column as it is: makes it fail, without changing anything, if it comes to a row whose value in the column is
   * another one. No statement can tell that before the database does. So the column is set to itself, or else to null, which the database
   * refuses: the column must be NOT NULL ({@link isNotNull}).
   *
   * @param moment a cell that is encoded when the value is known: a placeholder's value is at each execution
   * @param value the value that the column must have, as the database has it; null: any
   */
  requireStored(property: string, moment: EncodedCell, value: (given: unknown) => string | null): void {
    const column = this.#column(property)
    const param = (encode: (wanted: string) => unknown) => {
      const mapToDriverValue = (given: unknown) => {
        const wanted = value(given)
        return wanted === null ? null : encode(wanted)
      }
      return new Param(moment.value ?? true, { mapToDriverValue })
    }
    // Two parameters: Postgres gives each one type.
    const isWanted = param(() => 'wanted')
    const wanted = param((id) => storedForm(column, id))
    this.#require(property, (stored) => sql`(cast(${isWanted} as text) is null or ${stored} = ${wanted})`)
  }

  /** Of an upsert: as {@link requireStored}, if the stored row's value in the column is not that of the row that was to be inserted. */
  requireInserted(property: string): void {
    const inserted = aliasedTableColumn(this.#column(property) as unknown as Column, 'excluded')
    this.#require(property, (stored) => sql`${stored} = ${comparable(inserted)}`)
  }

  /**
   * Of an update that assigns a column: lets it assign only what is stored already, and else fail as with {@link requireStored}.
   *
   * @param seen called with the value that is to be assigned, just before it is encoded. Not with a null, which the database refuses
   */
  keepStored(property: string, cell: EncodedCell, seen: (given: unknown) => void): void {
    const column = this.#column(property)
    const mapToDriverValue = (given: unknown) => {
      seen(given)
      return storedForm(column, given)
    }
    this.#require(property, (stored) => sql`${stored} = ${new Param(cell.value, { mapToDriverValue })}`)
  }

  #require(property: string, condition: (stored: SQL) => SQL): void {
    const column = this.#column(property)
    const conditions = this.#required.get(property) ?? []
    conditions.push(condition(comparable(column)))
    this.#required.set(property, conditions)
    this.#cells[property] = sql`case when ${sql.join(conditions, sql` and `)} then ${column} end`
  }

  /** Whether placeholders of one column are encoded before those of another. */
  isBefore(property: string, other: string): boolean {
    const order = this.#list ?? Object.keys(this.#columns)
    return order.indexOf(property) < order.indexOf(other)
  }

  /** Whether the database refuses null in a column. 1.0 passes a placeholder's null by, so that no encoder sees it. */
  isNotNull(property: string): boolean {
    return this.#column(property).notNull
  }

  #column(property: string): TableColumn {
    if (Object.hasOwn(this.#columns, property)) return this.#columns[property] as TableColumn
    throw invalidArgument(`An encrypted column names ${quoted(property)}, which is no property of its table`)
  }

  #default(column: TableColumn): Cell {
    const { defaultFn, onUpdateFn } = column
    if (this.statement === 'update')
      return onUpdateFn === undefined ? ABSENT : cellOf(onUpdateFn.call(column))
    // Which of a default and a function wins depends on dialect and version.
    if (column.default !== undefined && column.default !== null) return ABSENT
    const make = defaultFn ?? onUpdateFn
    return make === undefined ? ABSENT : cellOf(make.call(column))
  }
}

/** Of `customType`: only the database knows how what it stores reads as text. */
function isCustom({ columnType }: { readonly columnType: string }): boolean {
  return columnType.endsWith('CustomColumn')
}

/** As text without the column's collation: in a uuid or with NOCASE, an id equals others. */
function comparable(column: { readonly columnType: string }): SQL {
  return isCustom(column) ? sql`${column}` : sql`(cast(${column} as text) || '')`
}

/** A value as it is compared with what is stored. */
function storedForm(column: TableColumn, value: unknown): unknown {
  const mapped = column.mapToDriverValue(value)
  return isCustom(column) ? mapped : String(mapped)
}

const ABSENT: Cell = { kind: 'absent' }

function cellOf(given: unknown): Cell {
  const value = is(given, Param) ? given.value : given
  if (value === undefined) return ABSENT
  if (is(value, Placeholder)) return { kind: 'placeholder', value }
  // `SQL`, columns, subqueries: what Drizzle calls a wrapper of SQL.
  if (typeof value === 'object' && value !== null && 'getSQL' in value)
    return { kind: 'unseen', sources: [value] }
  return { kind: 'value', value }
}

/**
 * Gives a table the rule of one of its columns: from the `build` of the column's builder, for instance. The dialect must be watched.
 *
 * @param property the column that has the rule. A second one takes the place of the first, because 1.0 may build a column twice
 */
export function setRowRule(table: object, property: string, rule: RowRule): void {
  const rules = new Map(rulesOf(table)).set(property, rule)
  Object.defineProperty(table, RULES, { value: rules, configurable: true })
}

type Rules = ReadonlyMap<string, RowRule>

function rulesOf(table: object): Rules | undefined {
  return (table as { readonly [RULES]?: Rules })[RULES]
}

interface InsertConfig {
  readonly table: object
  readonly values: unknown
  readonly select?: unknown
  /** 1.0 only. */
  readonly columnList?: readonly string[]
}

/** The two methods of `SQLiteDialect` and `PgDialect`. */
interface DialectMethods {
  buildInsertQuery(config: InsertConfig): unknown
  buildUpdateSet(table: object, set: Cells): unknown
}

const watched = new WeakSet<object>()

/**
 * Makes a dialect show the rows that it writes to the rules of their tables.
 *
 * @param dialect the prototype of `SQLiteDialect` or `PgDialect`
 */
export function watchWrites(dialect: object): void {
  if (watched.has(dialect)) return
  watched.add(dialect)
  const methods = dialect as DialectMethods
  const { buildInsertQuery, buildUpdateSet } = methods
  methods.buildInsertQuery = function (this: DialectMethods, config) {
    return buildInsertQuery.call(this, ruledInsert(config))
  }
  methods.buildUpdateSet = function (this: DialectMethods, table, set) {
    const rules = rulesOf(table)
    if (rules === undefined) return buildUpdateSet.call(this, table, set)
    const cells = { ...set }
    applyRules(rules, new WrittenRow('update', columnsOf(table), cells))
    return buildUpdateSet.call(this, table, cells)
  }
}

function ruledInsert(config: InsertConfig): InsertConfig {
  const { table, columnList } = config
  const rules = rulesOf(table)
  if (rules === undefined) return config
  const columns = columnsOf(table)
  if (config.select || !Array.isArray(config.values)) {
    applyRules(rules, new WrittenRow('insert-select', columns, {}, columnList, config.values))
    return config
  }
  const values = (config.values as readonly Cells[]).map((row) => {
    const cells = { ...row }
    applyRules(rules, new WrittenRow('insert', columns, cells, columnList))
    return cells
  })
  return { ...config, values }
}

/** A builder of a select, as far as Drizzle 0.45 and 1.0 agree on it. */
interface Select {
  readonly _?: { readonly selectedFields?: Readonly<Record<string, unknown>> }
  readonly config?: { readonly setOperators?: readonly { readonly rightSelect: unknown }[] }
}

/** What a select gives: its fields, and those of each select that is combined with it. None for SQL of an application's own. */
export function selectionsOf(select: unknown): Readonly<Record<string, unknown>>[] {
  const { _, config } = (typeof select === 'object' && select !== null ? select : {}) as Select
  if (_?.selectedFields === undefined) return []
  const combined = config?.setOperators ?? []
  return [_.selectedFields, ...combined.flatMap(({ rightSelect }) => selectionsOf(rightSelect))]
}

function applyRules(rules: Rules, row: WrittenRow): void {
  for (const rule of rules.values()) rule(row)
}

function columnsOf(table: object): Columns {
  return (table as { readonly [COLUMNS]: Columns })[COLUMNS]
}
