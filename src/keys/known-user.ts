/** What a process knows of one user, and what a handle holds of it. Only memory.ts, and what it consists of, changes it. */
import { parseTenantKekId } from '../master-keys/tenant-keys.js'
import type { KeyRecord } from '../table.js'
import type { DataKey, KeyRow, Right } from './data-key.js'

/** What is known of one user's keys until they are erased. */
export class KnownUser {
  readonly userId: string
  /** The keys were erased or revoked, or the user evicted: whoever has this object in hand reads the rows again. */
  ended = false
  /** The keys are a tenant's, and its row was rewrapped: whoever is to use them has to ask the tenant's root again. */
  revoked = false
  /** The row of the highest version is gone, and the user was not forgotten: an older copy of the store, or a deletion past the library. */
  keysLost = false
  /** When they were last looked for in the key log, in milliseconds of `performance.now()`, and whether they have ended. */
  lookedForAt = 0
  lookedFor: Promise<boolean> | null = null
  /** How often a change of the user's rows was announced. */
  changes: number
  /** {@link changes} when rows of the user were last found, and when it was last announced that the user was forgotten. */
  changesWhenFound = 0
  changesWhenForgotten = 0
  /** A key that was erased when the user was shredded. */
  shreddedKey: Pick<KeyRow, 'version' | 'createdAt'> | null = null
  /** The highest version that was read, and when it was made; 0 before any was read. */
  highest = 0
  highestCreatedAt: Date | null = null
  /** The lowest live version when the rows were last read; 0 before. */
  lowestLive = 0
  /** The lowest version that was read first, and when it was made. */
  lowest: Pick<KeyRow, 'version' | 'createdAt'> | null = null
  /** The open keys that are cached, by version; null if none is. */
  keys: Map<number, DataKey> | null = null
  /** The tenants whose keys wrap cached ones, by the user ids of their rows; null if none does. */
  tenants: Set<string> | null = null
  /** Whether a cached key was used since the store last said that something may have changed. */
  isUsed = false
  leases = 0
  /** The rows of leased keys by version, as they were last read. */
  leasedRows: Map<number, KeyRow> | null = null

  constructor(userId: string, changes: number) {
    this.userId = userId
    this.changes = changes
  }

  /** Whether it was announced that the user was forgotten, and no rows were found since: their absence, or other ones, are meant. */
  get isForgotten(): boolean {
    return this.changesWhenForgotten > this.changesWhenFound
  }

  /** What is known after the keys were revoked: all of their rows, and no key. */
  successor(): KnownUser {
    const { keysLost, highest, highestCreatedAt, lowestLive, lowest, shreddedKey } = this
    const { changesWhenFound, changesWhenForgotten } = this
    return Object.assign(new KnownUser(this.userId, this.changes), {
      ...{ keysLost, highest, highestCreatedAt, lowestLive, lowest, shreddedKey },
      ...{ changesWhenFound, changesWhenForgotten },
    })
  }
}

/** A read of a user's rows that is under way, and what was known before it. */
export interface Read {
  readonly user: KnownUser
  /** The counts of announced changes: of this user's rows and of all. */
  readonly userChanges: number
  readonly allChanges: number
  readonly highest: number
}

/** A user's live rows, ascending, as one read found them. */
export interface UserRows extends Read {
  readonly records: readonly KeyRecord[]
  /** The highest version that this read found missing, though nobody is known to have erased it; 0 for none. */
  readonly lostVersion: number
  readonly isShredded: boolean
  /** The highest version that was known when the rows had been read. */
  readonly highest: number
}

/** The right of a handle to use a user's keys, or of users to use their tenant's, until they are erased or revoked. */
export class Lease implements Right {
  readonly #user: KnownUser

  constructor(user: KnownUser) {
    this.#user = user
  }

  get userId(): string {
    return this.#user.userId
  }

  get revoked(): boolean {
    return this.#user.revoked
  }

  /** Whether the keys were erased, as far as this process knows. */
  get ended(): boolean {
    return this.#user.ended
  }

  /** Whether the keys are gone from the store, though nobody is known to have erased them. */
  get keysLost(): boolean {
    return this.#user.keysLost
  }
}

/** Whether the user was forgotten and minted anew since, though this process saw no moment without rows. */
export function isMintedAnew(user: KnownUser, records: readonly KeyRecord[]): boolean {
  const { keys, leasedRows, highest, highestCreatedAt, lowest, isForgotten } = user
  const top = records.at(-1)
  if (top === undefined || highestCreatedAt === null) return false
  const isLowestAnother = records.some(
    (row) => row.version === lowest?.version && row.createdAt.getTime() !== lowest.createdAt.getTime(),
  )
  return (
    (top.version < highest &&
      (isForgotten || isLowestAnother || top.createdAt.getTime() > highestCreatedAt.getTime())) ||
    records.some(
      (row) => isAnother(row, keys?.get(row.version)) || isAnother(row, leasedRows?.get(row.version)),
    )
  )
}

/** Whether a leased row was rewrapped, or written again. It tells a tenant's users that the tenant's root is to be asked again. */
export function isRewrapped({ leasedRows }: KnownUser, records: readonly KeyRecord[]): boolean {
  return records.some((record) => {
    const known = leasedRows?.get(record.version)
    return known !== undefined && isRewritten(record, known)
  })
}

/** Whether a row of cached or leased keys is under another tenant's key than it was, or under none any more, or under one only now. */
export function hasOtherTenant({ keys, leasedRows }: KnownUser, records: readonly KeyRecord[]): boolean {
  const isOther = ({ kekId }: KeyRow, known: KeyRow | undefined) =>
    known !== undefined && known.kekId !== kekId && tenantIn(known.kekId) !== tenantIn(kekId)
  return records.some(
    (row) => isOther(row, keys?.get(row.version)) || isOther(row, leasedRows?.get(row.version)),
  )
}

function tenantIn(kekId: string | null): string | null {
  return parseTenantKekId(kekId)?.tenantId ?? null
}

/** Whether a row is not exactly what it was. */
export function isRewritten(row: KeyRow, known: KeyRow): boolean {
  const isSameTime = (a: Date | null, b: Date | null) => a?.getTime() === b?.getTime()
  return (
    !isSameTime(row.createdAt, known.createdAt) ||
    !isSameTime(row.wrappedAt, known.wrappedAt) ||
    Buffer.compare(row.encryptedKey, known.encryptedKey) !== 0
  )
}

/** Whether a row is that of a key that was erased. */
export function isSame({ version, createdAt }: KeyRow, key: KnownUser['shreddedKey']): boolean {
  return version === key?.version && createdAt.getTime() === key.createdAt.getTime()
}

/** Whether a row of the same ref was made anew. A rewrap changes the bytes too, but leaves the time at which it was made. */
function isAnother(row: KeyRow, known: KeyRow | undefined): boolean {
  if (known === undefined || row.createdAt.getTime() === known.createdAt.getTime()) return false
  return Buffer.compare(row.encryptedKey, known.encryptedKey) !== 0
}
