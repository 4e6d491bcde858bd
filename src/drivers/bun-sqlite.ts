/** A connection of bun:sqlite behind the methods of better-sqlite3. */
import type { SqliteClient, SqliteStatement } from './sqlite-client.js'
import { immediateTransaction, pragmaValue } from './sqlite-methods.js'

/** `Database` of bun:sqlite, as far as we use it. */
export interface BunSqlite {
  readonly inTransaction: boolean
  prepare(source: string): BunStatement
  exec(source: string): unknown
  fileControl(op: number, value?: never): unknown
  close(): void
}

interface BunStatement {
  readonly columnNames: readonly string[]
  all(...params: never[]): unknown[]
  get(...params: never[]): unknown
  run(...params: never[]): { readonly changes: number }
  values(...params: never[]): unknown[]
}

/** Newer than the types of some versions. */
interface BunStatementIntegers {
  safeIntegers(toggle: boolean): unknown
  iterate(...params: never[]): Iterable<Readonly<Record<string, unknown>>>
}

/** @returns null for the client of another driver */
export function onBunSqlite(client: object): SqliteClient | null {
  if (!isBunSqlite(client)) return null
  const self: SqliteClient = {
    get inTransaction() {
      return client.inTransaction
    },
    prepare: (source) => statementOn(client.prepare(source)),
    exec: (source) => client.exec(source),
    pragma: (source, options) => pragmaValue(client.prepare(`pragma ${source}`).all(), options),
    transaction: (work) => immediateTransaction(self, work),
    close: () => client.close(),
  }
  return self
}

function isBunSqlite(client: object): client is BunSqlite {
  return ['prepare', 'exec', 'fileControl', 'inTransaction', 'close'].every((name) => name in client)
}

function statementOn(statement: BunStatement): SqliteStatement {
  const integers = statement as BunStatement & BunStatementIntegers
  const names = statement.columnNames
  let isRaw = false
  const self: SqliteStatement = {
    reader: names.length > 0,
    all: (...params) =>
      isRaw ? statement.values(...(params as never[])) : statement.all(...(params as never[])),
    // Without a row it gives null.
    get: (...params) => statement.get(...(params as never[])) ?? undefined,
    run: (...params) => statement.run(...(params as never[])),
    *iterate(...params) {
      for (const row of integers.iterate(...(params as never[]))) {
        yield isRaw ? names.map((name) => row[name]) : row
      }
    },
    raw() {
      isRaw = true
      return self
    },
    safeIntegers(toggle = true) {
      integers.safeIntegers(toggle)
      return self
    },
  }
  return self
}
