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
  for (const key of [primary, ...previous]) assertMasterKey(key)
  return new MasterKeyring(primary, previous)
}

/** What `EnvelopeCrypto.open` takes, as a keyring. @throws ERR_INVALID_ARGUMENT */
export function keyringOf(keys: MasterKeyring | MasterKey): MasterKeyring {
  if (keys === undefined || keys === null || typeof keys === 'string')
    throw invalidArgument(
      `masterKeys is ${keys ? 'a string' : 'missing'}: masterKeysFromEnv() reads master keys, and localMasterKey(bytes) makes one of 32 bytes`,
    )
  if (!hasPrimary(keys)) return masterKeyring({ primary: keys })
  // By shape, not by class: an application may hold two copies of this package.
  return isPlainObject(keys) ? masterKeyring(keys) : keys
}

/** A string has none: it is likely a master key's text, which `in` would quote in its error. */
function hasPrimary(keys: MasterKeyring | MasterKey): keys is MasterKeyring {
  return typeof keys === 'object' && keys !== null && Object.hasOwn(keys, 'primary')
}

/** The longest time that a timer of Node's takes. */
const LONGEST_TIME_LIMIT_MS = 2 ** 31 - 1

function assertMasterKey(key: unknown): asserts key is MasterKey {
  const isObject = typeof key === 'object' && key !== null
  if (!isObject || !('id' in key) || typeof key.id !== 'string' || !('wrap' in key) || !('unwrap' in key))
    throw invalidArgument(`A master key must be made with localMasterKey(), got ${kindOf(key)}`)
  const limit = 'timeLimitMs' in key ? key.timeLimitMs : undefined
  if (limit !== undefined && !(typeof limit === 'number' && limit > 0 && limit <= LONGEST_TIME_LIMIT_MS))
    throw invalidArgument(
      `timeLimitMs of a master key must be a number of milliseconds above 0, got ${kindOf(limit)}`,
    )
}
