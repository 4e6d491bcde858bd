/** A table of the host application on Postgres, as the sweep uses it. Imports no driver: the pool or client is given. */

import {
  ClientPool,
  isInTransaction,
  isPool,
  type PooledClient,
  type PostgresPool,
} from '../drivers/client-pool.js'
import { Deadline } from '../drivers/deadline.js'
import { describeDriverError, failedAction, storeError } from '../drivers/driver-error.js'
import { arrayLiteral } from '../drivers/postgres-array.js'
import { DEFAULT_DEADLINE_MS, retryingPostgres } from '../drivers/retry.js'
import { invalidArgument, printable } from '../errors.js'
import { ALTERED, ALTERED_BY_TRIGGER, type Refusal, refusalOf } from './finding.js'
import { cutsOf, stretchPages } from './page-order.js'
import {
  COLUMNS_QUERY,
  GENERATED_QUERY,
  keyTextsOf,
  type PostgresColumn,
  qualifiedName,
  type Statements,
  statementsFor,
  TABLE_QUERY,
  TRIED_OUT,
  TRIGGERS_QUERY,
  triedOut,
  UNIQUE_KEYS_QUERY,
} from './postgres-sql.js'
import {
  assertShape,
  type Catalog,
  type ColumnChange,
  groupByColumn,
  keyParts,
  nullKeyError,
  quoteIdentifier,
  type SideEffects,
  type SqlTable,
  samePageError,
  type TableRow,
  type TableShape,
  tableNotFound,
  valueBeside,
} from './table.js'
import { keyText, type PageOrder, type ValueKey } from './value-source.js'

/** One connection, such as a `Client` of pg. Typed structurally: the host application may have another copy of pg's types. */
export interface PostgresClient {
  query(text: string, values?: unknown[]): Promise<{ readonly rows: Record<string, unknown>[] }>
}

/** How the statement of `replaceStatement` undoes itself. */
const DIVISION_BY_ZERO = '22012'

/** What a SQLSTATE means for a change. */
const HINTS: Readonly<Record<string, string>> = {
  // string_data_right_truncation: the column is a varchar(n)
  22001: 'tokens are longer than it allows: make it of type text first',
  [DIVISION_BY_ZERO]: ALTERED_BY_TRIGGER,
}
/** How one statement is run. */
interface QueryOptions {
  readonly deadline?: Deadline
  /** For statements that may read the whole table: see {@link ClientPool.use}. */
  readonly mayTakeLong?: boolean
  /** The only column that the statement changes. */
  readonly column?: string
}

export class PostgresTable implements SqlTable {
  readonly shape: TableShape
  readonly #client: PostgresClient | ClientPool<PooledClient>
  readonly #deadlineMs: number
  #statements: Promise<Statements> | null = null

  constructor(client: PostgresClient | PostgresPool, shape: TableShape, deadlineMs = DEFAULT_DEADLINE_MS) {
    this.shape = shape
    this.#client = isPool(client) ? new ClientPool(client) : client
    this.#deadlineMs = deadlineMs
  }

  async check(): Promise<Catalog> {
    return (await this.#prepared()).catalog
  }

  /** The next page is read while the caller has the one before. */
  async *pages(limit: number, order?: PageOrder): AsyncGenerator<readonly TableRow[], void, undefined> {
    if (order !== undefined) {
      yield* this.#stretchPages(limit, order)
      return
    }
    const { first, next, decodeRow } = await this.#prepared()
    const read = async (after: ValueKey | null): Promise<readonly TableRow[]> => {
      const [text, values] = after === null ? [first, [limit]] : [next, [...keyTexts(after), limit]]
      const { rows } = await this.#query('read', text, values, { mayTakeLong: true })
      return rows.map(decodeRow)
    }
    let page = await read(null)
    for (let last = page.at(-1); last !== undefined; last = page.at(-1)) {
      const ahead = read(last.key)
      // Else its failure would be an unhandled rejection if the caller leaves the loop.
      ahead.catch(() => undefined)
      yield page
      page = await ahead
      const lastOfNext = page.at(-1)
      if (lastOfNext !== undefined && isSameKey(lastOfNext.key, last.key)) throw samePageError(this.shape)
    }
  }

  async *#stretchPages(
    limit: number,
    order: PageOrder,
  ): AsyncGenerator<readonly TableRow[], void, undefined> {
    const { between, decodeRow, keysAfter, keyOf } = await this.#prepared()
    const query = async (after: ValueKey | null, upTo: ValueKey | null, limit: number) => {
      const bounds = [after, upTo].flatMap((key) => (key === null ? [] : keyTexts(key)))
      const text = between(after !== null, upTo !== null)
      const { rows } = await this.#query('read', text, [...bounds, limit, 0], { mayTakeLong: true })
      return rows.map(decodeRow)
    }
    const cuts = await cutsOf<ValueKey>(limit, order, async (after, rows) => {
      const parameters = [...(after === null ? [] : keyTexts(after)), 1, rows - 1]
      const found = await this.#query('read', keysAfter(after !== null), parameters, { mayTakeLong: true })
      const [row] = found.rows
      return row === undefined ? null : keyOf(row)
    })
    const pages = stretchPages<TableRow, ValueKey>(order, cuts, {
      read: (after, upTo) => query(after, upTo, limit),
      keyOf: ({ key }) => key,
      isSame: isSameKey,
      limit,
    })
    const ahead = () => {
      const page = pages.next()
      page.catch(() => undefined)
      return page
    }
    for (let next = ahead(); ; ) {
      const { value, done } = await next
      if (done === true) return
      next = ahead()
      yield value.rows
    }
  }

  async lastRows(limit: number): Promise<readonly TableRow[]> {
    const { last, decodeRow } = await this.#prepared()
    const { rows } = await this.#query('read', last, [limit], { mayTakeLong: true })
    return rows.map(decodeRow)
  }

  /** One statement for each column, so that no locks are held from one to the next. */
  async replace(changes: readonly ColumnChange[]): Promise<readonly ColumnChange[]> {
    const { replace, holding } = await this.#prepared()
    const deadline = new Deadline(this.#deadlineMs)
    const replaced: ColumnChange[] = []
    for (const [column, some] of groupByColumn(changes)) {
      const byKey = new Map(some.map((change) => [JSON.stringify(keyTexts(change.key)), change]))
      const { keys, written, values, beside } = this.#replaceInputs(some)
      const statement = replace(column, beside)
      const { rows, failures } = await this.#query('change', statement, values, { deadline, column })
      // What an attempt has replaced whose answer was lost, only the rows can tell.
      const found =
        failures === 0
          ? rows
          : (await this.#query('read', holding(column), [...keys, written], { deadline })).rows
      for (const row of found) {
        const change = byKey.get(JSON.stringify(keyTextsOf(row, this.shape.key.length)))
        if (change !== undefined) replaced.push(change)
      }
    }
    return replaced
  }

  /** What the statement of `replace` is given, and the column whose values it compares too. */
  #replaceInputs(changes: readonly ColumnChange[]) {
    const parts = changes.map(({ key }) => keyTexts(key))
    const keys = this.shape.key.map((_, index) => arrayLiteral(parts.map((texts) => texts[index] ?? null)))
    const owners = arrayLiteral(changes.map(({ owner }) => owner))
    const stored = arrayLiteral(changes.map(({ from }) => from))
    const written = arrayLiteral(changes.map(({ to }) => to))
    const beside = changes.flatMap((change) => valueBeside(change) ?? [])
    const besides = beside.length === 0 ? [] : [arrayLiteral(beside.map(({ value }) => value))]
    return {
      keys,
      written,
      values: [...keys, owners, stored, written, ...besides],
      beside: beside[0]?.column,
    }
  }

  /**
   * On a pool in a transaction, with what is deferred to its end; else in one statement, before triggers that run after it, and behind a
   * savepoint: the statement ends with an error, which would end a transaction that the application has open on its connection.
   */
  async tryOut(changes: readonly ColumnChange[]): Promise<Refusal | null> {
    const { replace } = await this.#prepared()
    const { values, beside } = this.#replaceInputs(changes)
    const statement = replace(changes[0]?.column ?? '', beside)
    const client = this.#client
    const deadline = new Deadline(this.#deadlineMs)
    const attempt = async () => {
      try {
        if (client instanceof ClientPool)
          await client
            .use(deadline, (lent) => triedOutOn(lent, client.isOfOne, statement, values))
            .then(rethrow)
        else await deadline.wait(behindSavepoint(client, triedOut(statement), values), NO_ANSWER)
        return null
      } catch (error) {
        if (isTriedOut(error)) return null
        const refusal = describeDriverError(error).code === DIVISION_BY_ZERO ? ALTERED : refusalOf(error)
        if (refusal === null) throw error
        return refusal
      }
    }
    return retryingPostgres(deadline, attempt).catch((error) => {
      throw storeError(failedAction(`change table ${qualifiedName(this.shape)}`, error), error, 'The sweep')
    })
  }

  async sideEffects(): Promise<SideEffects> {
    await this.#prepared()
    const look = async (text: string) =>
      (await this.#query('look at', text, [qualifiedName(this.shape)])).rows
    const triggers = (await look(TRIGGERS_QUERY)).map(({ name }) => String(name))
    const generated = (await look(GENERATED_QUERY)).map(({ name, of }) => [String(name), String(of)] as const)
    return { triggers, generated }
  }

  async countRows(): Promise<number> {
    const { count } = await this.#prepared()
    const { rows } = await this.#query('count the rows of', count, [], { mayTakeLong: true })
    return Number(rows[0]?.count)
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
    const deadline = new Deadline(this.#deadlineMs)
    const look = async (text: string, values: unknown[] = [table]) =>
      (await this.#query('look at', text, values, { deadline })).rows
    const [found] = await look(TABLE_QUERY)
    if (found === undefined) throw tableNotFound(table)
    if (found.hidesRows === true) throw rowsHiddenError(table)
    const columns = (await look(COLUMNS_QUERY)).map(
      ({ name, type, nullable, isText, castType, operatorSchema }): PostgresColumn => ({
        name: String(name),
        type: String(type),
        nullable: nullable === true,
        isText: isText === true,
        castType: String(castType),
        operatorSchema: String(operatorSchema),
      }),
    )
    const uniqueKeys = (await look(UNIQUE_KEYS_QUERY)).map(
      ({ names }) => JSON.parse(String(names)) as string[],
    )
    const catalog: Catalog = { columns, uniqueKeys }
    assertShape(shape, catalog)
    for (const name of shape.key.filter((key) => columns.some((c) => c.name === key && c.nullable))) {
      const nulls = `select 1 from ${table} where ${quoteIdentifier(name)} is null limit 1`
      const { rows } = await this.#query('look at', nulls, [], { mayTakeLong: true })
      if (rows.length > 0) throw nullKeyError(shape)
    }
    return statementsFor(shape, columns, catalog)
  }

  /** @returns the rows, and how many attempts have failed */
  async #query(
    action: string,
    text: string,
    values: unknown[],
    { deadline = new Deadline(this.#deadlineMs), mayTakeLong = false, column }: QueryOptions = {},
  ): Promise<{ readonly rows: Record<string, unknown>[]; readonly failures: number }> {
    const attempt = async (failures: number) => {
      const { rows } = await this.#run(text, values, deadline, mayTakeLong)
      return { rows, failures }
    }
    return retryingPostgres(deadline, attempt).catch((error) => {
      const hint = HINTS[describeDriverError(error).code ?? '']
      const table = `${action} table ${qualifiedName(this.shape)}`
      const what = column === undefined ? table : `${table}, column ${quoteIdentifier(column)}`
      throw storeError(
        failedAction(hint === undefined ? what : `${what}: ${hint}`, error),
        error,
        'The sweep',
      )
    })
  }

  #run(text: string, values: unknown[], deadline: Deadline, mayTakeLong: boolean) {
    if (this.#client instanceof ClientPool)
      return this.#client.use(deadline, (client) => client.query(text, values), { mayTakeLong })
    // The host application's connection: at the deadline the call ends, and the statement goes on.
    const asked = this.#client.query(text, values)
    return mayTakeLong ? deadline.waitLonger(asked, NO_ANSWER) : deadline.wait(asked, NO_ANSWER)
  }
}

const NO_ANSWER = () =>
  "an answer on the application's connection: the server is out of reach, or another session has a lock"

/**
 * Runs a statement that fails. Clients run queries in the order in which they are called: nothing of the application's comes in between,
 * neither its statements, which would be taken back too, nor the beginning of a transaction. Outside of one the savepoint is refused, which
 * changes nothing.
 */
async function behindSavepoint(client: PostgresClient, text: string, values: unknown[]): Promise<void> {
  const savepoint = 'drizzle_keystore_dry_run'
  const [, outcome] = await Promise.allSettled([
    client.query(`savepoint ${savepoint}`),
    client.query(text, values),
    client.query(`rollback to savepoint ${savepoint}`),
    client.query(`release savepoint ${savepoint}`),
  ])
  if (outcome.status === 'rejected') throw outcome.reason
}

/** @returns what failed, or null. A connection on which something fails is closed, and a transaction of the application's with it. */
async function triedOutOn(
  client: PooledClient,
  isOfOne: boolean,
  statement: string,
  values: unknown[],
): Promise<unknown> {
  if (await isInTransaction(client, isOfOne))
    return behindSavepoint(client, triedOut(statement), values).then(
      () => null,
      (error: unknown) => error,
    )
  await rolledBack(client, statement, values)
  return null
}

function rethrow(error: unknown): void {
  if (error !== null) throw error
}

/** Runs a statement and takes it back, after what was deferred to the end of its transaction. */
async function rolledBack(client: PooledClient, text: string, values: unknown[]): Promise<void> {
  await client.query('begin')
  try {
    await client.query(text, values)
    await client.query('set constraints all immediate')
  } finally {
    await client.query('rollback')
  }
}

function isTriedOut(error: unknown): boolean {
  return error instanceof Error && error.message.includes(TRIED_OUT)
}

/** The sweep would leave hidden rows as they are, and report that nothing is left. */
function rowsHiddenError(table: string): Error {
  return invalidArgument(
    `row-level security is in force for this role on table ${printable(table)}, and may hide rows: connect as the table's owner, or as a role with BYPASSRLS`,
  )
}

function keyTexts(key: ValueKey): string[] {
  return keyParts(key).map(String)
}

function isSameKey(a: ValueKey, b: ValueKey): boolean {
  return keyText(a) === keyText(b)
}
