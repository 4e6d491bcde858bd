/** The file of a store: makes it, and chooses its journal mode, which is kept in the file's header. */
import { closeSync, existsSync, openSync, statSync } from 'node:fs'
import { dirname, isAbsolute, resolve } from 'node:path'
import { invalidArgument, StoreError, schemaError } from '../../errors.js'
import { makeFolders } from '../../folders.js'
import type { MigrateMode } from '../migrator.js'

/**
 * What opening a file does about its journal mode, which stays set in the file.
 *
 * - `wal`: switches it to a write-ahead log
 * - `keep`: leaves it as it is. Only a file that opening makes has a write-ahead log
 */
export type JournalMode = 'wal' | 'keep'

/** @throws ERR_INVALID_ARGUMENT unless one of the two, or undefined */
export function assertJournalMode(mode: unknown): void {
  if (mode !== undefined && mode !== 'wal' && mode !== 'keep')
    throw invalidArgument("journalMode must be 'wal' or 'keep'")
}

export function isInMemory(path: string): boolean {
  return path === ':memory:'
}

/** Whether there is no database in the file yet. */
export function isNewFile(path: string): boolean {
  return !isInMemory(path) && (statSync(path, { throwIfNoEntry: false })?.size ?? 0) === 0
}

/** A mistyped path is the likelier cause: in a new store every user would get a second key. */
function missingFile(path: string): Error {
  const where = isAbsolute(path) ? '' : `, which is ${resolve(path)} from where this process runs`
  return schemaError(
    `There is no file ${path}${where}: is the path right? To make a first store: \`npx keystore init\`, or migrate: 'auto'`,
  )
}

/** Makes a missing file in mode `auto`. @throws ERR_SCHEMA in any other */
export function prepareFile(path: string, mode: MigrateMode): void {
  if (existsSync(path)) return
  if (mode !== 'auto') throw missingFile(path)
  makeFolders(dirname(path))
  // For its owner alone. SQLite gives the write-ahead log the same mode.
  closeSync(openSync(path, 'a', 0o600))
}

/** @param mode what `pragma journal_mode = WAL` has returned @throws ERR_STORE */
export function assertLogged(path: string, mode: unknown): void {
  if (mode !== 'wal' && !isInMemory(path)) {
    throw new StoreError(
      `${path} cannot be switched to a write-ahead log (journal mode ${mode}): use a local disk`,
    )
  }
}
