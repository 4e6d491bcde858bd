/** What all adapters do with records around their statements. */
import { StoreError } from '../errors.js'
import { compareRefs, isTombstone, type KeyRecord, type KeyRef } from '../table.js'

/** Of the rows of one user, ascending, any tombstone, else the highest version; none if there is none. */
export function activeOf(rows: readonly KeyRecord[]): KeyRecord[] {
  const active = rows.findLast(isTombstone) ?? rows.at(-1)
  return active === undefined ? [] : [active]
}

/** A tombstone for a user who never had a key. */
export function newTombstone(userId: string, at: Date): KeyRecord {
  const encryptedKey = new Uint8Array(0)
  return { userId, version: 1, encryptedKey, kekId: null, createdAt: at, wrappedAt: null, shreddedAt: at }
}

/** In the order in which all writers lock, each ref once. */
export function inLockOrder<T extends KeyRef>(refs: readonly T[]): T[] {
  const sorted = [...refs].sort(compareRefs)
  return sorted.filter((ref, index) => {
    const before = sorted[index - 1]
    return before === undefined || compareRefs(before, ref) !== 0
  })
}

/** In rounds that hold one version of each user at most, lowest first: version n is inserted only where n − 1 stands. */
export function inRounds(records: readonly KeyRecord[]): KeyRecord[][] {
  const rounds: KeyRecord[][] = []
  const next = new Map<string, number>()
  for (const record of inLockOrder(records)) {
    const round = next.get(record.userId) ?? 0
    next.set(record.userId, round + 1)
    const rows = rounds[round]
    if (rows) rows.push(record)
    else rounds.push([record])
  }
  return rounds
}

/** In the order in which `restore` inserts: no live row goes in beside a tombstone, and tombstones are never refused. */
export function tombstonesFirst(records: readonly KeyRecord[]): [KeyRecord[], KeyRecord[]] {
  return [inLockOrder(records.filter(isTombstone)), inLockOrder(records.filter((row) => !isTombstone(row)))]
}

/** Whether a new row makes what a cache holds of its user out of date: mints do not. */
export function outdatesCaches(record: KeyRecord): boolean {
  return record.version > 1 || isTombstone(record)
}

export function groupByUser(records: readonly KeyRecord[]): Map<string, KeyRecord[]> {
  const groups = new Map<string, KeyRecord[]>()
  for (const record of records) {
    const group = groups.get(record.userId)
    if (group) group.push(record)
    else groups.set(record.userId, [record])
  }
  return groups
}

/** Whose these are, each once. */
export function usersOf(refs: readonly Pick<KeyRef, 'userId'>[]): string[] {
  return [...new Set(refs.map(({ userId }) => userId))]
}

/**
 * What `insertIfAbsent` returns.
 *
 * @param stored what their users have after the insert; of those of `inserted` nothing is needed
 * @param inserted inputs that are known to have gone in: each is its own winner
 */
export function winnersOf(
  inputs: readonly KeyRecord[],
  stored: ReadonlyMap<string, readonly KeyRecord[]>,
  inserted: ReadonlySet<KeyRecord> = new Set(),
): KeyRecord[] {
  return inputs.flatMap((input) => {
    if (inserted.has(input)) return input
    const versions = stored.get(input.userId) ?? []
    const winner = versions.find(({ version }) => version === input.version) ?? versions.find(isTombstone)
    return winner ?? []
  })
}

/** @throws ERR_STORE naming the ref if an instant of a row cannot be read */
export function readable(record: KeyRecord): KeyRecord {
  if (isReadable(record)) return record
  const { userId, version } = record
  throw new StoreError(
    `The row of user ${JSON.stringify(userId)}, version ${version}, has a time that cannot be read: ` +
      'repair created_at, wrapped_at or shredded_at',
    { ref: { userId, version } },
  )
}

export function isReadable({ createdAt, wrappedAt, shreddedAt }: KeyRecord): boolean {
  return isInstant(createdAt) && isInstant(wrappedAt) && isInstant(shreddedAt)
}

function isInstant(instant: Date | null): boolean {
  return instant === null || !Number.isNaN(instant.getTime())
}
