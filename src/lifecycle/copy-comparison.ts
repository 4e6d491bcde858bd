/** What a copy does with a row that its target has, lacks, or has in another state; and what it refuses. */
import { quoted, StoreError } from '../errors.js'
import { isTurnDueInLoop, nextTurn } from '../event-loop.js'
import { afterErasures } from '../key-log/erasures.js'
import { describeRef } from '../master-keys/key-wrap.js'
import { isTombstone, type KeyRecord, type KeyRef } from '../table.js'
import type { CopyReading, UserPair } from './copy-pages.js'
import { COMPARISON_WEIGHT, isSameRecord, type PairedDigests } from './record-digest.js'

/** A row that both stores have, with different keys or states. */
export interface CopyConflict extends KeyRef {
  /** What differs, without a secret. */
  readonly reason: string
  /** The row of the source. */
  readonly from: ConflictingRow
  /** Null if the user has a tombstone under another version at the target. */
  readonly to: ConflictingRow | null
}

/** What tells two keys apart: a token opens under the one that made it. */
export type ConflictingRow = Pick<KeyRecord, 'kekId' | 'createdAt' | 'wrappedAt' | 'shreddedAt'>

/** What comparing works with. */
export interface CopyComparing extends CopyReading {
  /** Whether a user of the target may be erased because the source has a tombstone. */
  readonly mayErase: (userId: string) => boolean
  readonly dryRun: boolean
  /** Whether pages are written while others are compared. */
  readonly isWriting?: boolean
}

/** Rows of one page of the source that the target has not in the same state. */
export interface DifferingRows {
  readonly missing: KeyRecord[]
  /** Tombstones whose rows are live at the target. */
  readonly erased: KeyRecord[]
  /** Users who have live rows at the target and a tombstone here, and who may be erased. `isLogged`: the key log names them already. */
  readonly erasedUsers: Map<string, { readonly at: Date; readonly isLogged: boolean }>
  /** The same, but nobody has allowed it. */
  readonly refused: string[]
  /** Only in a dry run. */
  readonly conflicts: CopyConflict[]
}

/**
 * Compares the users of one page.
 *
 * @param digests takes the rows of both stores, if it is given
 * @throws ERR_CONFLICT naming a row that differs at the target, unless it is a dry run
 */
export async function differingRows(
  job: CopyComparing,
  pairs: readonly UserPair[],
  digests: PairedDigests | null,
): Promise<DifferingRows> {
  const { failures } = job
  const differing: DifferingRows = {
    missing: [],
    erased: [],
    erasedUsers: new Map(),
    refused: [],
    conflicts: [],
  }
  for (const { records, stored, unreadable } of pairs) {
    if (isTurnDueInLoop(COMPARISON_WEIGHT)) await nextTurn()
    const sound = failures.without('source', records)
    for (const record of sound) {
      if (unreadable !== null) failures.add('target', record, unreadable)
      else if (stored === null) differing.missing.push(record)
      else compareRow(job, record, stored, differing)
    }
    digests?.add(sound, failures.without('target', stored ?? []))
  }
  return differing
}

/** @param versions the target's rows of the same user */
function compareRow(
  job: CopyComparing,
  record: KeyRecord,
  versions: readonly KeyRecord[],
  differing: DifferingRows,
): void {
  const { userId } = record
  const found = versions.find(({ version }) => version === record.version)
  if (found !== undefined && !isTombstone(record) && isSameRecord(record, found)) return
  const live = versions.filter((row) => !isTombstone(row))
  const isRefusedByTombstone = found === undefined && !isTombstone(record) && live.length < versions.length
  if (isRefusedByTombstone || (found !== undefined && isConflict(record, found))) {
    if (!job.dryRun) throw conflict(job, record, found)
    differing.conflicts.push(describeConflict(record, found))
    return
  }
  // A tombstone ends all keys of its user, whichever version it has.
  if (isTombstone(record) && live.length > 0 && !isAllowed(job, userId, live, record, differing)) return
  if (found === undefined) differing.missing.push(record)
  else if (isErasedAtSource(record, found)) differing.erased.push(record)
}

/** Notes that the user's keys at the target have to be erased. @returns whether they may be */
function isAllowed(
  { erasures, mayErase }: CopyComparing,
  userId: string,
  live: readonly KeyRecord[],
  { shreddedAt }: KeyRecord,
  differing: DifferingRows,
): boolean {
  const isLogged = live.every((row) => afterErasures(row, erasures) !== row)
  if (isLogged || mayErase(userId)) {
    differing.erasedUsers.set(userId, { at: shreddedAt ?? new Date(), isLogged })
    return true
  }
  if (!differing.refused.includes(userId)) differing.refused.push(userId)
  return false
}

/**
 * Whether the target has the row as it was before the source shredded it. `createdAt` tells: a shred leaves it as it is and
 * erases the wrapped key.
 */
function isErasedAtSource(source: KeyRecord, target: KeyRecord): boolean {
  const isTombstoneNow = source.shreddedAt !== null && target.shreddedAt === null
  return isTombstoneNow && source.createdAt.getTime() === target.createdAt.getTime()
}

function isConflict(record: KeyRecord, found: KeyRecord): boolean {
  return !isSameRecord(record, found) && !isErasedAtSource(record, found)
}

/** The users named in a refusal; a dry run lists all of them. */
const MAX_NAMED = 10

/** @param wasWritten whether the copy has written pages before */
export function erasuresRefused(users: readonly string[], wasWritten = false): StoreError {
  const names = users.slice(0, MAX_NAMED).map((userId) => (userId === '' ? 'the pool' : quoted(userId)))
  const more = users.length > MAX_NAMED ? ` and ${users.length - MAX_NAMED} more` : ''
  return new StoreError(
    `The source says that users were shredded whose keys are live at the target: ${names.join(', ')}${more}. ${wasWritten ? WRITTEN_BEFORE : 'Nothing was written'}. ` +
      'If it is right, copy with applyErasures (keystore: --apply-erasures), which erases these keys at the target for good',
    { code: 'ERR_CONFLICT' },
  )
}

/** Of a target that was empty, and got rows from others during the copy; or of a source that was changed since the comparison. */
const WRITTEN_BEFORE =
  'It was found during the copy: what was copied before stays at the target, and nothing that stood there was changed. Find out who else writes to the stores, and run the copy again'

const COPY_SOME =
  '. To copy the rows of some users or tenants alone, name them: only (npx keystore restore FILE --user ID, or --tenant ID)'

/** @param found the target's row; undefined if a tombstone of the user kept the record from being inserted */
export function conflict(
  { isWriting = false, rows }: CopyComparing,
  record: KeyRecord,
  found: KeyRecord | undefined,
): StoreError {
  const { userId, version } = record
  const advice = isWriting ? `. ${WRITTEN_BEFORE}` : rows.userIds === null ? COPY_SOME : ''
  return new StoreError(
    `The row of ${describeRef(record)} ${conflictReason(record, found)}. Nothing of it was written${advice}`,
    { code: 'ERR_CONFLICT', ref: { userId, version } },
  )
}

function describeConflict(record: KeyRecord, found: KeyRecord | undefined): CopyConflict {
  const { userId, version } = record
  const reason = conflictReason(record, found)
  return { userId, version, reason, from: rowState(record), to: found === undefined ? null : rowState(found) }
}

function rowState({ kekId, createdAt, wrappedAt, shreddedAt }: KeyRecord): ConflictingRow {
  return { kekId, createdAt, wrappedAt, shreddedAt }
}

function conflictReason(record: KeyRecord, found: KeyRecord | undefined): string {
  const isTombstone = record.shreddedAt !== null
  if (found === undefined || (found.shreddedAt !== null && !isTombstone))
    return 'was shredded at the target: shred the user at the source too'
  if (found.shreddedAt !== null) return 'is another tombstone at the target: find out which is right'
  if (isTombstone)
    return 'is a tombstone at the source and another live key at the target: find out which is right'
  return 'is another key at the target, or was rewrapped since it was copied: copy into an empty store, or find out which is right'
}
