/** Connects to a server of libsql, and opens files with it where no synchronous driver is installed. Nothing else imports its client. */
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { LibsqlClient } from './async-sqlite.js'
import { storeError } from './driver-error.js'
import { assertExists, hasSqlite, noSqliteDriver } from './sqlite-open.js'
import { DriverMissingError, driverMissing } from './url.js'

/** @param url `libsql://…`, with its token as `?authToken=…` @throws ERR_STORE */
export async function openLibsql(url: string): Promise<LibsqlClient> {
  const { createClient } = await loadLibsql()
  try {
    return createClient({ url })
  } catch (error) {
    throw storeError('connect to the libsql server', error)
  }
}

/** Opens a file, or `:memory:`, with libsql. @throws the driver's errors */
export type OpenLibsqlFile = (
  path: string,
  options?: { readonly mustExist?: boolean },
) => Promise<LibsqlClient>

/**
 * Loads libsql to open files with, if there is no synchronous driver.
 *
 * @returns null if there is one, which does more: it tells of changes, and finishes erasures at once
 * @throws ERR_STORE, which names all choices, if there is no driver at all
 */
export async function loadLibsqlForFiles(): Promise<OpenLibsqlFile | null> {
  if (await hasSqlite()) return null
  const { createClient } = await loadLibsql().catch((error) => {
    throw error instanceof DriverMissingError ? noSqliteDriver('Or: npm install @libsql/client') : error
  })
  return async (path, { mustExist = false } = {}) => {
    if (mustExist) assertExists(path)
    const client = createClient({ url: path === ':memory:' ? path : pathToFileURL(resolve(path)).href })
    try {
      for (const pragma of CONNECTION_PRAGMAS) await client.execute(`pragma ${pragma}`)
      return client
    } catch (error) {
      client.close()
      throw error
    }
  }
}

/** Those of a connection of ours on any driver. Its own waiting for locks would block the process. */
const CONNECTION_PRAGMAS = [
  'trusted_schema = OFF',
  'secure_delete = ON',
  'synchronous = FULL',
  'wal_autocheckpoint = 4000',
  'busy_timeout = 0',
]

async function loadLibsql() {
  try {
    // Inside of "try", so that bundlers take it for optional and leave it alone where it is not installed.
    return await import('@libsql/client')
  } catch (error) {
    throw driverMissing('@libsql/client', error)
  }
}
