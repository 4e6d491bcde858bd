/** Asynchronous SQLite drivers, libsql and D1, behind one interface. Typed structurally, and recognised by their methods. Imports no driver. */

/** A statement and the values of its parameters. */
export interface BoundStatement {
  readonly sql: string
  readonly params: readonly unknown[]
}

export interface StatementResult {
  /** Each row as an array, bytes as a Buffer, integers as numbers where these are exact. */
  readonly rows: readonly (readonly unknown[])[]
  /** How many rows it inserted, changed or removed. */
  readonly changes: number
}

/** A database that takes statements, and no interactive transactions. */
export interface AsyncSqlite {
  readonly kind: 'libsql' | 'd1'
  /** Where the data is: in a file of this machine, in this process's memory, or on a server, whose files we cannot reach. */
  readonly place: 'file' | 'memory' | 'server'
  /** Runs one statement. */
  run(statement: BoundStatement): Promise<StatementResult>
  /** Runs statements in their order in one transaction: all of them, or none. */
  batch(statements: readonly BoundStatement[]): Promise<readonly StatementResult[]>
  close(): void
}

/** `Client` of @libsql/client, as far as we use it. */
export interface LibsqlClient {
  readonly protocol: string
  execute(statement: { sql: string; args: never[] }): Promise<LibsqlResult>
  batch(statements: { sql: string; args: never[] }[], mode: 'write'): Promise<LibsqlResult[]>
  close(): void
}

interface LibsqlResult {
  readonly rows: readonly ArrayLike<unknown>[]
  readonly columns: readonly string[]
  readonly rowsAffected: number
}

/** `D1Database` of Cloudflare Workers, as far as we use it. */
export interface D1Client {
  prepare(sql: string): D1Statement
  batch(statements: never[]): Promise<unknown[]>
}

interface D1Statement {
  bind(...params: unknown[]): unknown
}

interface D1Result {
  readonly results: readonly Readonly<Record<string, unknown>>[]
  readonly meta: { readonly changes?: number }
}

export type AsyncSqliteClient = LibsqlClient | D1Client

/** @returns null for the client of another driver */
export function asyncSqlite(client: unknown): AsyncSqlite | null {
  if (isLibsql(client)) return onLibsql(client)
  return isD1(client) ? onD1(client) : null
}

function isLibsql(client: unknown): client is LibsqlClient {
  return has(client, 'execute', 'batch', 'executeMultiple', 'transaction') && 'protocol' in client
}

function isD1(client: unknown): client is D1Client {
  return has(client, 'prepare', 'batch', 'exec') && !('pragma' in client) && !('inTransaction' in client)
}

function has(client: unknown, ...methods: readonly string[]): client is object {
  return (
    typeof client === 'object' &&
    client !== null &&
    methods.every((name) => typeof Reflect.get(client, name) === 'function')
  )
}

/** @param place where the data is; the client itself does not tell a database in memory from a file */
export function onLibsql(
  client: LibsqlClient,
  place: AsyncSqlite['place'] = client.protocol === 'file' ? 'file' : 'server',
): AsyncSqlite {
  const given = ({ sql, params }: BoundStatement) => ({ sql, args: params as never[] })
  const resultOf = ({ rows, columns, rowsAffected }: LibsqlResult): StatementResult => ({
    // A row is array-like: it has its columns by index, and by name.
    rows: rows.map((row) => columns.map((_, index) => plain(row[index]))),
    changes: rowsAffected,
  })
  return {
    kind: 'libsql',
    place,
    run: async (statement) => resultOf(await client.execute(given(statement))),
    // BEGIN IMMEDIATE: a transaction that reads first could not get the lock later (sqlite.org/lang_transaction.html).
    batch: async (statements) => (await client.batch(statements.map(given), 'write')).map(resultOf),
    close: () => client.close(),
  }
}

function onD1(client: D1Client): AsyncSqlite {
  const batch = async (statements: readonly BoundStatement[]): Promise<StatementResult[]> => {
    const bound = statements.map(({ sql, params }) => client.prepare(sql).bind(...params))
    const results = (await client.batch(bound as never[])) as D1Result[]
    return results.map(({ results, meta }) => ({
      // D1 has objects only; the columns of our statements have names of their own.
      rows: results.map((row) => Object.values(row).map(plain)),
      changes: meta.changes ?? 0,
    }))
  }
  return {
    kind: 'd1',
    place: 'server',
    async run(statement) {
      const [result] = await batch([statement])
      return result as StatementResult
    },
    batch,
    close: () => undefined,
  }
}

/** libsql gives bytes as an ArrayBuffer, D1 as an array of numbers. As a Buffer columns of Drizzle can decode them. */
function plain(value: unknown): unknown {
  if (value instanceof ArrayBuffer) return Buffer.from(value)
  if (Array.isArray(value)) return Buffer.from(Uint8Array.from(value).buffer)
  if (typeof value !== 'bigint') return value
  return Number.isSafeInteger(Number(value)) ? Number(value) : value
}
