/**
 * Refuses uses of encrypted columns that cannot work: comparisons, defaults, unique keys. Drizzle encodes the value of
 * `eq(table.secret, 'x')` exactly as it encodes the value of an insert. So the column would be compared with a new token, and the
 * query would silently match nothing.
 */
import { invalidArgument } from '../errors.js'
import { type AnyCodec, markColumn, refuseComparison, refuseUnseenRow } from './encrypted-column.js'
import { assertHoldsTokens } from './expression-guard.js'
import type { RowGuard } from './owner-column.js'
import { setRowRule } from './written-row.js'

/** The methods of a column builder that `sqliteTable` and `pgTable` call. Drizzle does not declare them. */
interface BuilderHooks {
  readonly config: { dataType: string }
  /** 1.0 gives the table's casing too. */
  setName(key: string, ...casing: unknown[]): void
  build(table: object): BuiltColumn
  default(value: unknown): unknown
  unique(...options: unknown[]): unknown
  primaryKey(...options: unknown[]): unknown
  /** Postgres only. */
  array?(...options: unknown[]): unknown
}

interface BuiltColumn {
  readonly table: object
  mapToDriverValue(value: unknown): unknown
}

/** Drizzle sets it on the table of an aliased column. Relational queries use aliases too. Nothing is written through an alias. */
const IS_ALIAS = Symbol.for('drizzle:IsAlias')

/**
 * Makes a builder mark the columns that it builds, and guard them if their values cannot be compared.
 *
 * @param own a builder of Drizzle's own for such values. drizzle-zod and its like ask a column's `dataType`, and accept anything for a
 *   custom one. Drizzle itself does not ask. 0.45 and 1.0 have different words for JSON, so that they are not written here. Null: Drizzle has none.
 * @param guardRow of a column that needs the other values of its row: it encodes in the column's place
 * @returns the builder itself
 */
export function guardedBuilder<Builder extends object, Value>(
  builder: Builder,
  codec: AnyCodec<Value>,
  own: object | null,
  guardRow?: RowGuard,
): Builder {
  const hooks = builder as Builder & BuilderHooks
  if (own !== null) hooks.config.dataType = (own as BuilderHooks).config.dataType
  const { setName, build } = hooks
  const isComparable = codec.mark.kind === 'token'
  let key = ''
  hooks.setName = function (this: BuilderHooks, name, ...casing) {
    key = name
    setName.call(this, name, ...casing)
  }
  hooks.build = function (this: BuilderHooks, table) {
    const column = build.call(this, table)
    markColumn(column, codec.mark)
    if (isComparable) return column
    const property = key
    const guard = guardRow?.(property, column.mapToDriverValue.bind(column))
    if (guard !== undefined) column.mapToDriverValue = refuseUnseenRow
    setRowRule(table, property, (row) => {
      assertHoldsTokens(row, property, codec.mark)
      guard?.(row)
    })
    guardComparisons(table, property, column)
    return column
  }
  if (hooks.array !== undefined) hooks.array = refuseArray
  if (!isComparable) {
    const setDefault = hooks.default
    hooks.default = function (this: BuilderHooks, value) {
      return codec.canBeDefault?.(value) === true ? setDefault.call(this, value) : refuseDefault()
    }
    hooks.unique = refuseUnique
    hooks.primaryKey = refuseUnique
  }
  return builder
}

/**
 * Makes comparisons with a column throw, while inserts and updates go on to encode its values.
 *
 * Drizzle takes the columns of a write from the table's list of columns. A condition names a column as a property of the table. So the
 * property gets a twin of the column: it reads like the column and refuses to encode. Relational queries hand out aliases of the listed
 * columns instead, which are recognised by their table.
 */
function guardComparisons(table: object, key: string, column: BuiltColumn): void {
  const encode = column.mapToDriverValue
  column.mapToDriverValue = function (this: BuiltColumn, value) {
    return IS_ALIAS in this.table && this.table[IS_ALIAS] === true
      ? refuseComparison()
      : encode.call(this, value)
  }
  Object.defineProperty(table, key, {
    configurable: true,
    enumerable: true,
    set(assigned: object) {
      const twin = Object.create(assigned, { mapToDriverValue: { value: refuseComparison } })
      Object.defineProperty(table, key, { value: twin, configurable: true, enumerable: true, writable: true })
    },
  })
}

function refuseDefault(): never {
  throw invalidArgument(
    'An encrypted column has no default: the schema would hold it as plaintext, or as one token for all users. ' +
      'Use $defaultFn(() => …), which runs inside the scope of each insert',
  )
}

function refuseArray(): never {
  throw invalidArgument(
    'An encrypted column cannot be an array: the sweep and the registry reach single values only. Use encryptedJson, or a row for each value',
  )
}

function refuseUnique(): never {
  throw invalidArgument(
    'An encrypted column cannot be unique: equal values have different tokens. Add a column of fingerprintText, and make that unique',
  )
}
