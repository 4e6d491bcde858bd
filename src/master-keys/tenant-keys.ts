/**
 * Tenants: the key of a tenant wraps its users' data keys in this process, and is itself a row that the tenant's root wraps
 * (docs/FORMAT.md, "Wrapped key under a tenant key").
 *
 * Which key opens a row follows from the row's KEK id alone. Nothing is tried, and no key stands in for another.
 */
import {
  describeUser,
  invalidArgument,
  isKeystoreError,
  MasterKeyError,
  printable,
  quoted,
} from '../errors.js'
import { importKey, type KeyObject } from '../format/aead.js'
import type { V3Key } from '../format/core.js'
import { deriveTenantWrapKey } from '../format/wrapped-key.js'
import { type KeyRecord, MAX_KEY_VERSION, TENANT_KEK_ID_PREFIX, tenantIdOf, tenantUserId } from '../table.js'
import { assertTenantId } from '../validate.js'
import type { MasterKeyring } from './keyring.js'
import type { MasterKey } from './master-key.js'

/** One version of a tenant's key. */
export interface TenantKeyRef {
  readonly tenantId: string
  readonly version: number
}

/** The KEK id of keys that are wrapped under a version of a tenant's key. */
export function tenantKekId({ tenantId, version }: TenantKeyRef): string {
  return `${TENANT_KEK_ID_PREFIX}${version}:${tenantId}`
}

/** The version of a tenant's key that a KEK id names; null if it names another kind of key, or is no such id. */
export function parseTenantKekId(kekId: string | null): TenantKeyRef | null {
  if (kekId === null || !kekId.startsWith(TENANT_KEK_ID_PREFIX)) return null
  const end = kekId.indexOf(':', TENANT_KEK_ID_PREFIX.length)
  const digits = kekId.slice(TENANT_KEK_ID_PREFIX.length, end)
  const tenantId = kekId.slice(end + 1)
  const version = Number(digits)
  const isVersion = DECIMAL.test(digits) && version <= MAX_KEY_VERSION
  return end >= 0 && isVersion && isTenantId(tenantId) ? { tenantId, version } : null
}

/** Without leading zeros: an id has one spelling. */
const DECIMAL = /^[1-9][0-9]{0,9}$/

function isTenantId(tenantId: string): boolean {
  try {
    assertTenantId(tenantId)
    return true
  } catch {
    return false
  }
}

/** The row that holds a tenant's key. */
export function tenantRow({ tenantId, version }: TenantKeyRef): Pick<KeyRecord, 'userId' | 'version'> {
  return { userId: tenantUserId(tenantId), version }
}

/** One version of a tenant's key, open: it wraps and unwraps the data keys of the tenant's users. */
export class TenantKey implements MasterKey {
  readonly id: string
  readonly #wrapKey: V3Key

  /** @param key 32 bytes; the caller may wipe them afterwards */
  constructor(ref: TenantKeyRef, key: Uint8Array | KeyObject) {
    this.id = tenantKekId(ref)
    this.#wrapKey = deriveTenantWrapKey(
      key instanceof Uint8Array ? importKey(key) : key,
      ref.tenantId,
      ref.version,
    )
  }

  wrap(dataKey: Uint8Array, aad: Uint8Array): Uint8Array {
    return this.#wrapKey.wrap(dataKey, aad)
  }

  /** @throws MasterKeyError `ERR_UNWRAP_FAILED` */
  unwrap(wrapped: Uint8Array, aad: Uint8Array): Uint8Array {
    const dataKey = this.#wrapKey.unwrap(wrapped, aad)
    if (dataKey !== null) return dataKey
    const message = `The wrapped key does not open under the tenant's key ${printable(this.id)}`
    throw new MasterKeyError('ERR_UNWRAP_FAILED', message)
  }
}

/** Of a row whose KEK id is that of no given master key. */
export function unknownMasterKey(record: KeyRecord, kekId: string): MasterKeyError {
  const { userId, version } = record
  const advice =
    tenantIdOf(userId) === null
      ? 'add it to API_KEY_MASTER_KEY_PREVIOUS or to the keyring'
      : "have `tenantRoot` give it, alone or among the `previous` of a keyring of the tenant. A former primary goes into API_KEY_MASTER_KEY_PREVIOUS, or into `previous` of the application's keyring"
  return new MasterKeyError(
    'ERR_UNKNOWN_MASTER_KEY',
    `The key of ${describeUser(userId)}, version ${version} is wrapped under master key ${printable(kekId)}, which was not given: ${advice}`,
  )
}

/**
 * The tenant whose key wraps a user's new data keys; null: the primary does. The shared pool belongs to no tenant.
 *
 * @throws ERR_INVALID_ARGUMENT (`tenantOf` gave no tenant id and not null) · ERR_MASTER_KEY (it threw, or did not answer)
 */
export async function tenantOfUser(
  { tenantOf }: MasterKeyring,
  userId: string,
  limitMs = TIME_LIMIT_MS,
): Promise<string | null> {
  if (tenantOf === null || userId === '') return null
  const what = `tenantOf of user ${quoted(userId)}`
  const tenantId = await answered(() => tenantOf(userId), what, limitMs)
  // Nothing but null means "no tenant": a forgotten `return` must not bring a tenant's users under the application's own key.
  if (tenantId === undefined)
    throw invalidArgument(`${what} must be a string, or null for no tenant: does the function return?`)
  if (tenantId !== null) assertTenantId(tenantId, what)
  return tenantId
}

/** The time in milliseconds that a function of the application's has. */
export const TIME_LIMIT_MS = 5000

/** What the application's function gives. An error of its own is replaced: it may hold anything. @throws also ERR_MASTER_KEY if it gives no answer in time */
export async function answered<T>(
  ask: () => T | Promise<T>,
  what: string,
  limitMs = TIME_LIMIT_MS,
): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(unavailable(`${what} gave no answer within ${limitMs} ms`)), limitMs)
  })
  try {
    return await Promise.race([ask(), limit])
  } catch (error) {
    throw isKeystoreError(error) ? error : unavailable(`${what} threw an error of its own`)
  } finally {
    clearTimeout(timer)
  }
}

function unavailable(message: string): MasterKeyError {
  return new MasterKeyError('ERR_MASTER_KEY', message, { reason: 'unavailable' })
}
