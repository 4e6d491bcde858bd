/** A table of the host application on SQLite, as the sweep uses it. Imports no driver: the connection is given. */

import type { BoundStatement } from '../drivers/async-sqlite.js'
import { bytesLiteral } from '../drivers/bytes-literal.js'
import { failedAction } from '../drivers/driver-error.js'
import { DEFAULT_DEADLINE_MS } from '../drivers/retry.js'
import { HostTransactionError, lockError } from '../drivers/sqlite-locks.js'
import { isExactText } from '../drivers/sqlite-text.js'
import { invalidArgument, printable, quoted, StoreError } from '../errors.js'
import { CALLS, isTurnDueInLoop, nextTurn } from '../event-loop.js'
import { ALTERED_BY_TRIGGER, ALTERED as ALTERED_VALUE, type Refusal, refusalOf } from './finding.js'
import { cutsOf, stretchPages } from './page-order.js'
import { assertNoNullKey, catalogOf, hasTriggers, sideEffectsOf } from './sqlite-catalog.js'
import type { SqliteRunner } from './sqlite-runner.js'
import {
  assertShape,
  type Catalog,
  type ColumnChange,
  exactNumber,
  groupByColumn,
  keyFromParts,
  keyParts,
  namedValues,
  ownerColumns,
  quoteIdentifier,
  type SideEffects,
  type SqlTable,
  samePageError,
  selectedColumns,
  type TableRow,
  type TableShape,
  valueBeside,
} from './table.js'
import type { PageOrder } from './value-source.js'

/** So many keys are passed in a few milliseconds. */
const PART_ROWS = 5000

export class SqliteTable implements SqlTable {
  readonly shape: TableShape
  readonly #runner: SqliteRunner
  readonly #deadlineMs: number
  #looked: TableStatements | null = null

  constructor(runner: SqliteRunner, shape: TableShape, deadlineMs = DEFAULT_DEADLINE_MS) {
    this.shape = shape
    this.#runner = runner
    this.#deadlineMs = deadlineMs
  }

  async check(): Promise<Catalog> {
    return this.#try('look at', async () => (await this.#statements()).catalog)
  }

  async *pages(limit: number, order?: PageOrder): AsyncGenerator<readonly TableRow[], void, undefined> {
    if (order !== undefined) {
      for await (const { rows } of this.#stretchPages(limit, order)) yield rows
      return
    }
    let after: Cursor | null = null
    for (;;) {
      const rows: readonly StoredRow[] = await this.#try('read', async () => {
        const { first, next, decodeRows } = await this.#statements()
        return decodeRows(await this.#runner.query(after === null ? first(limit) : next(after, limit)))
      })
      const last = rows.at(-1)
      if (last === undefined) return
      if (after !== null && isSameCursor(after, last.cursor)) throw samePageError(this.shape)
      after = last.cursor
      yield rows
    }
  }

  async *#stretchPages(limit: number, order: PageOrder) {
    const read = (after: Cursor | null, upTo: Cursor | null): Promise<readonly StoredRow[]> =>
      this.#try('read', async () => {
        const { between, decodeRows } = await this.#statements()
        return decodeRows(await this.#runner.query(between(after, upTo, limit)))
      })
    const cuts = await cutsOf<Cursor>(limit, order, (after, rows) => this.#keyAfter('read', after, rows))
    const reader = { read, keyOf: ({ cursor }: StoredRow) => cursor, isSame: isSameCursor, limit }
    yield* stretchPages(order, cuts, reader)
  }

  async lastRows(limit: number): Promise<readonly TableRow[]> {
    return this.#try('read', async () => {
      const { last, decodeRows } = await this.#statements()
      return decodeRows(await this.#runner.query(last(limit)))
    })
  }

  async replace(changes: readonly ColumnChange[]): Promise<readonly ColumnChange[]> {
    return this.#try('change', async () => {
      const { replace } = await this.#statements()
      const ordered = [...groupByColumn(changes).values()].flat()
      const statements = ordered.map(replace)
      const counts = await this.#runner.write(statements.flat()).catch((error) => {
        throw isAltered(error) ? alteredError(quoteIdentifier(this.shape.table)) : error
      })
      // The first statement of each change changes it.
      const perChange = statements[0]?.length ?? 1
      return ordered.filter((_, index) => counts[index * perChange] === 1)
    })
  }

  async tryOut(changes: readonly ColumnChange[]): Promise<Refusal | null> {
    return this.#try('change', async () => {
      const { replace } = await this.#statements()
      try {
        await this.#runner.write([...changes.flatMap(replace), ROLL_BACK])
        return null
      } catch (error) {
        if (isRolledBack(error)) return null
        const refusal = isAltered(error) ? ALTERED_VALUE : refusalOf(error)
        if (refusal === null) throw error
        return refusal
      }
    })
  }

  async sideEffects(): Promise<SideEffects> {
    return this.#try('look at', () => sideEffectsOf(this.#runner, this.shape))
  }

  /**
   * In this process part by part, in the order of the key: all at once keeps the event loop from turning for a third of a second with a million
   * rows. Rows that are written meanwhile may be counted or not, and it is for a display of progress only.
   */
  async countRows(): Promise<number> {
    const action = 'count the rows of'
    let counted = 0
    let after: Cursor | null = null
    if (this.#runner.isInProcess) {
      for (let key = await this.#keyAfter(action, after, PART_ROWS); key !== null; ) {
        counted += PART_ROWS
        after = key
        await nextTurn()
        key = await this.#keyAfter(action, after, PART_ROWS)
      }
    }
    return this.#try(action, async () => {
      const { count } = await this.#statements()
      const [[rows] = []] = await this.#runner.query(count(after))
      return counted + Number(rows)
    })
  }

  /** The key of the row that is so many rows behind another one, or behind the beginning; null if there is none. */
  #keyAfter(action: string, after: Cursor | null, rows: number): Promise<Cursor | null> {
    return this.#try(action, async () => {
      const { keyAfter, decodeCursor } = await this.#statements()
      const [found] = await this.#runner.query(keyAfter(after, rows - 1))
      if (isTurnDueInLoop(CALLS)) await nextTurn()
      return found === undefined ? null : decodeCursor(found)
    })
  }

  async #statements(): Promise<TableStatements> {
    this.#looked ??= await prepareTable(this.#runner, this.shape)
    return this.#looked
  }

  #try<T>(action: string, work: () => Promise<T>): Promise<T> {
    const what = `${action} table ${quoted(this.shape.table)}`
    return this.#runner.retrying(this.#deadlineMs, work).catch((error) => {
      throw error instanceof HostTransactionError
        ? stillInTransaction(what)
        : lockError(failedAction(what, error), error, this.#deadlineMs, { who: 'The sweep' })
    })
  }
}

type TableStatements = Awaited<ReturnType<typeof prepareTable>>

/** The parts of a key as they are stored. Text that is not UTF-8 is given as its bytes, since its characters are lost on reading. */
type Cursor = readonly (string | number | bigint | Uint8Array | { readonly textBytes: Uint8Array })[]

interface StoredRow extends TableRow {
  readonly cursor: Cursor
}

/** @throws ERR_INVALID_ARGUMENT if the table is not as its shape says */
async function prepareTable(runner: SqliteRunner, shape: TableShape) {
  const catalog = await catalogOf(runner, shape)
  assertShape(shape, catalog)
  await assertNoNullKey(runner, shape, catalog)

  const table = quoteIdentifier(shape.table)
  const keys = shape.key.map(quoteIdentifier)
  const names = selectedColumns(shape, catalog)
  const owner = ownerText(shape, catalog)
  // Without a column of its own the owner is none, or in ASCII: see ownerText.
  const ownerBytes = shape.owner === null ? 'null' : bytesIfNeeded(quoteIdentifier(shape.owner))
  // Each has a name of its own, since D1 gives rows as objects.
  const selecting = (expressions: readonly string[]) => {
    const selected = expressions.map((expression, index) => `${expression} as "__keystore_${index}"`)
    return `select ${selected.join(', ')} from ${table}`
  }
  const keyBytes = keys.map(bytesIfNeeded)
  const select = selecting([ownerBytes, ...keyBytes, owner, ...names.map(quoteIdentifier)])
  const selectKeys = selecting([...keyBytes, ...keys])
  const ordered = (direction: string) =>
    `order by ${keys.map((name) => `${name} ${direction}`).join(', ')} limit ?`
  const compared = (operator: string, cursor: Cursor) => {
    const parts = cursor.map((part) => (isTextBytes(part) ? 'cast(? as text)' : '?'))
    return `(${keys.join(', ')}) ${operator} (${parts.join(', ')})`
  }
  const boundTo = (cursor: Cursor) => cursor.map((part) => (isTextBytes(part) ? part.textBytes : part))
  const encoding = await runner.encoding()
  return {
    catalog,
    first: (limit: number) => ({ sql: `${select} ${ordered('asc')}`, params: [limit] }),
    next: (cursor: Cursor, limit: number) => ({
      sql: `${select} where ${compared('>', cursor)} ${ordered('asc')}`,
      params: [...boundTo(cursor), limit],
    }),
    /** Of the key alone, which an index may have: that of the row behind so many others. */
    keyAfter: (after: Cursor | null, offset: number) => ({
      sql: `${selectKeys} ${after === null ? '' : `where ${compared('>', after)}`} ${ordered('asc')} offset ?`,
      params: [...boundTo(after ?? []), 1, offset],
    }),
    between(after: Cursor | null, upTo: Cursor | null, limit: number) {
      const bounds = [
        ...(after === null ? [] : [compared('>', after)]),
        ...(upTo === null ? [] : [compared('<=', upTo)]),
      ]
      return {
        sql: `${select} ${bounds.length === 0 ? '' : `where ${bounds.join(' and ')}`} ${ordered('asc')}`,
        params: [...boundTo(after ?? []), ...boundTo(upTo ?? []), limit],
      }
    },
    last: (limit: number) => ({ sql: `${select} ${ordered('desc')}`, params: [limit] }),
    count: (after: Cursor | null) => ({
      sql: `select count(*) from ${table} ${after === null ? '' : `where ${compared('>', after)}`}`,
      params: boundTo(after ?? []),
    }),
    replace: await replacerOf(runner, shape, owner),
    decodeCursor: (row: readonly unknown[]): Cursor =>
      shape.key.map((_, index) => cursorPart(jsValue(row[keys.length + index]), row[index], encoding)),
    decodeRows: (rows: readonly (readonly unknown[])[]) =>
      rows.map((row) => decodeRow(shape, names, encoding, row)),
  }
}

/**
 * The bytes of what need not be exact as text (see {@link isExactText}); null for printable ASCII and for numbers, since a Buffer costs more
 * than all else that is read of a row. The length tells of a NUL, behind which `glob` sees nothing.
 */
function bytesIfNeeded(expression: string): string {
  const bytes = `cast(${expression} as blob)`
  return `case typeof(${expression}) when 'blob' then ${expression}
    when 'text' then iif(${expression} glob '*[^ -~]*' or length(${expression}) <> length(${bytes}), ${bytes}, null) end`
}

/** The owner as text. A blob stays one, and is refused: as text all bytes that are not UTF-8 become U+FFFD, so that users could be confused. */
function ownerText(shape: TableShape, catalog: Catalog): string {
  if (shape.ownerOfRow) {
    // In ASCII, since a driver may give no exact text of bytes that are not UTF-8.
    const texts = ownerColumns(shape, catalog)
      .map(quoteIdentifier)
      .map((name) => `typeof(${name}) || hex(${name})`)
    return `(${texts.join(" || ',' || ")})`
  }
  const name = shape.owner === null ? 'null' : quoteIdentifier(shape.owner)
  return `iif(typeof(${name}) = 'blob', ${name}, cast(${name} as text))`
}

/** @returns a function that makes the statements of one change; each change has as many. The first replaces the value */
async function replacerOf(runner: SqliteRunner, shape: TableShape, ownerOfRow: string) {
  const table = quoteIdentifier(shape.table)
  const hasKey = shape.key.map((name) => `${quoteIdentifier(name)} = ?`).join(' and ')
  const mayBeAltered = await hasTriggers(runner, shape)
  // Binary: tokens that differ only in case are different, whatever the column's collation.
  const isText = (column: string) => `${quoteIdentifier(column)} is ? collate binary`
  // The same string each time, whose prepared statement is found without comparing it.
  const updates = new Map<string, string>()
  const updateOf = (column: string, beside: string | undefined) => {
    const name = JSON.stringify([column, beside])
    const isBeside = beside === undefined ? '' : ` and ${isText(beside)}`
    const sql =
      updates.get(name) ??
      `update ${table} set ${quoteIdentifier(column)} = ? where ${hasKey} and ${isText(column)} and ${ownerOfRow} is ?${isBeside}`
    updates.set(name, sql)
    return sql
  }
  return (change: ColumnChange): BoundStatement[] => {
    const { column, key, owner, from, to } = change
    const beside = valueBeside(change)
    const update = {
      sql: updateOf(column, beside?.column),
      params: [to, ...keyParts(key), from, owner, ...(beside === null ? [] : [beside.value])],
    }
    if (!mayBeAltered) return [update]
    // Fails, and so undoes the transaction, if a row was changed that does not hold the new value now.
    const assertion = {
      sql: `select case when changes() = 0 or exists (select 1 from ${table} where ${hasKey} and ${isText(column)}) then 1
        else json_extract('{}', '${ALTERED}' || changes()) end`,
      params: [...keyParts(key), to],
    }
    return [update, assertion]
  }
}

/** No path of JSON, so that it fails; SQLite quotes it in its error. It depends on a value, lest SQLite reads it beforehand. */
const ALTERED = 'drizzle-keystore: altered by a trigger '

function isAltered(error: unknown): boolean {
  return error instanceof Error && error.message.includes(ALTERED)
}

const TRIED_OUT = 'drizzle-keystore: a dry run, rolled back on purpose'

/** Undoes its transaction by an error that nothing of the application's has: SQLite quotes what is no path of JSON. */
const ROLL_BACK: BoundStatement = { sql: "select json_extract('{}', ?)", params: [TRIED_OUT] }

function isRolledBack(error: unknown): boolean {
  return error instanceof Error && error.message.includes(TRIED_OUT)
}

function decodeRow(
  { table, key }: TableShape,
  names: readonly string[],
  encoding: string,
  row: readonly unknown[],
): StoredRow {
  // Loops, since a sweep comes here for each row: the owner's bytes, those of the key, the owner, and all columns.
  const ownerBytes = row[0]
  const ownerAt = 1 + key.length
  const owner = row[ownerAt]
  const values = namedValues(names, (at) => jsValue(row[ownerAt + 1 + at]))
  const cursor: Cursor[number][] = []
  for (let at = 0; at < key.length; at += 1)
    cursor.push(cursorPart(values[key[at] as string], row[1 + at], encoding))
  const isOwner = owner === null || (typeof owner === 'string' && isExactText(owner, ownerBytes, encoding))
  if (isOwner && cursor.every(isKeyPart))
    return { key: keyFromParts(cursor), owner: owner as string | null, values, cursor }
  const wrongKey = key.filter((_, index) => !isKeyPart(cursor[index]))
  const whose = isOwner ? `key ${wrongKey.map(quoted).join(', ')}` : 'the owner'
  const defect = invalidArgument(
    `${whose} of the row in table ${quoted(table)} is neither UTF-8 text nor a number`,
  )
  return {
    key: keyFromParts(cursor.map((part) => (isKeyPart(part) ? part : shown(part)))),
    owner: isOwner ? (owner as string | null) : bytesLiteral(ownerBytes),
    values,
    cursor,
    defect,
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

function alteredError(table: string): StoreError {
  return new StoreError(`The sweep could not change table ${printable(table)}: ${ALTERED_BY_TRIGGER}`)
}

function stillInTransaction(action: string): StoreError {
  return new StoreError(
    `The sweep could not ${action}: the connection was inside a transaction of the host's all the time`,
    { retryable: true },
  )
}
