/** Rows of any number of users, encrypted and decrypted with one look-up of keys. */

import { invalidArgument, isKeystoreError, type KeystoreError } from '../errors.js'
import { type ContextOf, contextMaker, type EncryptionContext } from '../format/context.js'
import type { Token } from '../format/token.js'
import { kindOf, ownOptions } from '../validate.js'
import type { ItemResult } from './bulk.js'
import type { EnvelopeCrypto } from './envelope-crypto.js'

/** The options of {@link encryptRows} and {@link decryptRows}. */
export interface RowsOptions<Row, Column extends keyof Row & string> {
  /**
   * The user of a row: the property with the user id, or a function of the row. The values of a row whose owner is null are reported, unless
   * `pool` says that they belong to the shared pool.
   */
  readonly owner: (keyof Row & string) | ((row: Row) => string | null)
  /** Whether values of rows whose owner is null belong to the shared pool. Default false. */
  readonly pool?: boolean
  /** The properties that hold values, and the context of each; null for none. */
  readonly columns: { readonly [C in Column]: ContextOf<Row> }
}

/** A value that stayed as it was, and why. */
export interface RowError<Column extends string = string> {
  /** The index of its row. */
  readonly row: number
  /** The property of the row. */
  readonly column: Column
  /** Why: its `code` is that of `decrypt` or `encrypt`. */
  readonly error: KeystoreError
}

/** A row whose named columns hold `Value`. A column that failed is absent. */
export type RowWith<Row, Column extends keyof Row, Value> = Omit<Row, Column> & {
  [C in Column]?: Value | Extract<Row[C], null | undefined>
}

/** What {@link encryptRows} and {@link decryptRows} return. */
export interface RowsResult<Row, Column extends keyof Row & string, Value> {
  /** New objects, in the order of the input. A value that failed is left out, so that writing the row back does not change its column. */
  readonly rows: RowWith<Row, Column, Value>[]
  /** The values that failed, in the order of the rows. Empty if all went well. */
  readonly errors: RowError<Column>[]
}

/**
 * Encrypts columns of rows of any number of users. One query looks up their keys, and one insert mints those that are missing. Null and
 * undefined stay as they are. A value that fails is reported, and no other value fails with it.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_CLOSED
 * @example
 * const { rows, errors } = await encryptRows(envelope, imported, {
 *   owner: 'userId',
 *   columns: { apiKey: (row) => ({ column: 'credentials.api_key', row: row.id }) },
 * })
 */
export function encryptRows<Row extends object, Column extends keyof Row & string>(
  envelope: EnvelopeCrypto,
  rows: readonly Row[],
  options: RowsOptions<Row, Column>,
): Promise<RowsResult<Row, Column, Token>> {
  return replaceCells(rows, options, {
    ofUsers: (cells) =>
      envelope.encryptMany(cells.map(({ value, ...cell }) => ({ ...cell, plaintext: value }))),
    ofPool: (cells) =>
      envelope.pool.encryptMany(cells.map(({ value, context }) => ({ plaintext: value, context }))),
  })
}

/** Decrypts what {@link encryptRows}, a column or `encrypt` made under the same contexts. */
export function decryptRows<Row extends object, Column extends keyof Row & string>(
  envelope: EnvelopeCrypto,
  rows: readonly Row[],
  options: RowsOptions<Row, Column>,
): Promise<RowsResult<Row, Column, string>> {
  return replaceCells(rows, options, {
    ofUsers: (cells) => envelope.decryptMany(cells.map(({ value, ...cell }) => ({ ...cell, token: value }))),
    ofPool: (cells) =>
      envelope.pool.decryptMany(cells.map(({ value, context }) => ({ token: value, context }))),
  })
}

interface Work<Value> {
  ofUsers(cells: readonly UserCell[]): Promise<ItemResult<Value>[]>
  ofPool(cells: readonly Cell[]): Promise<ItemResult<Value>[]>
}

type UserCell = Cell & { readonly userId: string }

interface Cell {
  /** Checked by encryptMany or decryptMany, as the user id is. */
  readonly value: string
  readonly context: EncryptionContext
}

async function replaceCells<Row extends object, Column extends keyof Row & string, Value extends string>(
  rows: readonly Row[],
  options: RowsOptions<Row, Column>,
  work: Work<Value>,
): Promise<RowsResult<Row, Column, Value>> {
  const { owner, pool, columns } = checkedArguments(rows, options)
  const replaced = rows.map((row) => ({ ...row }) as RowWith<Row, Column, Value>)
  const errors: RowError<Column>[] = []
  const cells: (Cell & { readonly userId: string | null })[] = []
  const places: { readonly row: number; readonly column: Column }[] = []
  const fail = (row: number, column: Column, error: KeystoreError) => {
    errors.push({ row, column, error })
    delete replaced[row]?.[column]
  }
  for (const [index, row] of rows.entries()) {
    for (const [column, contextOf] of columns) {
      const value: unknown = row[column]
      if (value === null || value === undefined) continue
      try {
        cells.push({
          userId: ownerOf(row, owner, pool),
          value: value as string,
          context: contextOf(row),
        })
        places.push({ row: index, column })
      } catch (error) {
        fail(index, column, error as KeystoreError)
      }
    }
  }
  const results = await replaceAll(cells, work)
  for (const [at, { row, column }] of places.entries()) {
    const result = results[at] as ItemResult<Value>
    if (result.ok) Object.assign(replaced[row] as object, { [column]: result.value })
    else fail(row, column, result.error)
  }
  return { rows: replaced, errors: errors.sort((a, b) => a.row - b.row) }
}

/** @returns a result for each cell, in their order */
async function replaceAll<Value>(
  cells: readonly (Cell & { readonly userId: string | null })[],
  { ofUsers, ofPool }: Work<Value>,
): Promise<ItemResult<Value>[]> {
  const isOfUser = (cell: (typeof cells)[number]): cell is UserCell => cell.userId !== null
  const user = (await ofUsers(cells.filter(isOfUser))).values()
  const pool = (await ofPool(cells.filter((cell) => !isOfUser(cell)))).values()
  return cells.map((cell) => (isOfUser(cell) ? user : pool).next().value as ItemResult<Value>)
}

/** @returns null for the shared pool @throws ERR_INVALID_ARGUMENT. The owner function's own error is replaced: it may quote the row */
function ownerOf<Row extends object>(
  row: Row,
  owner: RowsOptions<Row, never>['owner'],
  pool: boolean,
): string | null {
  const found = foundOwner(row, owner)
  if (found === null && !pool)
    throw invalidArgument(
      'the row has no owner (null): its values belong to the shared pool only if pool: true says so',
    )
  return found
}

function foundOwner<Row extends object>(row: Row, owner: RowsOptions<Row, never>['owner']): string | null {
  if (typeof owner !== 'function') return row[owner] as string | null
  try {
    return owner(row)
  } catch (error) {
    throw isKeystoreError(error)
      ? error
      : invalidArgument('the owner of the row cannot be told: its function threw')
  }
}

interface CheckedOptions<Row, Column> {
  readonly owner: RowsOptions<Row, never>['owner']
  readonly pool: boolean
  /** The columns, and how to make their contexts. */
  readonly columns: readonly (readonly [Column, (row: Row) => EncryptionContext])[]
}

/** @throws ERR_INVALID_ARGUMENT */
function checkedArguments<Row extends object, Column extends keyof Row & string>(
  rows: readonly Row[],
  options: RowsOptions<Row, Column>,
): CheckedOptions<Row, Column> {
  const { owner, pool = false, columns } = ownOptions(options)
  if (!Array.isArray(rows)) throw invalidArgument(`rows must be an array, got ${kindOf(rows)}`)
  if (rows.some((row) => typeof row !== 'object' || row === null))
    throw invalidArgument('rows must be objects')
  if (typeof owner !== 'string' && typeof owner !== 'function')
    throw invalidArgument(`owner must be the name of a property or a function, got ${kindOf(owner)}`)
  if (typeof pool !== 'boolean') throw invalidArgument(`pool must be a boolean, got ${kindOf(pool)}`)
  if (typeof columns !== 'object' || columns === null)
    throw invalidArgument(
      `columns must be an object, as in { apiKey: 'credentials.api_key' }, got ${kindOf(columns)}`,
    )
  return {
    owner,
    pool,
    columns: (Object.keys(columns) as Column[]).map((column) => [column, contextMaker(columns[column])]),
  }
}
