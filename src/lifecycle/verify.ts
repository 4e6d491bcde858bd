/** Everything that can be wrong with a key store, found before a user does: what `keystore doctor` presents. */

import type { Format } from '../format/formats.js'
import { unwrapDataKey } from '../master-keys/key-wrap.js'
import { keyringOf, type MasterKeyring } from '../master-keys/keyring.js'
import { isLocal, isV2Wrap } from '../master-keys/local.js'
import type { MasterKey } from '../master-keys/master-key.js'
import type { CensusRow, KeyStore, StoreFinding } from '../store.js'
import type { KeyRecord, KeyRef } from '../table.js'
import { census, type MasterKeyUse, masterKeyUses } from './census.js'
import {
  assertOptions,
  inTurns,
  isOfOneRow,
  type LongWorkOptions,
  ProgressMeter,
  pagesOf,
  usersOf,
} from './long-work.js'
import { DataKeyDigests, describeOthers, EXCHANGED, isExchanged, sharedAmong } from './shared-keys.js'

export interface VerifyOptions extends LongWorkOptions {
  readonly store: KeyStore
  readonly masterKeys: MasterKeyring | MasterKey
  /** The wrap formats opened. Default both: v2 wraps are then warned of, and without `'v2'` they are errors. */
  readonly accept?: readonly Format[]
}

/** One thing that is wrong; about one row, or about the store. */
export interface Finding {
  readonly severity: 'error' | 'warning'
  /**
   * - `undecryptable`, `unknownMasterKey`: the row's users cannot read their data
   * - `sharedKey`: one data key stands in several rows
   * - `liveAfterShred`, `shreddedButNotErased`: a tombstone's user has a live row; a tombstone holds bytes
   * - `v2Wrap`, `withoutFirstVersion`, `inTheFuture`, `unreadable`
   * - `schemaVersion`, `damage` (both keep rows from being looked at), `fileMode`, `setting` and whatever else the store finds about itself
   */
  readonly kind: string
  readonly userId?: string
  readonly version?: number
  readonly kekId?: string | null
  /** What was found and what to do; never a key. */
  readonly reason: string
}

export interface VerifyReport {
  readonly complete: boolean
  /** False if any finding is an error. */
  readonly ok: boolean
  readonly rows: number
  readonly census: readonly CensusRow[]
  readonly masterKeys: readonly MasterKeyUse[]
  /** The first 1,000 of each kind. */
  readonly findings: readonly Finding[]
  /** All of them, by kind. */
  readonly counts: Readonly<Record<string, number>>
}

/** Findings of a kind that a report lists; all are counted. */
const MAX_LISTED = 1000
/** Clocks differ. */
const CLOCK_TOLERANCE_MS = 5 * 60 * 1000

/**
 * Opens every row's wrapped key and looks at the store itself. Changes nothing.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_MASTER_KEY (a key service fails) · ERR_STORE (an outage) · ERR_CLOSED
 * @example
 * const { ok, findings } = await verifyAll({ store, masterKeys: masterKeysFromEnv() })
 */
export async function verifyAll(options: VerifyOptions): Promise<VerifyReport> {
  assertOptions(options, 'store')
  const { store, accept = ['v2', 'v3'], signal } = options
  const keyring = keyringOf(options.masterKeys)
  const findings = new Findings()
  for (const finding of (await store.maintenance?.inspect()) ?? []) findings.add(finding)
  // A table that is not what we know, or a damaged file, cannot be read to its end.
  if (findings.has('schemaVersion') || findings.has('damage'))
    return report(findings, { rows: 0, census: [], keyring, complete: false })

  const counted = await census({ store })
  const total = counted.reduce((sum, { count }) => sum + count, 0)
  const progress = new ProgressMeter('verifying', total, options)
  const digests = new DataKeyDigests()
  const unreadable = new Set<string>()
  const pages = pagesOf(store, options, {}, (ref, error) => {
    unreadable.add(ref.userId)
    findings.ofRow('error', 'unreadable', ref, error.message)
  })
  let rows = 0
  for await (const users of usersOf(pages, options)) {
    const records = users.flat()
    const latest = Date.now() + CLOCK_TOLERANCE_MS
    for (const versions of users) checkVersions(findings, versions, unreadable)
    for (const record of records) checkTimes(findings, record, latest)
    const live = records.filter(({ shreddedAt }) => shreddedAt === null)
    await inTurns(live, (record) => checkKey(findings, record, keyring, accept, digests))
    rows += records.length
    progress.add(records.length)
  }
  if (!signal?.aborted) await checkSharedKeys(findings, options, keyring, accept, digests)
  return report(findings, { rows, census: counted, keyring, complete: !signal?.aborted })
}

/** @param unreadable of these users there are more rows than versions */
function checkVersions(
  findings: Findings,
  versions: readonly KeyRecord[],
  unreadable: ReadonlySet<string>,
): void {
  const first = versions[0] as KeyRecord
  const tombstones = versions.filter(({ shreddedAt }) => shreddedAt !== null)
  for (const row of tombstones) {
    if (row.encryptedKey.length > 0)
      findings.ofRow(
        'error',
        'shreddedButNotErased',
        row,
        'The tombstone still holds a wrapped key: shred the user again',
      )
  }
  for (const row of tombstones.length === 0 ? [] : versions) {
    if (row.shreddedAt === null)
      findings.ofRow(
        'error',
        'liveAfterShred',
        row,
        'A shredded user has a live key, from a backup perhaps: shred the user again',
      )
  }
  if (first.version !== 1 && tombstones.length === 0 && !unreadable.has(first.userId)) {
    const reason =
      'Version 1 was pruned: v2 tokens of the user cannot be opened, and fingerprints cannot be made'
    findings.ofRow('warning', 'withoutFirstVersion', first, reason)
  }
}

function checkTimes(findings: Findings, record: KeyRecord, latest: number): void {
  for (const name of ['createdAt', 'wrappedAt', 'shreddedAt'] as const) {
    const time = record[name]
    if (time !== null && time.getTime() > latest)
      findings.ofRow(
        'warning',
        'inTheFuture',
        record,
        `${name} is in the future: a clock was wrong, here or where it was written`,
      )
  }
}

async function checkKey(
  findings: Findings,
  record: KeyRecord,
  keyring: MasterKeyring,
  accept: readonly Format[],
  digests: DataKeyDigests,
): Promise<void> {
  try {
    const dataKey = await unwrapDataKey(keyring, record, accept)
    digests.add(dataKey)
    dataKey.fill(0)
  } catch (error) {
    if (!isOfOneRow(error)) throw error
    const kind = error.code === 'ERR_UNKNOWN_MASTER_KEY' ? 'unknownMasterKey' : 'undecryptable'
    findings.ofRow('error', kind, record, error.message)
    return
  }
  const masterKey = record.kekId === null ? null : keyring.find(record.kekId)
  const isLocalRow = masterKey === null || isLocal(masterKey)
  // A rewrap would not even look at the row.
  if (isExchanged(keyring, record)) findings.ofRow('error', 'undecryptable', record, EXCHANGED)
  else if (isLocalRow && isV2Wrap(record.encryptedKey))
    findings.ofRow(
      'warning',
      'v2Wrap',
      record,
      'Wrapped in format v2, which binds no key to its user: run `keystore rewrap --accept-v2`',
    )
}

async function checkSharedKeys(
  findings: Findings,
  options: VerifyOptions,
  keyring: MasterKeyring,
  accept: readonly Format[],
  digests: DataKeyDigests,
): Promise<void> {
  const shared = await sharedAmong(options.store, keyring, accept, digests, options)
  // A group stands there once for each of its rows.
  for (const group of new Set(shared.values())) {
    for (const ref of group) {
      const reason = `The same data key stands in other rows (${describeOthers(group, ref)}): one was copied`
      findings.ofRow('error', 'sharedKey', ref, reason)
    }
  }
}

class Findings {
  readonly listed: Finding[] = []
  readonly counts: Record<string, number> = {}
  ok = true

  add(finding: Finding | StoreFinding): void {
    const count = (this.counts[finding.kind] ?? 0) + 1
    this.counts[finding.kind] = count
    if (finding.severity === 'error') this.ok = false
    if (count <= MAX_LISTED) this.listed.push(finding)
  }

  ofRow(
    severity: Finding['severity'],
    kind: string,
    row: KeyRef & Partial<Pick<KeyRecord, 'kekId'>>,
    reason: string,
  ): void {
    const { userId, version, kekId } = row
    this.add({ severity, kind, userId, version, ...(kekId === undefined ? {} : { kekId }), reason })
  }

  has(kind: string): boolean {
    return (this.counts[kind] ?? 0) > 0
  }
}

function report(
  findings: Findings,
  seen: {
    readonly rows: number
    readonly census: readonly CensusRow[]
    readonly keyring: MasterKeyring
    readonly complete: boolean
  },
): VerifyReport {
  const { rows, complete } = seen
  return {
    complete,
    ok: findings.ok,
    rows,
    census: seen.census,
    masterKeys: masterKeyUses(seen.census, seen.keyring),
    findings: findings.listed,
    counts: findings.counts,
  }
}
