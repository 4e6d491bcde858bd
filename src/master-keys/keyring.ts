/** Keyrings: one primary master key, which wraps, and previous ones, which only unwrap. */
import { invalidArgument } from '../errors.js'
import { kindOf } from '../validate.js'
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
  const { primary, previous = [] } = keys
  if (!Array.isArray(previous)) throw invalidArgument(`previous must be an array, got ${kindOf(previous)}`)
  for (const key of [primary, ...previous]) assertMasterKey(key)
  return new MasterKeyring(primary, previous)
}

/** What `EnvelopeCrypto.open` takes, as a keyring. @throws ERR_INVALID_ARGUMENT */
export function keyringOf(keys: MasterKeyring | MasterKey): MasterKeyring {
  // `in` on a string throws an error that quotes the string, and a string here is likely a master key's text.
  const isObject = typeof keys === 'object' && keys !== null
  if (!isObject || !('primary' in keys)) return masterKeyring({ primary: keys as MasterKey })
  return 'find' in keys ? keys : masterKeyring(keys)
}

function assertMasterKey(key: unknown): asserts key is MasterKey {
  const isObject = typeof key === 'object' && key !== null
  if (isObject && 'id' in key && typeof key.id === 'string' && 'wrap' in key && 'unwrap' in key) return
  throw invalidArgument(`A master key must be made with localMasterKey(), got ${kindOf(key)}`)
}
