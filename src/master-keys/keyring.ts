/** Keyrings: one primary master key, which wraps, and previous ones, which only unwrap. */
import { invalidArgument } from '../errors.js'
import { isPlainObject, kindOf, ownOptions } from '../validate.js'
import { isLocal, type LocalMasterKey } from './local.js'
import type { MasterKey } from './master-key.js'

/** One primary master key, which wraps, and previous ones, which only unwrap. */
export class MasterKeyring {
  readonly primary: MasterKey
  readonly previous: readonly MasterKey[]

  constructor(primary: MasterKey, previous: readonly MasterKey[]) {
    this.primary = primary
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

/**
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * masterKeyring({ primary: localMasterKey(newBytes), previous: [localMasterKey(oldBytes)] })
 */
export function masterKeyring(keys: {
  readonly primary: MasterKey
  readonly previous?: readonly MasterKey[]
}): MasterKeyring {
  const { primary, previous = [] } = ownOptions(keys, 'keys')
  if (!Array.isArray(previous)) throw invalidArgument(`previous must be an array, got ${kindOf(previous)}`)
  assertMasterKey('primary', primary)
  for (const key of previous) assertMasterKey('each of previous', key)
  return new MasterKeyring(primary, previous)
}

/** What `EnvelopeCrypto.open` takes, as a keyring. @throws ERR_INVALID_ARGUMENT */
export function keyringOf(keys: MasterKeyring | MasterKey): MasterKeyring {
  if (!hasPrimary(keys)) {
    assertMasterKey('masterKeys', keys)
    return masterKeyring({ primary: keys })
  }
  // By shape, not by class: an application may hold two copies of this package.
  return isPlainObject(keys) ? masterKeyring(keys) : keys
}

/** A string has none: it is likely a master key's text, which `in` would quote in its error. */
function hasPrimary(keys: MasterKeyring | MasterKey): keys is MasterKeyring {
  return typeof keys === 'object' && keys !== null && Object.hasOwn(keys, 'primary')
}

/** The longest time that a timer of Node's takes. */
const LONGEST_TIME_LIMIT_MS = 2 ** 31 - 1

/** @param name of the argument */
function assertMasterKey(name: string, key: unknown): asserts key is MasterKey {
  if (typeof key !== 'object' || key === null || !('wrap' in key) || !('unwrap' in key) || !('id' in key))
    throw invalidArgument(`${name} must be ${MASTER_KEYS}, got ${kindOf(key)}${adviceOn(key)}`)
  if (typeof key.wrap !== 'function' || typeof key.unwrap !== 'function')
    throw invalidArgument(
      `wrap and unwrap of a master key must be functions, got ${kindOf(key.wrap)} and ${kindOf(key.unwrap)}`,
    )
  // Rows carry it, and one without an id would look like the Python reference's.
  if (typeof key.id !== 'string' || key.id === '')
    throw invalidArgument(
      `id of a master key must be a string, and not empty, got ${key.id === '' ? 'an empty one' : kindOf(key.id)}`,
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

/** What most likely went wrong. Shows nothing of the value. */
function adviceOn(key: unknown): string {
  if (typeof key === 'string')
    return ': if it is a key, put it into API_KEY_MASTER_KEY and call masterKeysFromEnv(), or pass localMasterKey(key)'
  if (key instanceof Uint8Array) return ': pass localMasterKey(bytes)'
  if (typeof key === 'function') return ': call it, and pass what it returns'
  if (typeof key === 'object' && key !== null && 'then' in key) return ', a promise: await it first'
  return ''
}
