/** Opens SQLite files of ours, with whichever synchronous driver there is. */
import { existsSync } from 'node:fs'
import { assertBetterSqlite3Runs } from './better-sqlite3.js'
import type { SqliteClient } from './sqlite-client.js'
import { syncSqlite } from './sync-sqlite.js'
import { DriverMissingError, driverMissing } from './url.js'

interface OpenOptions {
  /** For reading only. Then the file must exist. */
  readonly readonly?: boolean
  /** Whether a missing file is an error. Otherwise it is made. */
  readonly mustExist?: boolean
}

/** Opens a connection that does not wait for locks. @throws the driver's errors */
export type OpenSqlite = (path: string, options?: OpenOptions) => SqliteClient

/**
 * Loads bun:sqlite in Bun, node:sqlite in Deno, and better-sqlite3 in Node.js, where node:sqlite takes its place if it is not installed.
 *
 * @throws ERR_STORE if there is none
 */
export async function loadSqlite(): Promise<OpenSqlite> {
  const open = await loadSqliteOrNull()
  if (open === null)
    throw noSqliteDriver(
      'With @libsql/client openKeyStore opens the file, and sqliteKeyStore takes its drizzle db ({ db })',
    )
  return open
}

/** What to throw where no driver can open a file. @param others what else to do about it */
export function noSqliteDriver(others: string): DriverMissingError {
  return new DriverMissingError(
    'This needs the package better-sqlite3, which is not installed: npm install better-sqlite3, or use Node.js 22.16 or newer, which has a ' +
      `SQLite of its own. ${others}`,
  )
}

/** Whether a file can be opened without libsql. True also if a driver is there and does not run: opening the file says why. */
export async function hasSqlite(): Promise<boolean> {
  return loadSqliteOrNull().then(
    (open) => open !== null,
    () => true,
  )
}

/** @returns null if there is none @throws what a driver throws that is there and does not run */
async function loadSqliteOrNull(): Promise<OpenSqlite | null> {
  if (process.versions.bun !== undefined) return loadBunSqlite()
  if (process.versions.deno !== undefined) return loadNodeSqlite()
  try {
    // Inside of "try", so that bundlers take it for optional and leave it alone where it is not installed. webpack leaves it alone anyway: a
    // native module cannot be bundled.
    const { default: Database } = await import(/* webpackIgnore: true */ 'better-sqlite3')
    assertBetterSqlite3Runs()
    return (path, { readonly = false, mustExist = readonly } = {}) =>
      new Database(path, { readonly, fileMustExist: mustExist, timeout: 0 })
  } catch (error) {
    const missing = driverMissing('better-sqlite3', error)
    if (missing === error) throw error
    return loadNodeSqliteOrNull()
  }
}

/** @returns null on Node.js 20, which has none, and before 22.16, whose own lacks what is needed */
async function loadNodeSqliteOrNull(): Promise<OpenSqlite | null> {
  try {
    const open = await loadNodeSqlite()
    open(':memory:').close()
    return open
  } catch {
    return null
  }
}

async function loadNodeSqlite(): Promise<OpenSqlite> {
  const { DatabaseSync } = await import('node:sqlite')
  return (path, { readonly = false, mustExist = readonly } = {}) => {
    if (mustExist) assertExists(path)
    return clientOn(new DatabaseSync(path, { readOnly: readonly, timeout: 0 }))
  }
}

async function loadBunSqlite(): Promise<OpenSqlite> {
  try {
    // webpack knows no such scheme, inside of "try" either.
    const { Database } = await import(/* webpackIgnore: true */ 'bun:sqlite')
    return (path, { readonly = false, mustExist = readonly } = {}) => {
      if (mustExist) assertExists(path)
      return clientOn(new Database(path, readonly ? { readonly } : { create: true, readwrite: true }))
    }
  } catch (error) {
    throw driverMissing('bun:sqlite', error)
  }
}

/** For drivers that would make the file. @throws an error with the code SQLITE_CANTOPEN */
export function assertExists(path: string): void {
  if (!existsSync(path))
    throw Object.assign(new Error('unable to open database file'), { code: 'SQLITE_CANTOPEN' })
}

function clientOn(connection: object): SqliteClient {
  const client = syncSqlite(connection)
  if (client === null) throw new Error('SQLITE_MISUSE')
  return client
}
