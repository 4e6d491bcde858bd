/** How `init` and `quickstart` open a store that may be there already, and make a store and a master key if they are not. */
import { existsSync } from 'node:fs'
import type { MigrationReport } from '../adapters/migrator.js'
import type { OpenedKeyStore } from '../adapters/open.js'
import { isKeystoreError, MasterKeyError, printable, serviceDetails } from '../errors.js'
import { eventEmitter } from '../events.js'
import { refuseOlderCopy } from '../key-log/older-copy.js'
import { checkMasterKeys } from '../master-keys/check.js'
import { isOutage, reasonOf } from '../master-keys/failure.js'
import { tryWrapping } from '../master-keys/first-wrap.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import { isLocal } from '../master-keys/local.js'
import type { KeyStore } from '../store.js'
import { assertNoFolder, storeName } from './existing-store.js'
import { storeFile } from './git-ignore.js'
import {
  assertKeyCanBeMade,
  type FoundMasterKeys,
  type MasterKeyOptions,
  MissingKeyFileError,
  makeMasterKeys,
  masterKeysOrNull,
  namedKeyFile,
} from './master-keys.js'
import { openStore } from './open-store.js'
import { type AdoptOptions, closeAfter, type KeyLogOptions } from './options.js'
import { assertCanBeMade } from './writable-folder.js'

type MadeStoreOptions = AdoptOptions & MasterKeyOptions & KeyLogOptions

/** A store that is open, and the master key that opens what is in it. */
export interface MadeStore extends FoundMasterKeys {
  readonly store: OpenedKeyStore
  readonly migration: MigrationReport
}

/**
 * Opens or makes a store, and finds or makes a master key. If the store has keys that the master key does not open, it refuses and
 * writes nothing: a new master key, or another one, would look right until the first old token is read.
 *
 * @throws ERR_UNKNOWN_MASTER_KEY · ERR_KEYS_LOST · ERR_MASTER_KEY · ERR_SCHEMA · ERR_STORE · ERR_INVALID_ARGUMENT
 */
export async function openOrMakeStore(options: MadeStoreOptions): Promise<MadeStore> {
  const { store: url, adopt = false, keyLog } = options
  assertNoFolder(url)
  const found = masterKeysOrNull(options)
  if (adopt && found === null && existsSync(storeFile(url) ?? '')) throw noMasterKey(options, [])
  const denied = found === null ? null : await refuseUnchecked(found.masterKeys)
  const isThere = await checkExisting(options, found?.masterKeys ?? null)
  // Nothing can be read with it either.
  if (denied !== null && !isThere) throw denied
  assertStoreCanBeMade(url)
  if (found === null) assertKeyCanBeMade(options)
  const store = await openStore(url, adopt ? { adopt } : {})
  try {
    // Where keys are lost, the right master key is somewhere else.
    if (keyLog !== undefined) await refuseOlderCopy(store, keyLog, emit)
    // Once more: a table that has just been migrated or adopted could not be read before.
    await refuseOtherMasterKeys(options, store, found?.masterKeys ?? null)
    return { store, migration: await store.ready(), ...(found ?? makeMasterKeys(options)) }
  } catch (error) {
    await store.close()
    throw error
  }
}

function assertStoreCanBeMade(url: string): void {
  const file = storeFile(url)
  if (file !== null) assertCanBeMade(file, '--store or KEYSTORE_URL')
}

const emit = eventEmitter({})

/**
 * `open` goes on without a master key that gives no answer, since it is an application's that has worked before. Here nobody has seen the key
 * work yet: a mistyped name looks like an outage, and would be found by the first user.
 *
 * @returns the error of a key that may not wrap: it may still open what is stored, which the check of the store shows; null if it works
 * @throws ERR_MASTER_KEY
 */
async function refuseUnchecked({ primary }: MasterKeyring): Promise<MasterKeyError | null> {
  if (isLocal(primary)) return null
  const failed = await tryWrapping(primary)
  if (failed === null) return null
  if (reasonOf(failed.error) === 'denied') return failed.error
  if (!isOutage(failed.error)) throw failed.error
  const { reason, retryable, message } = failed.error
  throw new MasterKeyError(
    'ERR_MASTER_KEY',
    `${message.replace(/[.?]$/, '')}. The master key gave no answer, so that nothing was checked, and nothing was made. See that its name is right, and ` +
      'that it can be reached from here. Where it cannot, the application makes a store itself when it opens one',
    { ...serviceDetails(failed.error), ...(reason && { reason }), retryable },
  )
}

/** Checks the keys of a store that needs no migration, before anything is written. @returns false if there is none */
async function checkExisting(options: MadeStoreOptions, masterKeys: MasterKeyring | null): Promise<boolean> {
  let store: OpenedKeyStore
  try {
    store = await openStore(options.store, { migrate: 'check' })
  } catch (error) {
    if (isKeystoreError(error) && error.code === 'ERR_SCHEMA') return false
    throw error
  }
  await closeAfter(store, () => refuseOtherMasterKeys(options, store, masterKeys))
  return true
}

/** @throws ERR_UNKNOWN_MASTER_KEY */
async function refuseOtherMasterKeys(
  options: MadeStoreOptions,
  store: KeyStore,
  masterKeys: MasterKeyring | null,
): Promise<void> {
  // Whether the application accepts format v2 is its own decision: here the question is whether the key is the right one.
  if (masterKeys !== null)
    return checkMasterKeys(store, masterKeys, {
      acceptKeys: ['v2', 'v3'],
      allowUnknown: false,
      mints: true,
      // What is made here would be made again, and nobody waits for a service to start.
      wholly: true,
      emit,
    })
  const samples = await store.sampleByKek(1)
  // Of tenants there are no samples: a store may have nothing else.
  if (samples.length === 0) samples.push(...(await store.list({ limit: 1, notKekId: '' })))
  if (samples.length > 0)
    throw noMasterKey(
      options,
      samples.map(({ kekId }) => kekId),
    )
}

function noMasterKey(options: MadeStoreOptions, kekIds: readonly (string | null)[]): MasterKeyError {
  const shown = kekIds.filter((kekId) => kekId !== null).map((kekId) => printable(kekId))
  const under = shown.length === 0 ? '' : ` under ${shown.join(', ')}`
  const has = `${storeName(options.store)} has keys already${under}`
  const named = namedKeyFile(options)
  return named === null
    ? new MasterKeyError(
        'ERR_UNKNOWN_MASTER_KEY',
        `${has}, and no master key was given. A new one could not open them, so none was made`,
      )
    : new MissingKeyFileError(
        `${has}, and ${named.path}, which ${named.by} names, is not there. A new master key could not open them, so none was made`,
      )
}
