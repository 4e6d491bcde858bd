/**
 * Keeps encrypted columns out of the places where they cannot be right: comparisons, defaults, unique keys. Drizzle encodes the value of
 * `eq(table.secret, 'x')` exactly as that of `insert`, so an encrypted column would be compared with a fresh token and match nothing,
 * silently.
 */
import { invalidArgument } from '../errors.js'
import { type ColumnCodec, markColumn, refuseComparison } from './encrypted-column.js'

/** What Drizzle's `sqliteTable` and `pgTable` call of a column builder; not in its declarations. */
interface BuilderHooks {
  setName(key: string): void
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

/** On the table of a column that was reached through an alias or a relational query, where nothing is ever written. */
const IS_ALIAS = Symbol.for('drizzle:IsAlias')

/** Marks the columns that a builder builds, and guards them if their values cannot be compared. @returns the builder itself */
export function guarded<Builder extends object, Value>(builder: Builder, codec: ColumnCodec<Value>): Builder {
  const hooks = builder as Builder & BuilderHooks
  const { setName, build } = hooks
  const isComparable = codec.mark.kind === 'token'
  let key = ''
  hooks.setName = function (this: BuilderHooks, name) {
    key = name
    setName.call(this, name)
  }
  hooks.build = function (this: BuilderHooks, table) {
    const column = build.call(this, table)
    markColumn(column, codec.mark)
    if (!isComparable) guardComparisons(table, key, column)
    return column
  }
  if (hooks.array !== undefined) hooks.array = refuseArray
  if (!isComparable) {
    hooks.default = refuseDefault
    hooks.unique = refuseUnique
    hooks.primaryKey = refuseUnique
  }
  return builder
}

/**
 * Writes take the column from the table's list of columns; conditions name it as a property of the table. So the property gets a twin
 * of the column that reads like it and encodes nothing. Relational queries hand out aliases of the listed columns: those tell by their table.
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
    'An encrypted column has no default: it would stand in the schema as plaintext, or as one token for all users. ' +
      'Use $defaultFn(() => …), which runs inside the scope of each insert',
  )
}

function refuseArray(): never {
  throw invalidArgument(
    'An encrypted column is no array: the sweep and the registry reach single values only. Use encryptedJson, or a row for each value',
  )
}

function refuseUnique(): never {
  throw invalidArgument(
    'An encrypted column cannot be unique: equal values have different tokens. Store envelope.fingerprint(…) in a column of its own and make that unique',
  )
}
