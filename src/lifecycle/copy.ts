/** Copies a key store into another: the switch to production, backup and restore. Opens no key, and needs no master key. */

import { invalidArgument, type KeystoreError, StoreError } from '../errors.js'
import { incrementalSha256 } from '../format/aead.js'
import { preAuthEncode } from '../format/encoding.js'
import { describeRef } from '../master-keys/key-wrap.js'
import { afterShredLog, applyShredLog, eraseAgain, readShredLog, type ShredEntries } from '../shred.js'
import type { CensusRow, KeyStore, StoreMaintenance } from '../store.js'
import { type KeyRecord, type KeyRef, refKey } from '../table.js'
import { census } from './census.js'
import { assertOptions, type LongWorkOptions, ProgressMeter, pagesOf } from './long-work.js'

export interface CopyOptions extends LongWorkOptions {
  readonly from: KeyStore
  readonly to: KeyStore
  /** The path of a shred log: who is in it arrives erased, and is erased again at the target. */
  readonly shredLog?: string
  /** Compare, and write nothing. */
  readonly dryRun?: boolean
}

export interface CopyReport {
  /** False if `signal` ended it: start it again. */
  readonly complete: boolean
  readonly dryRun: boolean
  /** Rows written at the target, or with `dryRun` that would be. */
  readonly copied: number
  /** Users of whom the shred log, or a tombstone of the source, erased something at the target, or with `dryRun` would. */
  readonly shredded: readonly string[]
  /** Rows that the target has and the source has not; 0 unless `complete`. */
  readonly extra: number
  readonly census: { readonly from: readonly CensusRow[]; readonly to: readonly CensusRow[] }
  /** SHA-256 over all records in order, hexadecimal: of the source (as the shred log leaves it), and of the target. Null unless `complete`. */
  readonly digest: { readonly from: string | null; readonly to: string | null }
  /** Whether both hold the same records: equal digests. */
  readonly equal: boolean
}

/** A source that is written all the time is never done: what is minted later is for the next call. */
const MAX_PASSES = 10

/**
 * Makes the target hold every row that the source holds, exactly, tombstones too. Safe to repeat, and to start again when it was
 * killed; a further call picks up what was minted meanwhile. Every row written is read back and compared, and at the end all of both.
 *
 * A row that the target has with another key is refused before anything is written: it names it and touches nothing.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_STORE (an outage; with `ref`: the row that differs, or that cannot be read) · ERR_CLOSED
 * @example
 * const { equal } = await copyKeys({ from: await openKeyStore('data/keystore.db'), to: await openKeyStore('postgres://…') })
 */
export async function copyKeys(options: CopyOptions): Promise<CopyReport> {
  assertOptions(options, 'from', 'to')
  const { from, to, shredLog, dryRun = false, signal } = options
  const target = to.maintenance
  if (target === undefined) throw invalidArgument('to must be a key store that rows can be copied into')
  const entries: ShredEntries = shredLog === undefined ? NO_ENTRIES : readShredLog(shredLog)
  const work: Work = { ...options, target, entries, shredded: new Set() }

  const before = await compare(work)
  let copied = before.missing + before.erased
  if (dryRun) {
    for (const userId of await eraseAgain(to, entries, { dryRun })) work.shredded.add(userId)
  } else {
    copied = 0
    // The last pass finds nothing to write, and has compared every row once more.
    for (let pass = 1, written = -1; written !== 0 && pass <= MAX_PASSES && !signal?.aborted; pass += 1) {
      written = await copyOnce(work, pass)
      copied += written
    }
    // Read again: it may have got lines meanwhile.
    if (shredLog !== undefined && !signal?.aborted)
      for (const userId of await applyShredLog({ store: to, shredLog })) work.shredded.add(userId)
  }
  const complete = !signal?.aborted
  const counted = { from: await census({ store: from }), to: await census({ store: to }) }
  const report = { complete, dryRun, copied, shredded: [...work.shredded], census: counted }
  if (!complete) return { ...report, extra: 0, digest: { from: null, to: null }, equal: false }
  const digests = { from: await digestOf(work, from, entries), to: await digestOf(work, to, NO_ENTRIES) }
  const shared = digests.from.rows - (dryRun ? before.missing : 0)
  return {
    ...report,
    extra: Math.max(0, digests.to.rows - shared),
    digest: { from: digests.from.sha256, to: digests.to.sha256 },
    equal: digests.from.sha256 === digests.to.sha256,
  }
}

interface Work extends LongWorkOptions {
  readonly from: KeyStore
  readonly to: KeyStore
  readonly target: StoreMaintenance
  readonly entries: ShredEntries
  readonly shredded: Set<string>
}

/** Looks for rows that differ before anything is written. @returns how many rows the target lacks, and has to erase */
async function compare(work: Work): Promise<{ readonly missing: number; readonly erased: number }> {
  const counts = { missing: 0, erased: 0 }
  for await (const { missing, erased } of sourcePages(work, 'comparing')) {
    counts.missing += missing.length
    counts.erased += erased.length
    for (const { userId } of erased) work.shredded.add(userId)
  }
  return counts
}

/** One pass over the source. @returns how many rows were written */
async function copyOnce(work: Work, pass: number): Promise<number> {
  let written = 0
  for await (const { missing, erased } of sourcePages(work, pass === 1 ? 'copying' : 'looking again')) {
    // A shred erases all versions, which are all in the list.
    const users = new Map(erased.map((record) => [record.userId, record.shreddedAt ?? new Date()]))
    for (const [userId, at] of users) await work.to.shred(userId, { forget: false, at })
    for (const userId of users.keys()) work.shredded.add(userId)
    written += erased.length + missing.length
    if (missing.length === 0) continue
    const winners = new Map((await work.target.restore(missing)).map((winner) => [refKey(winner), winner]))
    for (const record of missing) {
      const found = winners.get(refKey(record))
      if (found === undefined || !isSame(record, found)) throw differs(record, found)
    }
  }
  return written
}

/**
 * Of the source's rows, as the shred log leaves them, those that the target lacks, and those that it has to erase.
 *
 * @throws ERR_STORE naming a row that the target has otherwise
 */
async function* sourcePages(work: Work, phase: string) {
  const { from, to, entries } = work
  const progress = new ProgressMeter(phase, rowsIn(await from.census()), work)
  for await (const page of pagesOf(from, work, {}, refuseUnreadable)) {
    const records = page.flatMap((record) => afterShredLog(record, entries) ?? [])
    const stored = await to.getAll([...new Set(records.map(({ userId }) => userId))])
    const missing: KeyRecord[] = []
    const erased: KeyRecord[] = []
    for (const record of records) {
      const found = stored.get(record.userId)?.find(({ version }) => version === record.version)
      if (found === undefined) missing.push(record)
      else if (isErasedAtSource(record, found)) erased.push(record)
      else if (!isSame(record, found)) throw differs(record, found)
    }
    yield { missing, erased }
    progress.add(page.length)
  }
}

function rowsIn(rows: readonly CensusRow[]): number {
  return rows.reduce((sum, { count }) => sum + count, 0)
}

/** The target has the row as it was before it was shredded at the source: the same row, by all that a shred leaves. */
function isErasedAtSource(source: KeyRecord, target: KeyRecord): boolean {
  const isTombstoneNow = source.shreddedAt !== null && target.shreddedAt === null
  return isTombstoneNow && source.createdAt.getTime() === target.createdAt.getTime()
}

function isSame(a: KeyRecord, b: KeyRecord): boolean {
  return Buffer.compare(bytesOf(a), bytesOf(b)) === 0
}

function bytesOf(record: KeyRecord): Buffer {
  const { userId, version, encryptedKey, kekId, createdAt, wrappedAt, shreddedAt } = record
  // Null is no piece of text: an empty KEK id would have the same bytes.
  const optional = [kekId, wrappedAt?.toISOString() ?? null, shreddedAt?.toISOString() ?? null]
  const pieces = optional.flatMap((value) => (value === null ? ['0', ''] : ['1', value]))
  return preAuthEncode([userId, String(version), encryptedKey, createdAt.toISOString(), ...pieces])
}

interface RecordsDigest {
  readonly sha256: string
  readonly rows: number
}

const NO_ENTRIES: ShredEntries = new Map()

async function digestOf(work: Work, store: KeyStore, entries: ShredEntries): Promise<RecordsDigest> {
  const hash = incrementalSha256()
  const progress = new ProgressMeter('comparing all records', rowsIn(await store.census()), work)
  let rows = 0
  for await (const page of pagesOf(store, { ...work, signal: undefined }, {}, refuseUnreadable)) {
    progress.add(page.length)
    for (const record of page) {
      const left = afterShredLog(record, entries)
      if (left === null) continue
      rows += 1
      hash.update(bytesOf(left))
    }
  }
  return { sha256: hash.digest().toString('hex'), rows }
}

function refuseUnreadable(_ref: KeyRef, error: KeystoreError): never {
  throw error
}

function differs(record: KeyRecord, found: KeyRecord | undefined): StoreError {
  const { userId, version } = record
  const what =
    found !== undefined && found.shreddedAt !== null && record.shreddedAt !== null
      ? 'is another tombstone at the target: find out which is right'
      : found === undefined || found.shreddedAt !== null
        ? 'was shredded at the target: shred the user at the source too'
        : record.shreddedAt !== null
          ? 'is a tombstone at the source and another live key at the target: find out which is right'
          : 'is another key at the target, or was rewrapped since it was copied: copy into an empty store, or find out which is right'
  return new StoreError(`The row of ${describeRef(record)} ${what}. Nothing of it was written`, {
    ref: { userId, version },
  })
}
