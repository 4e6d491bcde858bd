/** A table of the host's on better-sqlite3, as the sweep uses it. Imports no driver: the connection is given. */

import { storeError } from '../drivers/driver-error.js'
import { DEFAULT_DEADLINE_MS } from '../drivers/retry.js'
import type { SqliteClient, SqliteStatement } from '../drivers/sqlite-client.js'
import { HostTransaction, retryingWhileLocked, waitForHost } from '../drivers/sqlite-locks.js'
import { invalidArgument, StoreError } from '../errors.js'
import { kindOf } from '../validate.js'
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

/** Names of the row id that a table has unless it was made without (sqlite.org/rowidtable.html). */
const ROW_IDS = ['rowid', '_rowid_', 'oid']

export class SqliteTable implements SqlTable {
  readonly shape: TableShape
  readonly #client: SqliteClient
  readonly #deadlineMs: number
  #prepared: Prepared | null = null

  constructor(client: SqliteClient, shape: TableShape, deadlineMs = DEFAULT_DEADLINE_MS) {
    this.shape = shape
    this.#client = client
    this.#deadlineMs = deadlineMs
  }

  async check(): Promise<Catalog> {
    return this.#try('look at', () => this.#statements().catalog)
  }

  async *pages(limit: number): AsyncGenerator<readonly TableRow[], void, undefined> {
    let after: ValueKey | null = null
    for (;;) {
      const rows: readonly TableRow[] = await this.#try('read', () => {
        const { first, next, rowsOf } = this.#statements()
        return rowsOf(after === null ? first.all(limit) : next.all(...partsOf(after), limit))
      })
      const last = rows.at(-1)
      if (last === undefined) return
      after = last.key
      yield rows
    }
  }

  async lastRows(limit: number): Promise<readonly TableRow[]> {
    return this.#try('read', () => {
      const { last, rowsOf } = this.#statements()
      return rowsOf(last.all(limit))
    })
  }

  async replace(changes: readonly ValueChange[]): Promise<readonly ValueRef[]> {
    return this.#try('change', () => {
      const { replace } = this.#statements()
      waitForHost(this.#client)
      const writeAll = () =>
        [...byColumn(changes)].flatMap(([column, some]) => {
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

  #statements(): Prepared {
    this.#prepared ??= prepareStatements(this.#client, this.shape)
    return this.#prepared
  }

  #try<T>(action: string, work: () => T): Promise<T> {
    const what = `${action} table ${quoted(this.shape.table)}`
    return retryingWhileLocked(this.#deadlineMs, work).catch((error) => {
      throw error instanceof HostTransaction ? stillInTransaction(what) : storeError(what, error, 'The sweep')
    })
  }
}

type Prepared = ReturnType<typeof prepareStatements>

/** @throws ERR_INVALID_ARGUMENT if the table is not as its shape says */
function prepareStatements(client: SqliteClient, shape: TableShape) {
  const { key, owner, columns, wholeRows } = shape
  const catalog = catalogOf(client, shape)
  assertShape(shape, catalog)
  const table = quoted(shape.table)
  const keys = key.map(quoted)
  assertNoNullKey(client, shape, catalog)

  const names = [...new Set([...key, ...(wholeRows ? catalog.columns.map(({ name }) => name) : columns)])]
  if (owner !== null && !names.includes(owner)) names.push(owner)
  const ownerName = owner === null ? 'null' : quoted(owner)
  // Bytes that are no text would all become U+FFFD, and users one.
  const ownerText = `iif(typeof(${ownerName}) = 'blob', ${ownerName}, cast(${ownerName} as text))`
  const select = `select ${ownerText}, ${names.map(quoted).join(', ')} from ${table}`
  const ordered = (direction: string) =>
    `order by ${keys.map((name) => `${name} ${direction}`).join(', ')} limit ?`
  const after = `(${keys.join(', ')}) > (${keys.map(() => '?').join(', ')})`
  const prepare = (sql: string) => client.prepare(sql).raw().safeIntegers()

  const hasTriggers =
    client
      .prepare("select 1 from sqlite_schema where type = 'trigger' and tbl_name = ? collate nocase")
      .all(shape.table).length > 0
  const replacing = new Map<string, SqliteStatement>()
  function replace(column: string): (change: ValueChange) => boolean {
    const name = quoted(column)
    // Tokens that differ in the case of a letter are different, whatever the column's collation says.
    const where = [...keys.map((key) => `${key} = ?`), `${name} = ? collate binary`, `${ownerText} is ?`]
    const statement =
      replacing.get(column) ?? client.prepare(`update ${table} set ${name} = ? where ${where.join(' and ')}`)
    replacing.set(column, statement)
    const stored = hasTriggers
      ? client.prepare(
          `select 1 from ${table} where ${keys.map((key) => `${key} = ?`).join(' and ')} and ${name} = ? collate binary`,
        )
      : null
    return ({ key, owner, from, to }) => {
      if (statement.run(to, ...partsOf(key), from, owner).changes !== 1) return false
      if (stored?.all(...partsOf(key), to).length === 0) throw altered(table)
      return true
    }
  }

  return {
    catalog,
    first: prepare(`${select} ${ordered('asc')}`),
    next: prepare(`${select} where ${after} ${ordered('asc')}`),
    last: prepare(`${select} ${ordered('desc')}`),
    count: client.prepare(`select count(*) from ${table}`).raw(),
    replace,
    rowsOf: (rows: readonly unknown[]) => rows.map((row) => rowOf(shape, names, row as unknown[])),
  }
}

function rowOf({ table, key }: TableShape, names: readonly string[], [owner, ...row]: unknown[]): TableRow {
  const values = Object.fromEntries(names.map((name, index) => [name, jsValue(row[index])]))
  const parts = key.map((name) => {
    const part = values[name]
    if (typeof part === 'string' || typeof part === 'number' || typeof part === 'bigint') return part
    throw invalidArgument(
      `key ${quoted(name)} of table ${quoted(table)} must be text or a number, got ${kindOf(part)}`,
    )
  })
  if (typeof owner !== 'string' && owner !== null)
    throw invalidArgument(
      `the owner in table ${quoted(table)} must be text or a number, got ${kindOf(owner)}`,
    )
  return { key: keyOf(parts), owner, values }
}

function jsValue(value: unknown): unknown {
  return typeof value === 'bigint' ? exactNumber(value) : value
}

function catalogOf(client: SqliteClient, { table, key }: TableShape): Catalog {
  const query = (sql: string, name: string) => client.prepare(sql).all(name) as Record<string, unknown>[]
  const [found] = query(
    "select type, wr from pragma_table_list where schema = 'main' and name = ? collate nocase",
    table,
  )
  if (found === undefined || found.type !== 'table') throw noTable(quoted(table))
  const columns = query(
    'select name, type, "notnull", pk from pragma_table_xinfo(?) where hidden <> 1',
    table,
  )
  /** Whether the column takes texts for equal that its index tells apart: of those, pages would lose all but one. */
  const isFolded = (name: string, collation: unknown) => {
    const asColumn = `select ${quoted(name)} as x from ${quoted(table)} where 0 union all select 'a'`
    const folds = client.prepare(`select x = 'A', x = 'a ' from (${asColumn})`).raw().all()[0] as unknown[]
    return ['NOCASE', 'RTRIM'].some(
      (fold, at) => Number(folds[at]) === 1 && String(collation).toUpperCase() !== fold,
    )
  }
  const uniqueKeys = query('select name from pragma_index_list(?) where "unique" and not partial', table)
    .map(({ name }) => query('select name, coll from pragma_index_xinfo(?) where "key"', String(name)))
    // An index on an expression has no name there.
    .filter((index) => index.every(({ name, coll }) => typeof name === 'string' && !isFolded(name, coll)))
    .map((index) => index.map(({ name }) => String(name)))
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

/** SQLite lets even a primary key be null, unless it is told otherwise (sqlite.org/lang_createtable.html). */
function assertNoNullKey(client: SqliteClient, shape: TableShape, { columns }: Catalog): void {
  for (const name of shape.key.filter((name) => columns.find((column) => column.name === name)?.nullable)) {
    const found = client
      .prepare(`select 1 from ${quoted(shape.table)} where ${quoted(name)} is null limit 1`)
      .all()
    if (found.length > 0) throw nullKeys(shape)
  }
}

function altered(table: string): StoreError {
  return new StoreError(`The sweep could not change table ${table}: ${ALTERED}`)
}

function stillInTransaction(action: string): StoreError {
  return new StoreError(
    `The sweep could not ${action}: the connection was inside a transaction of the host's all the time`,
    { retryable: true },
  )
}
