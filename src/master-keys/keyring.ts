/** Keyrings: one primary master key, which wraps, and previous ones, which only unwrap. */
import { invalidArgument } from '../errors.js'
import { TENANT_KEK_ID_PREFIX } from '../table.js'
import { isPlainObject, kindOf, knownOptions } from '../validate.js'
import { isLocal, type LocalMasterKey } from './local.js'
import type { MasterKey } from './master-key.js'

/**
 * Names the tenant of a user whose first key is made. Null: the user belongs to none, and the primary wraps. It must be what the application
 * itself knows for certain, since the key of that tenant then opens the user's data.
 */
export type TenantOf = (userId: string) => string | null | Promise<string | null>

/**
 * Gives the master key that wraps a tenant's key: the customer's own. Or a keyring, of `masterKeyring({ primary, previous })`: the primary wraps, and
 * the previous ones, which were the tenant's roots before, still open. Null: the tenant has no root of its own, and the application's are its
 * roots.
 *
 * No other key opens a row of the tenant's, but for the application's primary, from under which a tenant is moved to a root of its own.
 *
 * Asked whenever a tenant's key is opened or made: keep the objects, and give the same one for the same key, since each may hold connections or
 * sessions.
 */
export type TenantRoot = (
  tenantId: string,
) => MasterKey | MasterKeyring | null | Promise<MasterKey | MasterKeyring | null>

/** What {@link masterKeyring} takes. */
export interface MasterKeyringOptions {
  /** Wraps new keys, and unwraps. */
  readonly primary: MasterKey
  /**
   * Primaries of before. They open the rows of all tenants that have no root of their own, so a customer's key never belongs here: whoever can use
   * it, and writes to the database, could plant keys of other tenants. It is what `tenantRoot` gives.
   */
  readonly previous?: readonly MasterKey[]
  /** Absent: no user is wrapped under a tenant's key. Users who already are stay so. Has 5 seconds to answer. */
  readonly tenantOf?: TenantOf | null
  /** Absent: no tenant has a root of its own, and the primary wraps all tenants' keys. Has 5 seconds to answer. */
  readonly tenantRoot?: TenantRoot | null
}

/** One primary master key, which wraps, and previous ones, which only unwrap; and what it knows of tenants. */
export class MasterKeyring {
  /** Wraps new keys, and unwraps. */
  readonly primary: MasterKey
  /** Unwrap, and never wrap. */
  readonly previous: readonly MasterKey[]
  /** See {@link MasterKeyringOptions}. */
  readonly tenantOf: TenantOf | null
  /** See {@link MasterKeyringOptions}. */
  readonly tenantRoot: TenantRoot | null

  constructor(
    primary: MasterKey,
    previous: readonly MasterKey[],
    tenantOf: TenantOf | null = null,
    tenantRoot: TenantRoot | null = null,
  ) {
    this.primary = primary
    this.tenantOf = tenantOf
    this.tenantRoot = tenantRoot
    const seen = new Set([primary.id])
    this.previous = previous.filter(({ id }) => !seen.has(id) && seen.add(id))
  }

  /** Primary first. */
  get all(): readonly MasterKey[] {
    return [this.primary, ...this.previous]
  }

  /** The local ones, primary first: those that can have written the reference's rows and pool tokens. */
  get local(): readonly LocalMasterKey[] {
    return this.all.filter(isLocal)
  }

  /** The key that a row's KEK id names, in either wrap format, or null. */
  find(kekId: string): MasterKey | null {
    return this.all.find((key) => key.id === kekId || (isLocal(key) && key.v2Id === kekId)) ?? null
  }
}

const OPTIONS: Readonly<Record<keyof MasterKeyringOptions, true>> = {
  primary: true,
  previous: true,
  tenantOf: true,
  tenantRoot: true,
}

/**
 * Master keys, and with `tenantOf` a hierarchy: a tenant's key, which a root wraps, wraps the keys of the tenant's users. A key service is then
 * asked once for each tenant, and not for each user.
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * masterKeyring({ primary: localMasterKey(newBytes), previous: [localMasterKey(oldBytes)] })
 * @example
 * masterKeyring({ primary, tenantOf: (userId) => tenantsByUser.get(userId) ?? null })
 */
export function masterKeyring(keys: MasterKeyringOptions): MasterKeyring {
  const {
    primary,
    previous = [],
    tenantOf = null,
    tenantRoot = null,
  } = knownOptions(keys, OPTIONS, 'masterKeyring', 'keys')
  if (!Array.isArray(previous)) throw invalidArgument(`previous must be an array, got ${kindOf(previous)}`)
  assertMasterKey('primary', primary)
  for (const key of previous) assertMasterKey('each of previous', key)
  for (const [name, value] of Object.entries({ tenantOf, tenantRoot }))
    if (value !== null && typeof value !== 'function')
      throw invalidArgument(`${name} must be a function, got ${kindOf(value)}`)
  return new MasterKeyring(primary, previous, tenantOf, tenantRoot)
}

type OlderKeyring = Pick<MasterKeyring, 'primary' | 'previous'> &
  Pick<MasterKeyringOptions, 'tenantOf' | 'tenantRoot'>

/** What `EnvelopeCrypto.open` takes, as a keyring. @throws ERR_INVALID_ARGUMENT */
export function keyringOf(keys: MasterKeyring | MasterKey): MasterKeyring {
  if (!hasPrimary(keys)) {
    assertMasterKey('masterKeys', keys)
    return masterKeyring({ primary: keys })
  }
  if (isPlainObject(keys)) return masterKeyring(keys as MasterKeyringOptions)
  // By shape, not by class: an application may hold two copies of this package, and an older one has keyrings that know of no tenants.
  const { primary, previous, tenantOf, tenantRoot }: OlderKeyring = keys
  return tenantOf === undefined || tenantRoot === undefined
    ? new MasterKeyring(primary, previous, tenantOf, tenantRoot)
    : keys
}

/** A string has none: it is likely a master key's text, which `in` would quote in its error. */
export function hasPrimary(keys: MasterKeyring | MasterKey): keys is MasterKeyring {
  return typeof keys === 'object' && keys !== null && Object.hasOwn(keys, 'primary')
}

/** The longest time that a timer of Node's takes. */
const LONGEST_TIME_LIMIT_MS = 2 ** 31 - 1

/** @param name of the argument @throws ERR_INVALID_ARGUMENT */
export function assertMasterKey(name: string, key: unknown): asserts key is MasterKey {
  if (typeof key !== 'object' || key === null || !('wrap' in key) || !('unwrap' in key) || !('id' in key))
    throw invalidArgument(
      `${name} must be ${name === 'masterKeys' ? MASTER_KEYS : ONE_MASTER_KEY}, got ${isKeyring(key) ? KEYRING : `${kindOf(key)}${adviceOn(key)}`}`,
    )
  if (typeof key.wrap !== 'function' || typeof key.unwrap !== 'function')
    throw invalidArgument(
      `wrap and unwrap of a master key must be functions, got ${kindOf(key.wrap)} and ${kindOf(key.unwrap)}`,
    )
  // Rows carry it, and one without an id would look like the Python reference's.
  if (typeof key.id !== 'string' || key.id === '')
    throw invalidArgument(
      `id of a master key must be a string, and not empty, got ${key.id === '' ? 'an empty one' : kindOf(key.id)}`,
    )
  if (key.id.startsWith(TENANT_KEK_ID_PREFIX))
    throw invalidArgument(
      `id of a master key must not begin with ${TENANT_KEK_ID_PREFIX}, as the KEK ids of tenants' keys do`,
    )
  if (!key.id.isWellFormed() || key.id.includes('\0'))
    throw invalidArgument(
      'id of a master key must be well-formed Unicode without NUL: a database would not keep it',
    )
  const limit = 'timeLimitMs' in key ? key.timeLimitMs : undefined
  if (limit !== undefined && !(typeof limit === 'number' && limit > 0 && limit <= LONGEST_TIME_LIMIT_MS))
    throw invalidArgument(
      `timeLimitMs of a master key must be a number of milliseconds above 0, got ${kindOf(limit)}`,
    )
}

const MASTER_KEYS =
  'what masterKeysFromEnv(), masterKeyring() or localMasterKey() gives, or another MasterKey'

const ONE_MASTER_KEY =
  'one master key: masterKeysFromEnv().primary, what localMasterKey() gives, or another MasterKey'

const KEYRING = 'a keyring: pass its primary, as in `const { primary, previous } = masterKeysFromEnv()`'

function isKeyring(key: unknown): boolean {
  return typeof key === 'object' && key !== null && 'primary' in key
}

/** What most likely went wrong. Shows nothing of the value. */
function adviceOn(key: unknown): string {
  if (typeof key === 'string')
    return ': if it is a key, put it into API_KEY_MASTER_KEY and call masterKeysFromEnv(), or pass localMasterKey(key)'
  if (key instanceof Uint8Array) return ': pass localMasterKey(bytes)'
  if (typeof key === 'function') return ': call it, and pass what it returns'
  if (typeof key === 'object' && key !== null && 'then' in key) return ', a promise: await it first'
  return ''
}
