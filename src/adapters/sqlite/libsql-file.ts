/** A store on a file that libsql opens for us, where no synchronous driver is installed. */
import { onLibsql } from '../../drivers/async-sqlite.js'
import { storeError } from '../../drivers/driver-error.js'
import type { OpenLibsqlFile } from '../../drivers/libsql.js'
import { invalidArgument } from '../../errors.js'
import { assertFilePath } from '../../folders.js'
import type { SqliteKeyStoreOptions } from '../options.js'
import { AsyncSqliteKeyStore } from './async-store.js'
import { assertSqlitePath } from './connection.js'
import { assertJournalMode, assertLogged, isInMemory, isNewFile, prepareFile } from './store-file.js'

/** @throws ERR_INVALID_ARGUMENT, also for options that libsql has no way to keep · ERR_SCHEMA · ERR_STORE */
export async function openLibsqlStore(
  open: OpenLibsqlFile,
  path: string,
  { journalMode = 'wal', adopt, pollMs, ...options }: SqliteKeyStoreOptions,
): Promise<AsyncSqliteKeyStore> {
  assertSqlitePath(path)
  assertFilePath(path)
  assertJournalMode(journalMode)
  if (adopt === true) throw invalidArgument(`adopt ${NEEDS_ANOTHER}`)
  if (pollMs !== undefined) throw invalidArgument(`pollMs ${NEEDS_ANOTHER}`)
  const isNew = isNewFile(path)
  if (!isInMemory(path)) prepareFile(path, options.migrate ?? 'auto')
  try {
    const client = await open(path)
    const db = onLibsql(client, isInMemory(path) ? 'memory' : undefined)
    // The store closes the client from here on.
    const store = new AsyncSqliteKeyStore(db, options, true)
    try {
      if (!isInMemory(path) && (isNew || journalMode === 'wal')) {
        const { rows } = await db.run({ sql: 'pragma journal_mode = WAL', params: [] })
        assertLogged(path, rows[0]?.[0])
      }
      return store
    } catch (error) {
      await store.close()
      throw error
    }
  } catch (error) {
    throw storeError(`open ${path}`, error)
  }
}

const NEEDS_ANOTHER =
  'is for files that better-sqlite3 opens, and only @libsql/client is installed: npm install better-sqlite3'
