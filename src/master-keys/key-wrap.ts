/** Data keys in rows: which master key and which format a row's wrapped key has, and what it is bound to. */

import {
  describeUser,
  invalidArgument,
  isKeystoreError,
  KeystoreError,
  MasterKeyError,
  printable,
  serviceDetails,
} from '../errors.js'
import { generateKey, KEY_BYTES } from '../format/aead.js'
import { isV3Wrap } from '../format/core.js'
import { preAuthEncode } from '../format/encoding.js'
import type { Format } from '../format/formats.js'
import { type KeyRecord, type KeyRef, tenantIdOf } from '../table.js'
import type { MasterKeyring } from './keyring.js'
import { isLocal, isV2Wrap, type LocalMasterKey } from './local.js'
import type { KeyOwner, MasterKey } from './master-key.js'
import { unwrapByService, wrapByService } from './service-calls.js'
import { TenantKey, unknownMasterKey } from './tenant-keys.js'

const WRAP_LABEL = 'drizzle-keystore/wrap/v3'

/** A wrapped data key as a row carries it. */
type Wrapped = Pick<KeyRecord, 'encryptedKey' | 'kekId'>

/**
 * Wraps a data key, or a tenant's. Returns no promise unless a key service has to be asked.
 *
 * @param kek default the keyring's primary. Format v2 has no other: it does not bind a key to its row
 * @throws MasterKeyError · ERR_INVALID_ARGUMENT (format v2 with a key that is no local one)
 */
export function wrapDataKey(
  keyring: MasterKeyring,
  ref: KeyRef,
  dataKey: Uint8Array,
  format: Format,
  kek: MasterKey = keyring.primary,
): Wrapped | Promise<Wrapped> {
  if (format === 'v2') {
    const kekId = primaryKekId(keyring, format)
    if (kek !== keyring.primary) throw invalidArgument("format 'v2' wraps under the primary only")
    return { encryptedKey: requireLocal(keyring).wrapV2(dataKey), kekId }
  }
  const { id } = kek
  if (isLocal(kek) || kek instanceof TenantKey)
    return { encryptedKey: kek.wrap(dataKey, wrapAad(ref, id)), kekId: id }
  return wrapBy(kek, ref, dataKey)
}

async function wrapBy(primary: MasterKey, ref: KeyRef, dataKey: Uint8Array): Promise<Wrapped> {
  const encryptedKey = await wrapByService(primary, dataKey, wrapAad(ref, primary.id), ownerOf(ref))
  return { encryptedKey, kekId: primary.id }
}

/**
 * A new data key and the row that is to hold it.
 *
 * @returns `dataKey`: 32 bytes, the caller's to wipe
 * @throws like {@link wrapDataKey}
 */
export async function newDataKey(
  keyring: MasterKeyring,
  ref: KeyRef,
  format: Format,
  kek: MasterKey = keyring.primary,
): Promise<{ readonly record: KeyRecord; readonly dataKey: Buffer }> {
  const dataKey = generateKey()
  try {
    const wrapping = wrapDataKey(keyring, ref, dataKey, format, kek)
    const wrapped = wrapping instanceof Promise ? await wrapping : wrapping
    const { userId, version } = ref
    const { encryptedKey, kekId } = wrapped
    const createdAt = new Date()
    const record = { userId, version, encryptedKey, kekId, createdAt, wrappedAt: null, shreddedAt: null }
    return { record, dataKey }
  } catch (error) {
    dataKey.fill(0)
    throw error
  }
}

/** The KEK id that rows have when they are wrapped under the primary in this format. */
export function primaryKekId(keyring: MasterKeyring, format: Format): string {
  return format === 'v2' ? requireLocal(keyring).v2Id : keyring.primary.id
}

function requireLocal({ primary }: MasterKeyring): LocalMasterKey {
  if (isLocal(primary)) return primary
  throw new KeystoreError('ERR_INVALID_ARGUMENT', 'Format v2 needs a local master key as the primary')
}

/**
 * Opens a row's wrapped key.
 *
 * Under a local master key the length decides the format, whatever the row claims. A v2 wrap is bound to no user: who
 * accepts v2 accepts that somebody who can write to the database exchanges two users' keys.
 *
 * @param accept the wrap formats to open
 * @param kek the key that the row's KEK id names, from `kekOf`; null if it was not given. Default: the keyring's, which has no tenants' keys
 * @returns 32 bytes
 * @throws ERR_UNKNOWN_MASTER_KEY · ERR_FORMAT_NOT_ACCEPTED · ERR_UNWRAP_FAILED · what the master key throws
 */
export async function unwrapDataKey(
  keyring: MasterKeyring,
  record: KeyRecord,
  accept: readonly Format[],
  kek?: MasterKey | null,
): Promise<Uint8Array> {
  const opened = unwrapLocally(keyring, record, accept, kek)
  return opened instanceof Uint8Array ? opened : unwrapBy(opened, record)
}

/**
 * {@link unwrapDataKey} without waiting, if it is under a local master key or a tenant's: a tenth less for each key that is not in memory.
 *
 * @returns 32 bytes, or the master key that has to be asked
 * @throws ERR_UNKNOWN_MASTER_KEY · ERR_FORMAT_NOT_ACCEPTED · ERR_UNWRAP_FAILED
 */
export function unwrapLocally(
  keyring: MasterKeyring,
  record: KeyRecord,
  accept: readonly Format[],
  kek?: MasterKey | null,
): Uint8Array | MasterKey {
  const { encryptedKey, kekId } = record
  const key = kekId === null ? null : kek === undefined ? keyring.find(kekId) : kek
  if (kekId !== null && key === null) throw unknownMasterKey(record, kekId)
  // A tenant's key is of format v3, whatever is accepted of users.
  if (tenantIdOf(record.userId) !== null) {
    if (kekId === null) throw unwrapFailed(record)
    accept = ['v3']
  }
  if (key !== null && !isLocal(key) && !(key instanceof TenantKey)) {
    assertAccepted(record, 'v3', accept)
    return key
  }
  const mayBeV2 = key === null || isLocal(key)
  const format = isV3Wrap(encryptedKey) ? 'v3' : mayBeV2 && isV2Wrap(encryptedKey) ? 'v2' : null
  if (format === null || (format === 'v3' && kekId === null)) throw unwrapFailed(record)
  assertAccepted(record, format, accept)
  for (const candidate of key === null ? keyring.local : [key]) {
    try {
      const dataKey =
        format === 'v2' && isLocal(candidate)
          ? candidate.unwrapV2(encryptedKey)
          : candidate.unwrap(encryptedKey, wrapAad(record, kekId ?? ''))
      if (isDataKey(dataKey)) return dataKey
    } catch (error) {
      if (!isKeystoreError(error) || error.code !== 'ERR_UNWRAP_FAILED') throw error
    }
  }
  throw unwrapFailed(record)
}

/** {@link unwrapDataKey} by the master key that {@link unwrapLocally} named. */
export async function unwrapBy(key: MasterKey, record: KeyRecord): Promise<Uint8Array> {
  try {
    return await unwrapByService(key, record.encryptedKey, wrapAad(record, key.id), ownerOf(record))
  } catch (error) {
    // Of another code it is an outage, say, and must not look like a damaged key.
    if (!isKeystoreError(error) || error.code !== 'ERR_UNWRAP_FAILED') throw error
    throw unwrapFailed(record, error as MasterKeyError)
  }
}

function assertAccepted(record: KeyRecord, format: Format, accept: readonly Format[]): void {
  if (accept.includes(format)) return
  const advice =
    format === 'v3'
      ? "name 'v3' in accept.keys to open it"
      : "it is bound to no user. If it is the Python reference's, `npx keystore rewrap --accept-v2` upgrades it; if not, somebody has put it there"
  throw new KeystoreError(
    'ERR_FORMAT_NOT_ACCEPTED',
    `The key of ${describeRef(record)} is wrapped in format ${format}, which is not accepted: ${advice}`,
  )
}

/** No writer wraps zeros: they would be no key. */
function isDataKey(dataKey: Uint8Array): boolean {
  return dataKey.length === KEY_BYTES && dataKey.some((byte) => byte !== 0)
}

/** Binds a wrapped key of format v3 to its row and its master key. */
function wrapAad({ userId, version }: KeyRef, kekId: string): Buffer {
  return preAuthEncode([WRAP_LABEL, userId, String(version), kekId])
}

function ownerOf({ userId, version }: KeyRef): KeyOwner {
  return { userId, version, tenantId: tenantIdOf(userId) }
}

/** A ref for messages. */
export function describeRef({ userId, version }: KeyRef): string {
  return `${describeUser(userId)}, version ${version}`
}

/** @param answer the error of a key service */
function unwrapFailed(record: KeyRecord, answer?: MasterKeyError): MasterKeyError {
  const under = record.kekId === null ? 'any local master key' : `master key ${printable(record.kekId)}`
  return new MasterKeyError(
    'ERR_UNWRAP_FAILED',
    `The wrapped key of ${describeRef(record)} does not open under ${under}`,
    serviceDetails(answer),
  )
}
