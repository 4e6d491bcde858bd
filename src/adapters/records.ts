/** What all adapters do with rows before and after their statements. */
import type { NewKeyRecord, WrapChange } from '../store.js'
import {
  compareRefs,
  isTenantKekId,
  isTenantRow,
  isTombstone,
  type KeyRecord,
  type KeyRef,
} from '../table.js'

/** Sorts before every ref that a Postgres `integer` can hold: where the first page of `list` begins. */
export const BEFORE_ALL_REFS: KeyRef = { userId: '', version: -2_147_483_648 }

/**
 * Those of ordered rows that a page has which ends before a ref. A row that is no record may have another id than it shows: it is of the page
 * unless a record behind the ref precedes it.
 *
 * @param before absent: all
 */
export function rowsBefore<Row extends KeyRef>(
  rows: readonly Row[],
  before: KeyRef | undefined,
): readonly Row[] {
  if (before === undefined) return rows
  const end = rows.findIndex((row) => !('error' in row) && compareRefs(row, before) >= 0)
  return end === -1 ? rows : rows.slice(0, end)
}

/**
 * The active row of one user: a tombstone if there is any, else the highest version.
 *
 * @param rows of one user, in ascending order
 * @returns one row, or none if the user has none
 */
export function activeOf<Row extends Pick<KeyRecord, 'shreddedAt'>>(rows: readonly Row[]): Row[] {
  const active = rows.findLast(isTombstone) ?? rows.at(-1)
  return active === undefined ? [] : [active]
}

/** A tombstone for a user who never had a key. */
export function newTombstone(userId: string, at: Date): KeyRecord {
  const encryptedKey = new Uint8Array(0)
  return { userId, version: 1, encryptedKey, kekId: null, createdAt: at, wrappedAt: null, shreddedAt: at }
}

/** Each ref once, in the order in which all writers lock rows, so that they cannot deadlock. */
export function inLockOrder<T extends KeyRef>(refs: readonly T[]): T[] {
  // Pages of a long work are in order.
  if (isAscending(refs)) return [...refs]
  const sorted = [...refs].sort(compareRefs)
  return sorted.filter((ref, index) => {
    const before = sorted[index - 1]
    return before === undefined || compareRefs(before, ref) !== 0
  })
}

function isAscending(refs: readonly KeyRef[]): boolean {
  for (let at = 1; at < refs.length; at += 1)
    if (compareRefs(refs[at - 1] as KeyRef, refs[at] as KeyRef) >= 0) return false
  return true
}

/**
 * Splits rows into rounds to insert one after the other. Each round has at most one version of each user, the lowest first:
 * version n can be inserted only where n − 1 is stored.
 */
export function insertRounds(records: readonly NewKeyRecord[]): NewKeyRecord[][] {
  const rounds: NewKeyRecord[][] = []
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

/**
 * The two rounds of `restore`: tombstones, which are never refused, then live rows, which are refused where their user has a
 * tombstone by then.
 */
export function tombstonesFirst(records: readonly KeyRecord[]): [KeyRecord[], KeyRecord[]] {
  return [inLockOrder(records.filter(isTombstone)), inLockOrder(records.filter((row) => !isTombstone(row)))]
}

/** Whether a new row makes cached keys of its user out of date. A live first version does not: no cache has an older one. */
export function outdatesCaches(record: KeyRecord): boolean {
  return record.version > 1 || isTombstone(record)
}

/** Whether a rewrap is announced: that of a tenant's own row, and of a user who comes under a tenant's key or leaves it. */
export function concernsTenant({ userId, kekId, whileLive }: WrapChange): boolean {
  return isTenantRow({ userId }) || isTenantKekId(kekId) || whileLive !== undefined
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

export function distinctUserIds(refs: readonly Pick<KeyRef, 'userId'>[]): string[] {
  return [...new Set(refs.map(({ userId }) => userId))]
}

/**
 * The result of `insertIfAbsent`: for each input the row stored under its ref, else its user's tombstone, else nothing.
 *
 * @param stored the rows of the inputs' users after the insert; those of `inserted` are not needed
 * @param inserted inputs that are known to be stored: each is its own winner
 */
export function winnersOf(
  inputs: readonly NewKeyRecord[],
  stored: ReadonlyMap<string, readonly KeyRecord[]>,
  inserted: ReadonlySet<KeyRecord> = new Set(),
): KeyRecord[] {
  return inputs.flatMap((input) => {
    if (inserted.has(input)) return rowOf(input)
    const versions = stored.get(input.userId) ?? []
    const winner = versions.find(({ version }) => version === input.version) ?? versions.find(isTombstone)
    return winner ?? []
  })
}

/** What is stored of a row to insert. */
function rowOf(input: NewKeyRecord): KeyRecord {
  if (input.whileLive === undefined) return input
  const { whileLive: _, ...row } = input
  return row
}
