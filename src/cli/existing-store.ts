/** Stores that must exist. After a mistyped name a command must neither make a store nor report that an empty one is in order. */
import { existsSync } from 'node:fs'
import { CALL_FINISH_ERASURE } from '../adapters/erasure.js'
import { lacksTable, OR_MIGRATE_AUTO, PendingMigrationsError } from '../adapters/migrator.js'
import type { OpenedKeyStore } from '../adapters/open.js'
import { serverOf } from '../drivers/url.js'
import { isKeystoreError, KeystoreError, quoted, StoreError, schemaError } from '../errors.js'
import { assertFilePath } from '../folders.js'
import { maintenanceOf } from '../lifecycle/long-work.js'
import { inThisRuntime, shellWord } from './command-line.js'
import { storeFile } from './git-ignore.js'
import { openStore } from './open-store.js'
import { type AdoptOptions, closeAfter, DEFAULT_STORE } from './options.js'

/** Opens a store that must exist, uses it and closes it. Migrates it only to adopt it. */
export async function withExistingStore<T>(
  options: AdoptOptions,
  use: (store: OpenedKeyStore) => Promise<T>,
): Promise<T> {
  return closeAfter(await openExistingStore(options), use)
}

export async function openExistingStore({
  store: url,
  adopt = false,
}: AdoptOptions): Promise<OpenedKeyStore> {
  assertStoreExists(url)
  try {
    return await openStore(url, adopt ? { adopt } : { migrate: 'check' })
  } catch (error) {
    if (!isKeystoreError(error) || error.code !== 'ERR_SCHEMA') throw error
    if (error instanceof PendingMigrationsError) throw lacksMigrations(url, error.tags)
    // The application's own migrations made the table, and it has no ledger of ours.
    const store = await openWithOwnMigrations(url)
    if (store === null) throw error
    return store
  }
}

/** @returns null if the table lacks columns, or there is none */
async function openWithOwnMigrations(url: string): Promise<OpenedKeyStore | null> {
  const store = await openStore(url, { migrate: 'off' })
  const findings = await maintenanceOf(store).inspect()
  if (findings.every(({ kind }) => kind !== 'schemaVersion')) return store
  await store.close()
  return null
}

/** @throws ERR_SCHEMA if there is no such file · ERR_INVALID_ARGUMENT if it is a folder */
export function assertStoreExists(url: string): void {
  assertNoFolder(url)
  const file = storeFile(url)
  if (file !== null && !existsSync(file)) throw new NoStoreError(url)
}

/** @throws ERR_INVALID_ARGUMENT */
export function assertNoFolder(url: string): void {
  const file = storeFile(url)
  if (file !== null) assertFilePath(file)
}

function lacksMigrations(url: string, tags: readonly string[]): Error {
  if (lacksTable(tags)) return new NoTableError(url)
  return schemaError(
    `${storeName(url)} lacks migrations (${tags.join(', ')}): \`npx keystore migrate${storeArgument(url)}\` applies them`,
  )
}

function noStoreAt(url: string): string {
  const other =
    url === DEFAULT_STORE
      ? '. If the application gives its own db, --store or KEYSTORE_URL names its database'
      : ''
  return `There is no store at ${storeName(url)}: \`npx keystore init${storeArgument(url)}\` makes one${other}`
}

/** There is no such file, or the database has no table of ours. */
export class NoStoreError extends StoreError {
  constructor(url: string) {
    super(noStoreAt(url), { code: 'ERR_SCHEMA' })
  }
}

/** The database is there, and has no table of ours. */
export class NoTableError extends NoStoreError {}

/** ERR_KEY_NOT_FOUND of a command that is given a user. @param rest what that means, and what to do */
export function noSuchUser(userId: string, rest: string): KeystoreError {
  const what = userId === '' ? 'key of the pool' : `user ${quoted(userId)}`
  return new KeystoreError('ERR_KEY_NOT_FOUND', `The store has no ${what}: ${rest}`)
}

/** ERR_KEY_NOT_FOUND of a command that is given a tenant. @param rest what that means, and what to do */
export function noSuchTenant(tenantId: string, rest: string): KeystoreError {
  return new KeystoreError(
    'ERR_KEY_NOT_FOUND',
    `The store has no tenant ${quoted(tenantId)}: ${rest}. \`npx keystore tenants\` lists those that there are`,
  )
}

/** A store in a sentence, without user and password. */
export function storeName(url: string): string {
  return storeFile(url) ?? serverOf(url) ?? 'the given URL'
}

/** The option that names the store in a command to type. A URL of Postgres is left out, because it may hold a password. */
function storeArgument(url: string): string {
  if (url === DEFAULT_STORE) return ''
  const file = storeFile(url)
  return file === null ? '' : ` --store ${shellWord(file)}`
}

/** A message of the library without the advice that only an application can follow, and with the command as this runtime calls it. */
export function withoutLibraryAdvice(message: string): string {
  return inThisRuntime(message.replaceAll(OR_MIGRATE_AUTO, '').replaceAll(CALL_FINISH_ERASURE, ''))
}
