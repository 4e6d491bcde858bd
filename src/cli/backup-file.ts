/** Backups in SQLite files. A backup is one file. It has a temporary name until it is complete, and is only read afterwards. */
import { existsSync, renameSync, statSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { openKeyStore } from '../adapters/open.js'
import { invalidArgument, isKeystoreError, type KeystoreError, StoreError } from '../errors.js'
import { assertFilePath, makeFolders } from '../folders.js'
import type { KeyStore } from '../store.js'
import { syncFolder } from '../sync-folder.js'
import { keepOutOfGit } from './git-ignore.js'
import { assertOwnIfPresent, assertSameFile, claimFile, type FileIdentity } from './own-file.js'

/** A backup file, opened as a key store. */
interface OpenedBackup {
  readonly store: KeyStore
  close(): Promise<void>
}

interface StartedBackup extends OpenedBackup {
  /** The temporary name. */
  readonly partial: string
  /** Closes the file and gives it its final name. */
  finish(): Promise<void>
}

/** Begins a backup, or continues one that was interrupted. */
export async function startBackup(file: string): Promise<StartedBackup> {
  assertPath(file)
  if (existsSync(file))
    throw new Error(`${file} is there already, and no backup is ever overwritten: choose another name`)
  const partial = `${file}.partial`
  makeFolders(dirname(partial))
  const claimed = claimFile(partial)
  keepOutOfGit(file)
  // SQLite would believe a planted log or journal as it believes the file itself.
  for (const name of ['-wal', '-shm', '-journal']) assertOwnIfPresent(`${partial}${name}`)
  const store = await openClaimed(claimed)
  return {
    store,
    partial,
    close: () => store.close(),
    async finish() {
      await store.close()
      assertSameFile(claimed)
      await leaveWriteAheadLog(partial)
      assertSameFile(claimed)
      renameSync(partial, file)
      syncFolder(dirname(resolve(file)))
    },
  }
}

/** SQLite opens by name: checked again, the name has meant the same file. */
async function openClaimed(claimed: FileIdentity): Promise<KeyStore> {
  // openKeyStore cannot take an absolute path for a URL.
  const store = await openKeyStore(resolve(claimed.path))
  try {
    assertSameFile(claimed)
    return store
  } catch (error) {
    await store.close()
    throw error
  }
}

/**
 * Takes a file out of WAL mode, so that reading it later makes no second and third file next to it. SQLite refuses while another process
 * has the file open: so it is not renamed while another process writes it.
 */
async function leaveWriteAheadLog(path: string): Promise<void> {
  const { default: Database } = await import('better-sqlite3')
  const client = new Database(path, { fileMustExist: true })
  try {
    client.pragma('trusted_schema = OFF')
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

/** Opens a backup on a connection that cannot write. Not even the file's journal mode changes. */
export async function openBackup(file: string): Promise<OpenedBackup> {
  assertPath(file)
  if (!statSync(file, { throwIfNoEntry: false })?.isFile()) throw new Error(`There is no file ${file}`)
  const { default: Database } = await import('better-sqlite3')
  const { sqliteKeyStore } = await import('../adapters/sqlite/store.js')
  const { lacksOnlyRules } = await import('../adapters/sqlite/migrate.js')
  const client = new Database(file, { readonly: true })
  // A file from elsewhere may have a schema that calls functions: https://www.sqlite.org/security.html
  client.pragma('trusted_schema = OFF')
  let store = sqliteKeyStore({ db: { $client: client } }, { migrate: 'check' })
  try {
    await store.ready().catch((error) => {
      // A backup from before a migration that only adds rules for new rows has all that is read.
      if (!isKeystoreError(error) || error.code !== 'ERR_SCHEMA' || !lacksOnlyRules(client)) throw error
      store = sqliteKeyStore({ db: { $client: client } }, { migrate: 'off' })
      return store.ready()
    })
  } catch (error) {
    client.close()
    throw isKeystoreError(error) ? notRestorable(file, error) : error
  }
  return {
    store,
    async close() {
      await store.close()
      client.close()
    },
  }
}

function notRestorable(file: string, { code, message }: KeystoreError): StoreError {
  const advice =
    code === 'ERR_SCHEMA'
      ? `${file} was not changed. To bring it up to date work on a copy: npx keystore migrate --store COPY (with --adopt for a file of the ` +
        'Python reference), then npx keystore restore COPY'
      : 'Is it a file that `npx keystore backup` made?'
  return new StoreError(`${file} cannot be restored from. ${message}. ${advice}`, {
    code: code === 'ERR_SCHEMA' ? code : 'ERR_STORE',
  })
}

function assertPath(file: string): void {
  // A URL may hold a password, and messages show the name.
  if (/^[a-z][a-z0-9+.-]+:/i.test(file)) throw invalidArgument('FILE must be a path, not a URL')
  assertFilePath(file, 'the backup', 'keystore.db')
}
