/** Limits of the formats that a census can show to be near. */
import { printable } from '../errors.js'
import type { Format } from '../format/formats.js'
import { formatOfKekId } from '../master-keys/kek-id.js'
import type { CensusRow } from '../store.js'
import { MAX_KEY_VERSION } from '../table.js'

/** How many keys one master key may wrap with random nonces: NIST SP 800-38D §8.3 for v2, docs/FORMAT.md for v3. */
const MOST_WRAPS: Readonly<Record<Format, number>> = { v2: 2 ** 32, v3: 2 ** 48 }
/** Rows show only the last wrap of each key: earlier rewraps, and rows that were removed, count as well. */
const NEAR_WRAPS = 1 / 4
const NEAR_VERSIONS = 1 / 2

/** What `verifyAll` reports of them. */
interface LimitFinding {
  readonly severity: 'warning'
  readonly kind: 'nearLimit'
  readonly kekId?: string | null
  readonly reason: string
}

/** One finding for each KEK id under which a quarter of the wraps were made that may be, and one if half of the versions are used up. */
export function limitFindings(census: readonly CensusRow[]): LimitFinding[] {
  const findings: LimitFinding[] = []
  const wraps = new Map<string | null, number>()
  for (const { kekId, count } of census) wraps.set(kekId, (wraps.get(kekId) ?? 0) + count)
  for (const [kekId, count] of wraps) {
    const format = formatOfKekId(kekId)
    if (count >= MOST_WRAPS[format] * NEAR_WRAPS)
      findings.push(near(kekId, tooManyWraps(kekId, format, count)))
  }
  // A row with a version beyond the last is no record: it is reported as unreadable, and nobody has rotated it.
  const versions = census.map(({ version }) => version).filter((version) => version <= MAX_KEY_VERSION)
  const highest = versions.reduce((high, version) => Math.max(high, version), 0)
  if (highest >= MAX_KEY_VERSION * NEAR_VERSIONS)
    findings.push({ severity: 'warning', kind: 'nearLimit', reason: tooManyVersions(highest) })
  return findings
}

function near(kekId: string | null, reason: string): LimitFinding {
  return { severity: 'warning', kind: 'nearLimit', kekId, reason }
}

function tooManyWraps(kekId: string | null, format: Format, count: number): string {
  const under = kekId === null ? 'no KEK id (the Python reference)' : printable(kekId)
  const what = format === 'v2' ? 'rewrap to format v3' : 'rewrap under a new master key'
  return (
    `${count.toLocaleString('en')} rows are wrapped in format ${format} under ${under}. One master key may wrap ${MOST_WRAPS[format].toLocaleString('en')} keys in this format, ` +
    `rewraps and removed rows included: ${what}`
  )
}

function tooManyVersions(highest: number): string {
  return (
    `A key has version ${highest.toLocaleString('en')}, and the last that there can be is ${MAX_KEY_VERSION.toLocaleString('en')}: find out who rotates it so often, or who wrote the row. ` +
    'After the last version a user can only be forgotten and minted anew'
  )
}
