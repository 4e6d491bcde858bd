/** The checks of a key store that `keystore doctor` reports. */

import type { KeystoreError, KeystoreErrorCode } from '../errors.js'
import { isTurnDueInLoop, nextTurn } from '../event-loop.js'
import type { Format } from '../format/formats.js'
import { keyringOf, type MasterKeyring } from '../master-keys/keyring.js'
import { isLocal, isV2Wrap } from '../master-keys/local.js'
import type { MasterKey } from '../master-keys/master-key.js'
import { parseTenantKekId, tenantKekId, tenantRow } from '../master-keys/tenant-keys.js'
import { knowsTenants } from '../master-keys/tenant-roots.js'
import { isStray, strayVersion } from '../master-keys/tenant-versions.js'
import type { CensusRow, KeyStore, StoreFinding } from '../store.js'
import { isTenantRow, type KeyRecord, type KeyRef, tenantIdOf } from '../table.js'
import { traced } from '../traced-calls.js'
import { censusFor, type MasterKeyUse, masterKeyUses, totalCount } from './census.js'
import { limitFindings } from './limits.js'
import {
  COUNTING,
  checkedOptions,
  exactVersionOf,
  groupPagesByUser,
  isRowError,
  type LongWorkOptions,
  mapConcurrently,
  ProgressMeter,
  pagesOf,
} from './long-work.js'
import {
  DataKeyDigests,
  describeOtherRows,
  findRowsOfRepeatedKeys,
  isV2WrapUnderV3Id,
  V2_WRAP_UNDER_V3_ID,
} from './shared-keys.js'
import { TenantKeys } from './tenant-keys.js'

/** The options of {@link verifyAll}. */
export interface VerifyOptions extends LongWorkOptions {
  /** The store that is looked at. Nothing of it is changed. */
  readonly store: KeyStore
  /** Those that the application has, the previous ones too. */
  readonly masterKeys: MasterKeyring | MasterKey
  /** The wrap formats read. Default both. A v2 wrap is a warning if `'v2'` is among them, and an error if not. */
  readonly accept?: readonly Format[]
}

/** One thing that is wrong, with a row or with the store. */
export interface Finding {
  /** A note says what nobody can change, such as what a driver cannot do. */
  readonly severity: 'error' | 'warning' | 'note'
  /**
   * - `undecryptable`, `unknownMasterKey`: the wrapped key does not unwrap, so its user cannot read data encrypted under it
   * - `masterKeyFailed`: the row's master key did not do its work: it says nothing about the row, which was not checked
   * - `tenantShredded`: a tenant was shredded, and its users with it, whose rows are still there
   * - `tenantMissing`: users are under a tenant's key that is not in the store
   * - `tenantNotChecked`: a tenant's root was not given, and the keyring says nothing of tenants
   * - `tenantMixed`: a version of a tenant's key is under another root than an earlier one, and not under the root that the keyring names: it
   *   may be planted
   * - `sharedKey`: several rows hold one data key
   * - `liveAfterShred`: a shredded user has a live row
   * - `shreddedButNotErased`: a tombstone still holds a wrapped key
   * - `v2Wrap`: the wrap binds no key to its user
   * - `withoutFirstVersion`: version 1 was pruned
   * - `inTheFuture`: a time of the row is in the future
   * - `unreadable`: the row is no record: its id, its version or a time cannot be read
   * - `nearLimit`: many keys are wrapped under one master key, or a key has many versions
   * - `schemaVersion`, `damage`: no row was checked because of it
   * - `fileMode`, `setting`, and what else the store reports about itself
   */
  readonly kind: string
  /** Whose row it is; absent: of no single row. */
  readonly userId?: string
  /** Which version of the key. */
  readonly version?: number
  /** The version as text, where it is a whole number that `version` rounds. */
  readonly exactVersion?: string
  /** Under which master key the row is. */
  readonly kekId?: string | null
  /** What is wrong and what to do. Never holds a key. */
  readonly reason: string
}

/** What {@link verifyAll} found. */
export interface VerifyReport {
  /** False if `signal` stopped the verification, or if the table cannot be read. */
  readonly complete: boolean
  /** False if any finding is an error. */
  readonly ok: boolean
  /** Rows that were checked. */
  readonly rows: number
  /** The rows by KEK id and version. */
  readonly census: readonly CensusRow[]
  /** The rows by master key. */
  readonly masterKeys: readonly MasterKeyUse[]
  /** The first 1,000 of each kind. */
  readonly findings: readonly Finding[]
  /** How many findings there are of each kind, listed or not. */
  readonly counts: Readonly<Record<string, number>>
}

/** A report lists this many findings of each kind and counts the rest. */
const MAX_LISTED_PER_KIND = 1000
/** A row's time may be this far ahead, because clocks differ. */
const CLOCK_TOLERANCE_MS = 5 * 60 * 1000

/**
 * Unwraps the key of every row, and checks the rows and the store itself. Changes nothing. The event loop turns meanwhile, except that SQLite
 * checks the whole file for damage in one step: a second for each gigabyte or so.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_STORE (an outage) · ERR_CLOSED
 * @example
 * const { ok, findings } = await verifyAll({ store, masterKeys: masterKeysFromEnv() })
 */
export function verifyAll(options: VerifyOptions): Promise<VerifyReport> {
  return traced('verifyAll', () => verify(options))
}

async function verify(options: VerifyOptions): Promise<VerifyReport> {
  options = checkedOptions(options, 'store')
  const { store, accept = ['v2', 'v3'], signal } = options
  const keyring = keyringOf(options.masterKeys)
  const findings = new Findings()
  for (const finding of (await store.maintenance?.inspect()) ?? []) findings.add(finding)
  // A table of an unknown schema, or a damaged file, cannot be read to its end.
  if (findings.has('schemaVersion') || findings.has('damage'))
    return reportOf(findings, { rows: 0, census: [], keyring, complete: false })

  options.onProgress?.(COUNTING)
  const counted = await censusFor(store, keyring)
  const tenants = new TenantChecks(new TenantKeys(store, keyring), keyring, findings)
  for (const finding of limitFindings(counted)) findings.add(finding)
  const progress = new ProgressMeter('verifying', totalCount(counted), options)
  const digests = new DataKeyDigests()
  const unreadable = new Set<string>()
  const pages = pagesOf(store, options, {}, ({ userId, version, hasId, error }) => {
    if (hasId) unreadable.add(userId)
    const ref = { userId, version, ...exactVersionOf(error) }
    findings.add({ severity: 'error', kind: 'unreadable', ...ref, reason: error.message })
  })
  let rows = 0
  for await (const users of groupPagesByUser(pages, options)) {
    const records = users.flat()
    const latest = Date.now() + CLOCK_TOLERANCE_MS
    for (const versions of users) checkVersions(findings, versions, unreadable)
    for (const versions of users.filter(([row]) => row !== undefined && isTenantRow(row)))
      await checkRoots(findings, versions, tenants.keys)
    for (const record of records) checkTimes(findings, record, latest)
    const live = records.filter(({ shreddedAt }) => shreddedAt === null)
    await mapConcurrently(live, (record) => checkKey(findings, record, keyring, tenants, accept, digests))
    rows += records.length
    progress.add(records.length)
  }
  if (!signal?.aborted) await checkSharedKeys(findings, options, tenants.keys, accept, digests)
  return reportOf(findings, { rows, census: counted, keyring, complete: !signal?.aborted })
}

/** @param unreadable users with a row that could not be read, so that `versions` lacks it */
function checkVersions(
  findings: Findings,
  versions: readonly KeyRecord[],
  unreadable: ReadonlySet<string>,
): void {
  const first = versions[0] as KeyRecord
  const owner = isTenantRow(first) ? 'tenant' : 'user'
  const tombstones = versions.filter(({ shreddedAt }) => shreddedAt !== null)
  for (const row of tombstones) {
    if (row.encryptedKey.length > 0)
      findings.ofRow(
        'error',
        'shreddedButNotErased',
        row,
        `The tombstone still holds a wrapped key: shred the ${owner} again`,
      )
  }
  for (const row of tombstones.length === 0 ? [] : versions) {
    if (row.shreddedAt === null)
      findings.ofRow(
        'error',
        'liveAfterShred',
        row,
        `A shredded ${owner} has a live key, from a backup perhaps: shred the ${owner} again`,
      )
  }
  // Tenants' keys seal no tokens. Users under a version that is gone have a finding of their own.
  if (isTenantRow(first)) return
  if (first.version !== 1 && tombstones.length === 0 && !unreadable.has(first.userId)) {
    const reason =
      'Version 1 was pruned: v2 tokens of the user cannot be opened, and fingerprints under it (f1:) match nothing'
    findings.ofRow('warning', 'withoutFirstVersion', first, reason)
  }
}

/** @param versions of a tenant's key */
async function checkRoots(
  findings: Findings,
  versions: readonly KeyRecord[],
  tenants: TenantKeys,
): Promise<void> {
  const live = versions.filter(({ shreddedAt }) => shreddedAt === null)
  const [first] = live
  if (first === undefined || live.every(({ kekId }) => kekId === first.kekId)) return
  // What fails with `tenantRoot` has a finding of its own.
  const roots = await tenants.namedRoots(tenantIdOf(first.userId) ?? '').catch(() => null)
  for (const row of live)
    if (isStray(row, live, roots)) findings.ofRow('warning', 'tenantMixed', row, strayVersion(row).message)
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
  tenants: TenantChecks,
  accept: readonly Format[],
  digests: DataKeyDigests,
): Promise<void> {
  if (!(await tenants.isOpen(record))) return
  if (isTenantRow(record)) return
  try {
    const dataKey = await tenants.keys.unwrap(record, accept)
    digests.add(dataKey)
    dataKey.fill(0)
  } catch (error) {
    if (!isRowError(error)) throw error
    findings.ofRow('error', FINDING_KINDS[error.code] ?? 'undecryptable', record, error.message)
    return
  }
  const masterKey = record.kekId === null ? null : keyring.find(record.kekId)
  const isLocalRow = record.kekId === null || (masterKey !== null && isLocal(masterKey))
  // A rewrap to the same master key would skip this row, because its KEK id is right already.
  if (isV2WrapUnderV3Id(keyring, record))
    findings.ofRow('error', 'undecryptable', record, V2_WRAP_UNDER_V3_ID)
  else if (isLocalRow && isV2Wrap(record.encryptedKey))
    findings.ofRow(
      'warning',
      'v2Wrap',
      record,
      'Wrapped in format v2, which binds no key to its user: run `npx keystore rewrap --accept-v2`',
    )
}

/** Finds tenants whose key does not open. Each is one finding, however many users it has: they say nothing that its row does not. */
class TenantChecks {
  readonly keys: TenantKeys
  readonly #keyring: MasterKeyring
  readonly #findings: Findings
  /** The KEK ids of those that have a finding. */
  readonly #failed = new Set<string>()

  constructor(keys: TenantKeys, keyring: MasterKeyring, findings: Findings) {
    this.keys = keys
    this.#keyring = keyring
    this.#findings = findings
  }

  /** Whether the tenant's key opens that a row is, or is under. True for all other rows. */
  async isOpen(record: KeyRecord): Promise<boolean> {
    const tenantId = tenantIdOf(record.userId)
    const ref = tenantId === null ? parseTenantKekId(record.kekId) : { tenantId, version: record.version }
    if (ref === null) return true
    const id = tenantKekId(ref)
    if (this.#failed.has(id)) return false
    try {
      await (tenantId === null ? this.keys.find(ref) : this.keys.ofRow(record))
      return true
    } catch (error) {
      if (!isRowError(error)) throw error
      // Several rows may have waited for the same key.
      if (!this.#failed.has(id)) this.#report(error, tenantId === null ? tenantRow(ref) : record)
      this.#failed.add(id)
      return false
    }
  }

  #report({ code, message }: KeystoreError, row: KeyRef & Partial<Pick<KeyRecord, 'kekId'>>): void {
    const report = (severity: Finding['severity'], kind: string, reason = message) =>
      this.#findings.ofRow(severity, kind, row, reason)
    if (code === 'ERR_KEY_SHREDDED') report('note', 'tenantShredded')
    else if (code === 'ERR_UNKNOWN_MASTER_KEY' && !knowsTenants(this.#keyring))
      report(
        'warning',
        'tenantNotChecked',
        `Neither this key nor those of its users were checked. ${message}`,
      )
    else report('error', FINDING_KINDS[code] ?? 'undecryptable')
  }
}

const FINDING_KINDS: Partial<Record<KeystoreErrorCode, string>> = {
  ERR_UNKNOWN_MASTER_KEY: 'unknownMasterKey',
  ERR_MASTER_KEY: 'masterKeyFailed',
  ERR_KEY_NOT_FOUND: 'tenantMissing',
  ERR_INVALID_ARGUMENT: 'masterKeyFailed',
}

async function checkSharedKeys(
  findings: Findings,
  options: VerifyOptions,
  tenants: TenantKeys,
  accept: readonly Format[],
  digests: DataKeyDigests,
): Promise<void> {
  const shared = await findRowsOfRepeatedKeys(options.store, tenants, accept, digests, options)
  // The map has an entry for each row of a group.
  const named = new Set<readonly KeyRef[]>()
  for (const group of shared.groups.values()) {
    if (named.has(group)) continue
    named.add(group)
    for (const ref of group) {
      if (isTurnDueInLoop()) await nextTurn()
      const reason = `The same data key stands in other rows (${describeOtherRows(group, ref)}): one was copied`
      findings.ofRow('error', 'sharedKey', ref, reason)
    }
  }
  // Rows that failed before have a finding each.
  if (shared.failure !== null && !findings.has('masterKeyFailed')) {
    const reason = `Rows that share a data key could not all be found. ${shared.failure.message}`
    findings.add({ severity: 'error', kind: 'masterKeyFailed', reason })
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
    if (count <= MAX_LISTED_PER_KIND) this.listed.push(finding)
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

function reportOf(
  findings: Findings,
  run: {
    readonly rows: number
    readonly census: readonly CensusRow[]
    readonly keyring: MasterKeyring
    readonly complete: boolean
  },
): VerifyReport {
  const { rows, complete } = run
  return {
    complete,
    ok: findings.ok,
    rows,
    census: run.census,
    masterKeys: masterKeyUses(run.census, run.keyring),
    findings: findings.listed,
    counts: findings.counts,
  }
}
