/** What is used of a better-sqlite3 connection, structurally: the host may have another copy of its types. */
export interface SqliteClient {
  readonly inTransaction: boolean
  prepare(source: string): SqliteStatement
  exec(source: string): unknown
  pragma(source: string, options?: { simple?: boolean }): unknown
  transaction<T>(work: () => T): { immediate(): T }
  close(): unknown
}

export interface SqliteStatement {
  /** Whether it returns rows. */
  readonly reader: boolean
  all(...params: unknown[]): unknown[]
  get(...params: unknown[]): unknown
  run(...params: unknown[]): { readonly changes: number }
  /** Rows as arrays. */
  raw(): SqliteStatement
  /** Integers as bigints, or with false as numbers. */
  safeIntegers(toggle?: boolean): SqliteStatement
  iterate(...params: unknown[]): IterableIterator<unknown>
}
