/** The rows that a copy leaves out, each with the reason: one bad row does not keep the others from being copied. */
import { isKeystoreError, type KeystoreError, StoreError } from '../errors.js'
import { afterErasures, type Erasures } from '../key-log/erasures.js'
import type { StoreMaintenance } from '../store.js'
import { isTombstone, type KeyRecord, type KeyRef, refKey } from '../table.js'
import { Failures, liveBesideTombstone, type RowFailure } from './long-work.js'

/** Which of the two stores has the row that is wrong. */
export type Side = 'source' | 'target'

/** Like {@link Failures}, but a row that several passes come upon is counted once. */
export class CopyFailures {
  readonly #failures = new Failures()
  readonly #known = new Set<string>()

  get listed(): readonly RowFailure[] {
    return this.#failures.listed
  }

  get count(): number {
    return this.#failures.count
  }

  /** Without the rows that are known to have failed on this side. */
  without(side: Side, rows: readonly KeyRecord[]): readonly KeyRecord[] {
    return this.#known.size === 0 ? rows : rows.filter((row) => !this.has(side, row))
  }

  add(side: Side, row: KeyRef & { readonly kekId?: string | null }, error: KeystoreError): void {
    const key = `${side} ${refKey(row)}`
    if (this.#known.has(key)) return
    this.#known.add(key)
    const { userId, version, kekId = null } = row
    const shown = side === 'source' ? error : atTarget(error)
    this.#failures.add({ userId, version, kekId }, shown)
  }

  has(side: Side, ref: KeyRef): boolean {
    return this.#known.size > 0 && this.#known.has(`${side} ${refKey(ref)}`)
  }
}

function atTarget(error: KeystoreError): StoreError {
  const { ref } = error as StoreError
  return new StoreError(`${error.message} (at the target)`, ref === undefined ? {} : { ref })
}

/** What {@link copyable} needs of a copy. */
export interface EndingCopy {
  /** Collects the users of the source whose keys the key log ends. */
  readonly ended: Set<string>
  readonly failures: CopyFailures
}

/** What {@link restoreEach} needs of a copy. */
interface FailingCopy {
  readonly target: StoreMaintenance
  readonly failures: CopyFailures
}

/**
 * The rows of one user as they are to be copied: with the key log applied, and without live rows beside a tombstone. The target would
 * refuse those, and they are not to come back to life there.
 */
export function copyable(
  { failures, ended }: EndingCopy,
  versions: readonly KeyRecord[],
  erasures: Erasures,
): readonly KeyRecord[] {
  if (erasures.size === 0 && !versions.some(isTombstone)) return versions
  const records = versions.flatMap((record) => {
    const remaining = afterErasures(record, erasures)
    if (remaining !== record) ended.add(record.userId)
    return remaining ?? []
  })
  if (!records.some(isTombstone)) return records
  return records.filter((record) => {
    if (isTombstone(record)) return true
    failures.add('source', record, liveBesideTombstone(record))
    return false
  })
}

/**
 * Restores rows at the target. If it refuses them for what they hold, halves them until each that it refuses is alone.
 *
 * @returns what `restore` returns of the others
 */
export async function restoreEach(job: FailingCopy, records: readonly KeyRecord[]): Promise<KeyRecord[]> {
  try {
    return await job.target.restore(records)
  } catch (error) {
    const [first] = records
    if (first === undefined || !isRefusal(error)) throw error
    if (records.length === 1) {
      job.failures.add('source', first, error)
      return []
    }
    const half = Math.ceil(records.length / 2)
    const restored = await restoreEach(job, records.slice(0, half))
    return [...restored, ...(await restoreEach(job, records.slice(half)))]
  }
}

/** Whether a database refused values: those of another row it may take. Outages and missing rights are none of it. */
function isRefusal(error: unknown): error is KeystoreError {
  if (!isKeystoreError(error) || error.retryable || !(error.cause instanceof Error)) return false
  const code = 'code' in error.cause ? String(error.cause.code) : ''
  return /^(22|23|54)...$|^SQLITE_(CONSTRAINT|TOOBIG|MISMATCH)/.test(code)
}
