/** SQLite files as backups: one file each, written under another name until it is whole, and only read afterwards. */
import { existsSync, renameSync, statSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { openKeyStore } from '../adapters/open.js'
import { invalidArgument, isKeystoreError, type KeystoreError, StoreError } from '../errors.js'
import type { KeyStore } from '../store.js'
import { syncFolder } from '../sync-folder.js'

/** A file as a store. */
export interface OpenedBackup {
  readonly store: KeyStore
  close(): Promise<void>
}

export interface StartedBackup extends OpenedBackup {
  /** What the file is called until it is whole. */
  readonly partial: string
  /** Makes it one file of the final name. */
  finish(): Promise<void>
}

/** Begins a backup, or goes on with one that was interrupted. */
export async function startBackup(file: string): Promise<StartedBackup> {
  assertPath(file)
  if (existsSync(file))
    throw new Error(`${file} is there already, and no backup is ever overwritten: choose another name`)
  const partial = `${file}.partial`
  // An absolute path cannot be taken for a URL.
  const store = await openKeyStore(resolve(partial))
  return {
    store,
    partial,
    close: () => store.close(),
    async finish() {
      await store.close()
      await leaveWriteAheadLog(partial)
      renameSync(partial, file)
      syncFolder(dirname(resolve(file)))
    },
  }
}

/**
 * A file in WAL mode cannot be read without making two more beside it. The switch fails while another process has the file open, so that
 * nobody's file is renamed under them.
 */
async function leaveWriteAheadLog(path: string): Promise<void> {
  const { default: Database } = await import('better-sqlite3')
  const client = new Database(path, { fileMustExist: true })
  try {
    client.pragma('journal_mode = DELETE')
  } catch (error) {
    const reason = error instanceof Error && 'code' in error ? String(error.code) : 'unknown'
    throw new StoreError(
      `${path} could not be finished (${reason}): does another process write the same backup? Run this again`,
    )
  } finally {
    client.close()
  }
}

/** Opens a file through a connection that cannot write: not even its journal mode changes. */
export async function openBackup(file: string): Promise<OpenedBackup> {
  assertPath(file)
  if (!statSync(file, { throwIfNoEntry: false })?.isFile()) throw new Error(`There is no file ${file}`)
  const { default: Database } = await import('better-sqlite3')
  const { sqliteKeyStore } = await import('../adapters/sqlite/store.js')
  const client = new Database(file, { readonly: true })
  const store = sqliteKeyStore({ db: { $client: client } }, { migrate: 'check' })
  try {
    await store.ready()
  } catch (error) {
    client.close()
    throw isKeystoreError(error) ? cannotRestore(file, error) : error
  }
  return {
    store,
    async close() {
      await store.close()
      client.close()
    },
  }
}

function cannotRestore(file: string, { code, message }: KeystoreError): StoreError {
  const todo =
    code === 'ERR_SCHEMA'
      ? `${file} was not changed. To bring it up to date work on a copy: keystore migrate --store COPY (with --adopt for a file of the ` +
        'Python reference), then keystore restore COPY'
      : 'Is it a file that `keystore backup` made?'
  return new StoreError(`${file} cannot be restored from. ${message}. ${todo}`, {
    code: code === 'ERR_SCHEMA' ? code : 'ERR_STORE',
  })
}

function assertPath(file: string): void {
  // The name may be a URL with a password, and shown in messages.
  if (/^[a-z][a-z0-9+.-]+:/i.test(file)) throw invalidArgument('FILE must be a path, not a URL')
}
