/** Copies a key store into another: the switch to production, backup and restore. Opens no key, and needs no master key. */
import { incrementalSha256 } from '../aead.js'
import { preAuthEncode } from '../encoding.js'
import { invalidArgument, type KeystoreError, StoreError } from '../errors.js'
import { describeRef } from '../key-wrap.js'
import {
  type CensusRow,
  type KeyRecord,
  type KeyRef,
  type KeyStore,
  refKey,
  type StoreMaintenance,
} from '../store.js'
import { census } from './census.js'
import { assertOptions, type LongWorkOptions, ProgressMeter, pagesOf } from './long-work.js'
import { afterShredLog, applyShredLog, readShredLog, type ShredEntries } from './shred-log.js'

export interface CopyOptions extends LongWorkOptions {
  readonly from: KeyStore
  readonly to: KeyStore
  /** The path of a shred log: who is in it arrives erased, and is erased again at the target. */
  readonly shredLog?: string
  /** Compare, and write nothing. */
  readonly dryRun?: boolean
}

export interface CopyReport {
  readonly complete: boolean
  readonly dryRun: boolean
  /** Rows written at the target, or with `dryRun` that would be. */
  readonly copied: number
  /** Users of whom the shred log, or a tombstone of the source, erased something at the target. */
  readonly shredded: readonly string[]
  /** Rows that the target has and the source has not. */
  readonly extra: number
  readonly census: { readonly from: readonly CensusRow[]; readonly to: readonly CensusRow[] }
  /** SHA-256 over all records in order, hexadecimal: of the source (as the shred log leaves it), and of the target. */
  readonly digest: { readonly from: string; readonly to: string }
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

  let missing = await compare(work)
  let copied = missing
  let digest = await digestsOf(work)
  if (!dryRun) {
    copied = 0
    for (let pass = 1; pass <= MAX_PASSES && !signal?.aborted; pass += 1) {
      const written = await copyOnce(work)
      copied += written
      digest = await digestsOf(work)
      // What the source got meanwhile is for the next pass; rows that only the target has are not for any.
      if (written === 0 || digest.equal) break
    }
    missing = 0
    if (shredLog !== undefined && !signal?.aborted) {
      for (const userId of await applyShredLog({ store: to, shredLog })) work.shredded.add(userId)
      digest = await digestsOf(work)
    }
  }
  return {
    complete: !signal?.aborted,
    dryRun,
    copied,
    shredded: [...work.shredded],
    extra: Math.max(0, digest.to.rows + missing - digest.from.rows),
    census: { from: await census({ store: from }), to: await census({ store: to }) },
    digest: { from: digest.from.sha256, to: digest.to.sha256 },
    equal: digest.equal,
  }
}

interface Work extends LongWorkOptions {
  readonly from: KeyStore
  readonly to: KeyStore
  readonly target: StoreMaintenance
  readonly entries: ShredEntries
  readonly shredded: Set<string>
}

/** Looks for rows that differ before anything is written. @returns how many rows the target lacks */
async function compare(work: Work): Promise<number> {
  let missing = 0
  for await (const { records, stored } of sourcePages(work, 'comparing')) {
    for (const record of records) {
      const found = stored.get(refKey(record))
      if (found === undefined) missing += 1
      else if (!isSame(record, found) && !isErasedAtSource(record, found)) throw differs(record, found)
    }
  }
  return missing
}

/** One pass over the source. @returns how many rows were written */
async function copyOnce(work: Work): Promise<number> {
  let written = 0
  for await (const { records, stored } of sourcePages(work, 'copying')) {
    const missing: KeyRecord[] = []
    for (const record of records) {
      const found = stored.get(refKey(record))
      if (found === undefined) missing.push(record)
      else if (isErasedAtSource(record, found)) written += await eraseAtTarget(work, record)
      else if (!isSame(record, found)) throw differs(record, found)
    }
    if (missing.length === 0) continue
    const winners = new Map((await work.target.restore(missing)).map((winner) => [refKey(winner), winner]))
    for (const record of missing) {
      const found = winners.get(refKey(record))
      if (found === undefined || !isSame(record, found)) throw differs(record, found)
    }
    written += missing.length
  }
  return written
}

/** The source's rows as the shred log leaves them, and what the target has under their refs. */
async function* sourcePages(work: Work, phase: string) {
  const total = (await work.from.census()).reduce((sum, { count }) => sum + count, 0)
  const progress = new ProgressMeter(phase, total, work)
  for await (const page of pagesOf(work.from, work, {}, refuseUnreadable)) {
    const records = page.flatMap((record) => afterShredLog(record, work.entries) ?? [])
    const found = await work.to.getAll([...new Set(records.map(({ userId }) => userId))])
    const stored = new Map([...found.values()].flat().map((record) => [refKey(record), record]))
    yield { records, stored }
    progress.add(page.length)
  }
}

/** The target has the row as it was before it was shredded at the source: the same row, by all that a shred leaves. */
function isErasedAtSource(source: KeyRecord, target: KeyRecord): boolean {
  const isTombstoneNow = source.shreddedAt !== null && target.shreddedAt === null
  return isTombstoneNow && source.createdAt.getTime() === target.createdAt.getTime()
}

/** @returns 1: also the user's other versions, which the source has as tombstones too */
async function eraseAtTarget({ to, shredded }: Work, { userId, shreddedAt }: KeyRecord): Promise<number> {
  if (!shredded.has(userId)) await to.shred(userId, { forget: false, at: shreddedAt ?? new Date() })
  shredded.add(userId)
  return 1
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

/** Over all records in their order, one store after the other. */
async function digestsOf(work: Work) {
  const from = await digestOf(work, work.from, work.entries)
  const to = await digestOf(work, work.to, NO_ENTRIES)
  return { from, to, equal: from.sha256 === to.sha256 }
}

const NO_ENTRIES: ShredEntries = new Map()

async function digestOf(work: Work, store: KeyStore, entries: ShredEntries): Promise<RecordsDigest> {
  const hash = incrementalSha256()
  let rows = 0
  for await (const page of pagesOf(store, { ...work, signal: undefined }, {}, refuseUnreadable)) {
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
    found === undefined || found.shreddedAt !== null
      ? 'was shredded at the target: shred the user at the source too'
      : record.shreddedAt !== null
        ? 'is a tombstone at the source and another live key at the target: find out which is right'
        : 'is another key at the target, or was rewrapped since it was copied: copy into an empty store, or find out which is right'
  return new StoreError(`The row of ${describeRef(record)} ${what}. Nothing of it was written`, {
    ref: { userId, version },
  })
}
