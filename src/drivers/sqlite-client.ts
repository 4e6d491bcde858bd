/** The part of a better-sqlite3 connection that we use. Typed structurally: the host application may have another copy of its types. */
export interface SqliteClient {
  readonly inTransaction: boolean
  /** What was given to open it: a path, most often. */
  readonly name?: string
  prepare(source: string): SqliteStatement
  exec(source: string): unknown
  pragma(source: string, options?: { simple?: boolean }): unknown
  transaction<T>(work: () => T): { immediate(): T }
  close(): unknown
}

export interface SqliteStatement {
  /** Whether the statement returns rows. */
  readonly reader: boolean
  all(...params: unknown[]): unknown[]
  get(...params: unknown[]): unknown
  run(...params: unknown[]): { readonly changes: number }
  /** Makes rows arrays. */
  raw(): SqliteStatement
  /** Makes integers bigints, or with `false` numbers. */
  safeIntegers(toggle?: boolean): SqliteStatement
  iterate(...params: unknown[]): IterableIterator<unknown>
}
