/** A table of the host application on better-sqlite3, as the sweep uses it. Imports no driver: the connection is given. */

import { bytesLiteral } from '../drivers/bytes-literal.js'
import { DEFAULT_DEADLINE_MS } from '../drivers/retry.js'
import type { SqliteClient, SqliteStatement } from '../drivers/sqlite-client.js'
import {
  assertNoHostTransaction,
  HostTransactionError,
  lockError,
  retryingWhileLocked,
  withoutBusyTimeout,
} from '../drivers/sqlite-locks.js'
import { isExactText } from '../drivers/sqlite-text.js'
import { invalidArgument, printable, quoted, StoreError } from '../errors.js'
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
  samePageError,
  selectedColumns,
  type TableRow,
  type TableShape,
  tableNotFound,
} from './table.js'
import type { ValueChange, ValueRef } from './value-source.js'

/** Names of the row id, which a table has unless it is WITHOUT ROWID (sqlite.org/rowidtable.html). */
const ROW_IDS = ['rowid', '_rowid_', 'oid']

export class SqliteTable implements SqlTable {
  readonly shape: TableShape
  readonly #client: SqliteClient
  readonly #deadlineMs: number
  #prepared: TableStatements | null = null

  constructor(client: SqliteClient, shape: TableShape, deadlineMs = DEFAULT_DEADLINE_MS) {
    this.shape = shape
    this.#client = client
    this.#deadlineMs = deadlineMs
  }

  async check(): Promise<Catalog> {
    return this.#try('look at', () => this.#statements().catalog)
  }

  async *pages(limit: number): AsyncGenerator<readonly TableRow[], void, undefined> {
    let after: Cursor | null = null
    for (;;) {
      const rows: readonly StoredRow[] = await this.#try('read', () => {
        const { first, next, decodeRows } = this.#statements()
        return decodeRows(after === null ? first.all(limit) : next(after, limit))
      })
      const last = rows.at(-1)
      if (last === undefined) return
      if (after !== null && isSameCursor(after, last.cursor)) throw samePageError(this.shape)
      after = last.cursor
      yield rows
    }
  }

  async lastRows(limit: number): Promise<readonly TableRow[]> {
    return this.#try('read', () => {
      const { last, decodeRows } = this.#statements()
      return decodeRows(last.all(limit))
    })
  }

  async replace(changes: readonly ValueChange[]): Promise<readonly ValueRef[]> {
    return this.#try('change', () => {
      const { replace } = this.#statements()
      assertNoHostTransaction(this.#client)
      const writeAll = () =>
        [...groupByColumn(changes)].flatMap(([column, some]) => {
          const write = replace(column)
          return some.filter((change) => write(change))
        })
      return this.#client.transaction(writeAll).immediate()
    })
  }

  async countRows(): Promise<number> {
    return this.#try('count the rows of', () => {
      const [[count]] = this.#statements().count.all() as [[number | bigint]]
      return Number(count)
    })
  }

  #statements(): TableStatements {
    this.#prepared ??= prepareTable(this.#client, this.shape)
    return this.#prepared
  }

  #try<T>(action: string, work: () => T): Promise<T> {
    const what = `${action} table ${quoted(this.shape.table)}`
    const attempt = () => withoutBusyTimeout(this.#client, work)
    return retryingWhileLocked(this.#deadlineMs, attempt).catch((error) => {
      throw error instanceof HostTransactionError
        ? stillInTransaction(what)
        : lockError(what, error, this.#deadlineMs, 'The sweep')
    })
  }
}

type TableStatements = ReturnType<typeof prepareTable>

/** The parts of a key as they are stored. Text that is not UTF-8 is given as its bytes, since its characters are lost on reading. */
type Cursor = readonly (string | number | bigint | Uint8Array | { readonly textBytes: Uint8Array })[]

interface StoredRow extends TableRow {
  readonly cursor: Cursor
}

/** @throws ERR_INVALID_ARGUMENT if the table is not as its shape says */
function prepareTable(client: SqliteClient, shape: TableShape) {
  const catalog = catalogOf(client, shape)
  assertShape(shape, catalog)
  assertNoNullKey(client, shape, catalog)

  const table = quoteIdentifier(shape.table)
  const keys = shape.key.map(quoteIdentifier)
  const names = selectedColumns(shape, catalog)
  const bytes = [...(shape.owner === null ? ['null'] : [quoteIdentifier(shape.owner)]), ...keys]
  const stored = bytes.map((name) => `cast(${name} as blob)`).join(', ')
  const select = `select ${stored}, ${ownerText(shape)}, ${names.map(quoteIdentifier).join(', ')} from ${table}`
  const ordered = (direction: string) =>
    `order by ${keys.map((name) => `${name} ${direction}`).join(', ')} limit ?`
  const prepare = (sql: string) => client.prepare(sql).raw().safeIntegers()
  const prepareNext = (cursor: Cursor) => {
    const parts = cursor.map((part) => (isTextBytes(part) ? 'cast(? as text)' : '?'))
    return prepare(`${select} where (${keys.join(', ')}) > (${parts.join(', ')}) ${ordered('asc')}`)
  }
  const plainNext = prepareNext(keys)
  const encoding = String(client.pragma('encoding', { simple: true }))
  return {
    catalog,
    first: prepare(`${select} ${ordered('asc')}`),
    next: (cursor: Cursor, limit: number) =>
      (cursor.some(isTextBytes) ? prepareNext(cursor) : plainNext).all(
        ...cursor.map((part) => (isTextBytes(part) ? part.textBytes : part)),
        limit,
      ),
    last: prepare(`${select} ${ordered('desc')}`),
    count: client.prepare(`select count(*) from ${table}`).raw(),
    replace: replacerOf(client, shape),
    decodeRows: (rows: readonly unknown[]) =>
      rows.map((row) => decodeRow(shape, names, encoding, row as unknown[])),
  }
}

/** The owner as text. A blob stays one, and is refused: as text all bytes that are not UTF-8 become U+FFFD, so that users could be confused. */
function ownerText({ owner }: TableShape): string {
  const name = owner === null ? 'null' : quoteIdentifier(owner)
  return `iif(typeof(${name}) = 'blob', ${name}, cast(${name} as text))`
}

/** @returns a function that takes a column and returns the function that applies one change to it; that returns whether it was applied */
function replacerOf(client: SqliteClient, shape: TableShape) {
  const table = quoteIdentifier(shape.table)
  const hasKey = shape.key.map((name) => `${quoteIdentifier(name)} = ?`).join(' and ')
  const hasTriggers =
    client
      .prepare("select 1 from sqlite_schema where type = 'trigger' and tbl_name = ? collate nocase")
      .all(shape.table).length > 0
  const updates = new Map<string, SqliteStatement>()
  return (column: string): ((change: ValueChange) => boolean) => {
    // Binary: tokens that differ only in case are different, whatever the column's collation.
    const hasValue = `${quoteIdentifier(column)} = ? collate binary`
    const update =
      updates.get(column) ??
      client.prepare(
        `update ${table} set ${quoteIdentifier(column)} = ? where ${hasKey} and ${hasValue} and ${ownerText(shape)} is ?`,
      )
    updates.set(column, update)
    const stored = hasTriggers
      ? client.prepare(`select 1 from ${table} where ${hasKey} and ${hasValue}`)
      : null
    return ({ key, owner, from, to }) => {
      if (update.run(to, ...keyParts(key), from, owner).changes !== 1) return false
      if (stored?.all(...keyParts(key), to).length === 0) throw alteredError(table)
      return true
    }
  }
}

function decodeRow(
  { table, key }: TableShape,
  names: readonly string[],
  encoding: string,
  row: readonly unknown[],
): StoredRow {
  const [ownerBytes, ...rest] = row
  const keyBytes = rest.slice(0, key.length)
  const [owner, ...columns] = rest.slice(key.length)
  const values = Object.fromEntries(names.map((name, index) => [name, jsValue(columns[index])]))
  const cursor = key.map((name, index) => cursorPart(values[name], keyBytes[index], encoding))
  const wrongKey = key.filter((_, index) => !isKeyPart(cursor[index]))
  const isOwner = owner === null || (typeof owner === 'string' && isExactText(owner, ownerBytes, encoding))
  const whose = isOwner ? `key ${wrongKey.map(quoted).join(', ')}` : 'the owner'
  const defect = invalidArgument(
    `${whose} of the row in table ${quoted(table)} is neither UTF-8 text nor a number`,
  )
  return {
    key: keyFromParts(cursor.map((part) => (isKeyPart(part) ? part : shown(part)))),
    owner: isOwner ? (owner as string | null) : bytesLiteral(ownerBytes),
    values,
    cursor,
    ...(isOwner && wrongKey.length === 0 ? {} : { defect }),
  }
}

function cursorPart(value: unknown, bytes: unknown, encoding: string): Cursor[number] {
  if (typeof value === 'string')
    return isExactText(value, bytes, encoding) ? value : { textBytes: bytes as Uint8Array }
  return value as number | bigint | Uint8Array
}

function isKeyPart(part: unknown): part is string | number | bigint {
  return typeof part === 'string' || typeof part === 'number' || typeof part === 'bigint'
}

function isTextBytes(part: Cursor[number]): part is { readonly textBytes: Uint8Array } {
  return typeof part === 'object' && 'textBytes' in part
}

function isSameCursor(a: Cursor, b: Cursor): boolean {
  return a.every((part, index) => isSamePart(part, b[index]))
}

function isSamePart(a: Cursor[number], b: Cursor[number] | undefined): boolean {
  if (isKeyPart(a) || b === undefined || isKeyPart(b)) return a === b
  const bytesOf = (part: Exclude<Cursor[number], string | number | bigint>) =>
    isTextBytes(part) ? part.textBytes : part
  return isTextBytes(a) === isTextBytes(b) && Buffer.compare(bytesOf(a), bytesOf(b)) === 0
}

/** What can be shown of a part that is no key. */
function shown(part: Cursor[number]): string {
  return bytesLiteral(isTextBytes(part) ? part.textBytes : part)
}

function jsValue(value: unknown): unknown {
  return typeof value === 'bigint' ? exactNumber(value) : value
}

/** Runs a query with one parameter. @returns its rows */
type Query = (sql: string, parameter: string) => Record<string, unknown>[]

function catalogOf(client: SqliteClient, { table, key }: TableShape): Catalog {
  const query: Query = (sql, parameter) => client.prepare(sql).all(parameter) as Record<string, unknown>[]
  const [found] = query(
    "select type, wr from pragma_table_list where schema = 'main' and name = ? collate nocase",
    table,
  )
  if (found === undefined || found.type !== 'table') throw tableNotFound(quoteIdentifier(table))
  const columns = query(
    'select name, type, "notnull", pk from pragma_table_xinfo(?) where hidden <> 1',
    table,
  )
  const uniqueKeys = uniqueIndexes(client, query, table)
  const primaryKey = columns.filter(({ pk }) => Number(pk) > 0).map(({ name }) => String(name))
  if (primaryKey.length > 0) uniqueKeys.push(primaryKey)
  const isColumn = (id: string) => columns.some(({ name }) => String(name).toLowerCase() === id)
  const rowIds = ROW_IDS.filter((id) => key.includes(id) && Number(found.wr) === 0 && !isColumn(id))
  return {
    columns: [
      ...rowIds.map((name) => ({ name, type: 'INTEGER', nullable: false, isText: false })),
      ...columns.map(({ name, type, notnull }) => ({
        name: String(name),
        type: String(type),
        nullable: Number(notnull) === 0,
        isText: !/INT|REAL|FLOA|DOUB/i.test(String(type)),
      })),
    ],
    uniqueKeys: [...uniqueKeys, ...rowIds.map((name) => [name])],
  }
}

/** The columns of each unique index over whole rows that orders pages reliably. */
function uniqueIndexes(client: SqliteClient, query: Query, table: string): string[][] {
  return (
    query('select name from pragma_index_list(?) where "unique" and not partial', table)
      .map(({ name }) => query('select name, coll from pragma_index_xinfo(?) where "key"', String(name)))
      // The name is null for an expression.
      .filter((index) =>
        index.every(({ name, coll }) => typeof name === 'string' && !isFolded(client, table, name, coll)),
      )
      .map((index) => index.map(({ name }) => String(name)))
  )
}

/** Whether a column's collation makes texts equal that the index tells apart: pages would skip all but one of those. */
function isFolded(client: SqliteClient, table: string, column: string, indexCollation: unknown): boolean {
  const letter = `select ${quoteIdentifier(column)} as x from ${quoteIdentifier(table)} where 0 union all select 'a'`
  const folds = client.prepare(`select x = 'A', x = 'a ' from (${letter})`).raw().all()[0] as unknown[]
  return ['NOCASE', 'RTRIM'].some(
    (collation, index) => Number(folds[index]) === 1 && String(indexCollation).toUpperCase() !== collation,
  )
}

/** SQLite allows nulls even in a primary key, unless it is declared NOT NULL (sqlite.org/lang_createtable.html). */
function assertNoNullKey(client: SqliteClient, shape: TableShape, { columns }: Catalog): void {
  for (const name of shape.key.filter((name) => columns.find((column) => column.name === name)?.nullable)) {
    const found = client
      .prepare(`select 1 from ${quoteIdentifier(shape.table)} where ${quoteIdentifier(name)} is null limit 1`)
      .all()
    if (found.length > 0) throw nullKeyError(shape)
  }
}

function alteredError(table: string): StoreError {
  return new StoreError(`The sweep could not change table ${printable(table)}: ${ALTERED_BY_TRIGGER}`)
}

function stillInTransaction(action: string): StoreError {
  return new StoreError(
    `The sweep could not ${action}: the connection was inside a transaction of the host's all the time`,
    { retryable: true },
  )
}
