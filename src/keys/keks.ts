/** Which key wraps the key of a row: a master key, or the open key of a tenant. */
import type { MasterKey } from '../master-keys/master-key.js'
import type { KeyIdentity, KeyRecord, KeyRef } from '../table.js'
import { DataKey, type Right } from './data-key.js'

export type Kek = MasterKey | DataKey

export interface Keks {
  /**
   * The key that is to wrap a new version.
   *
   * @param before the version before it; undefined: the user gets the first key
   */
  forNew(ref: KeyRef, before: KeyRecord | undefined): Kek | Promise<Kek>
  /** Whether a new row can be opened again, before it is stored. @throws if not */
  check?(record: KeyRecord, dataKey: Uint8Array, kek: Kek): Promise<void>
  /** The key that a row's KEK id names; null if it was not given. Returns no promise unless the key has to be asked for. */
  of(record: KeyRecord): Kek | null | Promise<Kek | null>
  /** The row of the key is not what it was. */
  changed?(kek: Kek): void
  /** How long at most what is under the key may be cached, in milliseconds. */
  leftMs(kek: Kek | null): number
  /** Calls `listener` when the keys of a tenant may have changed, with the user id of the tenant's own rows. */
  onChange(listener: (userId: string) => void): void
}

/** The key that wraps and unwraps. */
export function masterKeyOf(kek: Kek): MasterKey {
  return kek instanceof DataKey ? kek.tenantKey : kek
}

/** The right to use a tenant's key; null for a master key. */
export function rightOf(kek: Kek | null): Right | null {
  return kek instanceof DataKey ? kek.right : null
}

/** The row that has to be live while a key is made under it; undefined for a master key. */
export function rowOf(kek: Kek): KeyIdentity | undefined {
  if (!(kek instanceof DataKey)) return undefined
  const { userId, version, createdAt } = kek
  return { userId, version, createdAt }
}
