/** Backups in SQLite files. A backup is one file. It has a temporary name until it is complete, and is only read afterwards. */
import { existsSync, renameSync, statSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import type { MigrateMode } from '../adapters/migrator.js'
import { openKeyStore } from '../adapters/open.js'
import { describeDriverError } from '../drivers/driver-error.js'
import { loadLibsqlForFiles, type OpenLibsqlFile } from '../drivers/libsql.js'
import { loadSqlite } from '../drivers/sqlite-open.js'
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
  const libsql = await loadLibsqlForFiles()
  // libsql lets go of a closed file some time later: so it never begins a write-ahead log, which nobody could leave meanwhile.
  const opened = await (libsql === null
    ? openClaimed(claimed)
    : openWithLibsql(libsql, partial, LEAVE_LOG, 'auto'))
  assertSameFile(claimed)
  return {
    store: opened.store,
    partial,
    close: () => opened.close(),
    async finish() {
      await opened.close()
      assertSameFile(claimed)
      if (libsql === null) await leaveWriteAheadLog(partial)
      assertSameFile(claimed)
      renameSync(partial, file)
      syncFolder(dirname(resolve(file)))
    },
  }
}

/** SQLite opens by name: checked again, the name has meant the same file. */
async function openClaimed(claimed: FileIdentity): Promise<OpenedBackup> {
  // openKeyStore cannot take an absolute path for a URL.
  const store = await openKeyStore(resolve(claimed.path))
  try {
    assertSameFile(claimed)
    return { store, close: () => store.close() }
  } catch (error) {
    await store.close()
    throw error
  }
}

/** Opens a store with libsql. Its connection has a pragma more, which is set before anything is read. */
async function openWithLibsql(
  open: OpenLibsqlFile,
  path: string,
  pragma: string,
  migrate: MigrateMode,
): Promise<OpenedBackup> {
  const { sqliteKeyStore } = await import('../adapters/sqlite/store.js')
  const client = await open(path, { mustExist: true })
  const store = sqliteKeyStore({ db: { $client: client } }, { migrate })
  const close = async () => {
    await store.close()
    client.close()
  }
  try {
    await client.execute({ sql: `pragma ${pragma}`, args: [] })
    await store.ready()
    return { store, close }
  } catch (error) {
    await close()
    throw error
  }
}

const LEAVE_LOG = 'journal_mode = DELETE'

/**
 * Takes a file out of WAL mode, so that reading it later makes no second and third file next to it. SQLite refuses while another process
 * has the file open: so it is not renamed while another process writes it.
 */
async function leaveWriteAheadLog(path: string): Promise<void> {
  const client = (await loadSqlite())(path, { mustExist: true })
  try {
    client.pragma('trusted_schema = OFF')
    client.pragma(LEAVE_LOG)
  } catch (error) {
    const reason = describeDriverError(error).code ?? 'unknown'
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
  const libsql = await loadLibsqlForFiles()
  const opening = libsql === null ? readOnly(file) : openWithLibsql(libsql, file, 'query_only = ON', 'check')
  return opening.catch((error) => {
    throw isKeystoreError(error) ? notRestorable(file, error) : error
  })
}

async function readOnly(file: string): Promise<OpenedBackup> {
  const { sqliteKeyStore } = await import('../adapters/sqlite/store.js')
  const { lacksOnlyRules } = await import('../adapters/sqlite/migrate.js')
  const client = (await loadSqlite())(file, { readonly: true })
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
    throw error
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
      ? `${file} was not changed. To bring it up to date work on a copy: npx keystore migrate --store COPY (with --adopt if an earlier ` +
        'implementation made it), then npx keystore restore COPY'
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
