/** A connection of node:sqlite (Node.js 22.16 or newer, Deno) behind the methods of better-sqlite3. */
import type { SqliteClient, SqliteStatement } from './sqlite-client.js'
import { immediateTransaction, pragmaValue } from './sqlite-methods.js'

/** `DatabaseSync` of node:sqlite, as far as we use it. */
export interface NodeSqlite {
  /** Newer than the types of some versions. */
  readonly isTransaction?: boolean
  prepare(source: string): NodeStatement
  exec(source: string): void
  close(): void
}

interface NodeStatement {
  all(...params: never[]): unknown[]
  get(...params: never[]): unknown
  run(...params: never[]): { readonly changes: number | bigint }
  iterate(...params: never[]): Iterator<unknown>
  setReadBigInts(enabled: boolean): void
}

/** Newer methods of a statement. */
interface NodeStatementArrays {
  setReturnArrays(enabled: boolean): void
  columns(): readonly unknown[]
}

/** @returns null for the client of another driver */
export function onNodeSqlite(client: object): SqliteClient | null {
  if (!isNodeSqlite(client)) return null
  const self: SqliteClient = {
    get inTransaction() {
      return client.isTransaction === true
    },
    prepare: (source) => statementOn(client.prepare(source)),
    exec: (source) => client.exec(source),
    pragma: (source, options) => pragmaValue(client.prepare(`pragma ${source}`).all(), options),
    transaction: (work) => immediateTransaction(self, work),
    close: () => client.close(),
  }
  return self
}

function isNodeSqlite(client: object): client is NodeSqlite {
  return 'isTransaction' in client && ['prepare', 'exec', 'close'].every((name) => name in client)
}

function statementOn(statement: NodeStatement): SqliteStatement {
  const arrays = statement as NodeStatement & NodeStatementArrays
  const self: SqliteStatement = {
    reader: arrays.columns().length > 0,
    all: (...params) => statement.all(...(params as never[])),
    get: (...params) => statement.get(...(params as never[])),
    run: (...params) => ({ changes: Number(statement.run(...(params as never[])).changes) }),
    iterate: (...params) => statement.iterate(...(params as never[])) as IterableIterator<unknown>,
    raw() {
      arrays.setReturnArrays(true)
      return self
    },
    safeIntegers(toggle = true) {
      statement.setReadBigInts(toggle)
      return self
    },
  }
  return self
}
