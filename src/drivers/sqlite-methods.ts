/** Methods of better-sqlite3 that other synchronous drivers lack. */

interface Connection {
  readonly inTransaction: boolean
  exec(source: string): unknown
}

/** What better-sqlite3's `pragma` returns. @param rows of the pragma, as objects */
export function pragmaValue(
  rows: readonly unknown[],
  { simple = false }: { simple?: boolean } = {},
): unknown {
  return simple ? Object.values(rows[0] ?? {})[0] : rows
}

/** Runs work in BEGIN IMMEDIATE, and rolls back what it throws. */
export function immediateTransaction<T>(connection: Connection, work: () => T): { immediate(): T } {
  return {
    immediate() {
      connection.exec('begin immediate')
      try {
        const result = work()
        connection.exec('commit')
        return result
      } catch (error) {
        // Some errors have rolled back already.
        if (connection.inTransaction) connection.exec('rollback')
        throw error
      }
    },
  }
}
