/** Copies a key store into another: for the move to production, backups and restores. Unwraps no key and needs no master key. */

import { invalidArgument, type KeystoreError, StoreError } from '../errors.js'
import { incrementalSha256 } from '../format/aead.js'
import { preAuthEncode } from '../format/encoding.js'
import { describeRef } from '../master-keys/key-wrap.js'
import { afterShredLog, applyShredLog, eraseAgain, readShredLog, type ShredEntries } from '../shred.js'
import type { CensusRow, KeyStore, StoreMaintenance } from '../store.js'
import { type KeyRecord, type KeyRef, refKey } from '../table.js'
import { census, totalCount } from './census.js'
import { checkedOptions, type LongWorkOptions, ProgressMeter, pagesOf } from './long-work.js'

export interface CopyOptions extends LongWorkOptions {
  readonly from: KeyStore
  readonly to: KeyStore
  /** The path of a shred log. Users named in it are copied as erased, and are erased again at the target. */
  readonly shredLog?: string
  /** Compare, and write nothing. */
  readonly dryRun?: boolean
}

export interface CopyReport {
  /** False if `signal` stopped the copy: run it again. */
  readonly complete: boolean
  readonly dryRun: boolean
  /** Rows written at the target, or with `dryRun` that would be. */
  readonly copied: number
  /** Users who were erased at the target because of the shred log or a tombstone of the source; with `dryRun`, who would be. */
  readonly shredded: readonly string[]
  /** Rows that only the target has; 0 unless `complete`. */
  readonly extra: number
  readonly census: { readonly from: readonly CensusRow[]; readonly to: readonly CensusRow[] }
  /**
   * SHA-256 over all records in order, as hexadecimal text: of the source with the shred log applied, and of the target.
   * Null unless `complete`.
   */
  readonly digest: { readonly from: string | null; readonly to: string | null }
  /** Whether both stores hold the same records: the digests are equal. */
  readonly equal: boolean
}

/** Bounds a copy whose source is written all the time. Rows minted later are copied by the next call. */
const MAX_PASSES = 10

/**
 * Copies every row of the source to the target, exactly, tombstones included. Reads every written row back and compares it; at
 * the end compares all rows of both stores.
 *
 * It is safe to repeat, also after it was killed. A further call copies what was minted meanwhile. If the target holds another
 * key under the same user and version, the copy names that row and refuses before it writes anything.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_STORE (an outage; with `ref`: the row that differs, or that cannot be read) · ERR_CLOSED
 * @example
 * const { equal } = await copyKeys({ from: await openKeyStore('data/keystore.db'), to: await openKeyStore('postgres://…') })
 */
export async function copyKeys(options: CopyOptions): Promise<CopyReport> {
  options = checkedOptions(options, 'from', 'to')
  const { from, to, shredLog, dryRun = false, signal } = options
  const target = to.maintenance
  if (target === undefined) throw invalidArgument('to must be a key store that rows can be copied into')
  const entries: ShredEntries = shredLog === undefined ? NO_ENTRIES : readShredLog(shredLog)
  const job: CopyJob = { ...options, target, entries, shredded: new Set() }

  const before = await compare(job)
  let copied = before.missing + before.erased
  if (dryRun) {
    for (const userId of await eraseAgain(to, entries, { dryRun })) job.shredded.add(userId)
  } else {
    copied = 0
    // The last pass writes nothing, so it has compared every row once more.
    for (let pass = 1, written = -1; written !== 0 && pass <= MAX_PASSES && !signal?.aborted; pass += 1) {
      written = await copyPass(job, pass)
      copied += written
    }
    // Read again, because lines may have been added meanwhile.
    if (shredLog !== undefined && !signal?.aborted)
      for (const userId of await applyShredLog({ store: to, shredLog })) job.shredded.add(userId)
  }
  const complete = !signal?.aborted
  const counted = { from: await census({ store: from }), to: await census({ store: to }) }
  const report = { complete, dryRun, copied, shredded: [...job.shredded], census: counted }
  if (!complete) return { ...report, extra: 0, digest: { from: null, to: null }, equal: false }
  const digests = { from: await digestOf(job, from, entries), to: await digestOf(job, to, NO_ENTRIES) }
  const shared = digests.from.rows - (dryRun ? before.missing : 0)
  return {
    ...report,
    extra: Math.max(0, digests.to.rows - shared),
    digest: { from: digests.from.sha256, to: digests.to.sha256 },
    equal: digests.from.sha256 === digests.to.sha256,
  }
}

/** What one call of copyKeys works with. */
interface CopyJob extends LongWorkOptions {
  readonly from: KeyStore
  readonly to: KeyStore
  readonly target: StoreMaintenance
  readonly entries: ShredEntries
  /** Collects the users who were erased at the target. */
  readonly shredded: Set<string>
}

/** Compares all rows before anything is written. @returns how many rows the target lacks, and how many it has to erase */
async function compare(job: CopyJob): Promise<{ readonly missing: number; readonly erased: number }> {
  const counts = { missing: 0, erased: 0 }
  for await (const { missing, erased } of differingPages(job, 'comparing')) {
    counts.missing += missing.length
    counts.erased += erased.length
    for (const { userId } of erased) job.shredded.add(userId)
  }
  return counts
}

/** Goes over the source once. @returns how many rows were written */
async function copyPass(job: CopyJob, pass: number): Promise<number> {
  let written = 0
  for await (const { missing, erased } of differingPages(job, pass === 1 ? 'copying' : 'copying again')) {
    // One shred erases all versions of a user, and all of them are in the list.
    const users = new Map(erased.map((record) => [record.userId, record.shreddedAt ?? new Date()]))
    for (const [userId, at] of users) await job.to.shred(userId, { forget: false, at })
    for (const userId of users.keys()) job.shredded.add(userId)
    written += erased.length + missing.length
    if (missing.length === 0) continue
    const stored = new Map((await job.target.restore(missing)).map((row) => [refKey(row), row]))
    for (const record of missing) {
      const found = stored.get(refKey(record))
      if (found === undefined || !isSameRecord(record, found)) throw conflict(record, found)
    }
  }
  return written
}

/**
 * Applies the shred log to the source's rows, page by page, and compares them with the target. Yields the rows that the target
 * lacks and the rows that it has to erase.
 *
 * @throws ERR_STORE naming a row that differs at the target
 */
async function* differingPages(job: CopyJob, phase: string) {
  const { from, to, entries } = job
  const progress = new ProgressMeter(phase, totalCount(await from.census()), job)
  for await (const page of pagesOf(from, job, {}, refuseUnreadable)) {
    const records = page.flatMap((record) => afterShredLog(record, entries) ?? [])
    const stored = await to.getAll([...new Set(records.map(({ userId }) => userId))])
    const missing: KeyRecord[] = []
    const erased: KeyRecord[] = []
    for (const record of records) {
      const found = stored.get(record.userId)?.find(({ version }) => version === record.version)
      if (found === undefined) missing.push(record)
      else if (isErasedAtSource(record, found)) erased.push(record)
      else if (!isSameRecord(record, found)) throw conflict(record, found)
    }
    yield { missing, erased }
    progress.add(page.length)
  }
}

/**
 * Whether the target has the row as it was before the source shredded it. `createdAt` tells: a shred leaves it as it is and
 * erases the wrapped key.
 */
function isErasedAtSource(source: KeyRecord, target: KeyRecord): boolean {
  const isTombstoneNow = source.shreddedAt !== null && target.shreddedAt === null
  return isTombstoneNow && source.createdAt.getTime() === target.createdAt.getTime()
}

function isSameRecord(a: KeyRecord, b: KeyRecord): boolean {
  return Buffer.compare(canonicalBytes(a), canonicalBytes(b)) === 0
}

function canonicalBytes(record: KeyRecord): Buffer {
  const { userId, version, encryptedKey, kekId, createdAt, wrappedAt, shreddedAt } = record
  // Each value that may be null has a flag before it, so that a null KEK id and an empty one have different bytes.
  const optional = [kekId, wrappedAt?.toISOString() ?? null, shreddedAt?.toISOString() ?? null]
  const pieces = optional.flatMap((value) => (value === null ? ['0', ''] : ['1', value]))
  return preAuthEncode([userId, String(version), encryptedKey, createdAt.toISOString(), ...pieces])
}

interface RecordsDigest {
  readonly sha256: string
  readonly rows: number
}

const NO_ENTRIES: ShredEntries = new Map()

async function digestOf(job: CopyJob, store: KeyStore, entries: ShredEntries): Promise<RecordsDigest> {
  const hash = incrementalSha256()
  const progress = new ProgressMeter('comparing all records', totalCount(await store.census()), job)
  let rows = 0
  for await (const page of pagesOf(store, { ...job, signal: undefined }, {}, refuseUnreadable)) {
    progress.add(page.length)
    for (const record of page) {
      const remaining = afterShredLog(record, entries)
      if (remaining === null) continue
      rows += 1
      hash.update(canonicalBytes(remaining))
    }
  }
  return { sha256: hash.digest().toString('hex'), rows }
}

function refuseUnreadable(_ref: KeyRef, error: KeystoreError): never {
  throw error
}

/** @param found the target's row; undefined if a tombstone of the user kept the record from being inserted */
function conflict(record: KeyRecord, found: KeyRecord | undefined): StoreError {
  const { userId, version } = record
  return new StoreError(
    `The row of ${describeRef(record)} ${conflictReason(record, found)}. Nothing of it was written`,
    { ref: { userId, version } },
  )
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
