/** The fingerprints of one page of the sweep: compared with what their values give, and made anew where they differ. */
import type { UserHandle } from '../envelope/user-handle.js'
import { invalidArgument, KeystoreError, StoreError } from '../errors.js'
import { isTurnDueInLoop, nextTurn, weightOf } from '../event-loop.js'
import type { EncryptionContext } from '../format/context.js'
import { decodeUtf8 } from '../format/encoding.js'
import {
  type FingerprintChange,
  type FingerprintRole,
  type ValueCell,
  type ValueRef,
  type ValueSource,
  valueRefKey,
} from '../sources/value-source.js'
import { kindOf } from '../validate.js'
import type { CiphertextForm } from './legacy/ciphertext-form.js'
import { isValueError, type SweptValue, type ValueState } from './open-value.js'
import type { OwnerKeys } from './owner-keys.js'
import type { Tally } from './tally.js'
import { writeApart } from './write-apart.js'

/** A value of the page, and what has become of it. */
export interface FoundValue<Row> {
  readonly value: SweptValue<Row>
  readonly state: ValueState
  /** Of a value that was, or is to be, re-encrypted. */
  readonly plaintext?: Uint8Array | undefined
  /** Why it is not current, and is left so. */
  error?: KeystoreError | undefined
  readonly form?: CiphertextForm | undefined
  /** The keys under whose newest version a current value was found. */
  readonly openedBy?: UserHandle | undefined
  /** What is stored now. Undefined: another writer has changed it. */
  stored: unknown
}

/** What a sweep says of fingerprints. */
export interface FingerprintJob {
  readonly source: Pick<ValueSource<never>, 'replaceFingerprints'>
  /** Which version of their owners' keys fingerprints are made with. */
  readonly fingerprintVersion: 'lowest' | 'newest'
  readonly dryRun: boolean
}

/** How a fingerprint is. `wanted` is what it should be; undefined in a dry run, of an owner whose key is yet to be minted. */
type Comparison =
  | { readonly state: 'current' | 'empty' | 'shredded' | 'unopenable' }
  | { readonly state: 'staleFingerprint'; readonly error?: KeystoreError }
  | { readonly state: 'staleFingerprint'; readonly wanted: string | null | undefined }

/** The cell of a fingerprint. */
export type FingerprintCell<Row> = ValueCell<Row> & { readonly fingerprint: FingerprintRole }

/**
 * Compares a stored fingerprint with the one of its value.
 *
 * @throws errors that concern more than this value
 */
export async function compareFingerprint<Row>(
  {
    value: given,
    fingerprint: { kind },
    defect,
  }: Pick<FingerprintCell<Row>, 'value' | 'fingerprint' | 'defect'>,
  found: FoundValue<Row>,
  keys: OwnerKeys,
  version: 'lowest' | 'newest' | number,
): Promise<Comparison> {
  const stored: unknown = given ?? null
  const { owner } = found.value
  try {
    if (stored !== null && typeof stored !== 'string')
      throw invalidArgument(`a fingerprint must be text, got ${kindOf(stored)}`)
    if (found.state === 'empty') {
      if (stored !== null && defect !== undefined) throw defect
      return compared(stored, null)
    }
    // Named once, with the value.
    if (found.error !== undefined) {
      if (stored === null) return { state: 'empty' }
      return { state: found.state === 'shredded' ? 'shredded' : 'unopenable' }
    }
    if (found.stored === undefined) return { state: 'staleFingerprint' }
    if (keys.isToBeMinted(owner)) return { state: 'staleFingerprint', wanted: undefined }
    const text = await textOf(found, keys)
    return compared(stored, keys.of(owner).fingerprintUnder(version, text, kind))
  } catch (error) {
    if (!isValueError(error)) throw error
    return { state: 'staleFingerprint', error }
  }
}

function compared(stored: string | null, wanted: string | null): Comparison {
  if (stored !== wanted) return { state: 'staleFingerprint', wanted }
  return { state: stateOf(wanted) }
}

/** Of a fingerprint that is as it should be: beside no value there is none. Undefined: it is not known yet. */
function stateOf(fingerprint: string | null | undefined): 'current' | 'empty' {
  return fingerprint === null ? 'empty' : 'current'
}

/** What a value holds. @throws ERR_DECRYPTION_FAILED if it does not open any more, or is no text */
async function textOf<Row>({ value, plaintext, stored }: FoundValue<Row>, keys: OwnerKeys): Promise<string> {
  const contexts = value.contexts as readonly [EncryptionContext]
  const opened =
    plaintext ??
    (await keys.open(value.owner, (handle) => handle.decryptUnderAny(String(stored), contexts))).plaintext
  const text = decodeUtf8(Buffer.from(opened.buffer, opened.byteOffset, opened.byteLength))
  if (opened !== plaintext) opened.fill(0)
  if (text === null) throw new KeystoreError('ERR_DECRYPTION_FAILED', 'Its value is no text')
  return text
}

/** @param values those of the page, which are swept already */
export async function sweepFingerprints<Row>(
  job: FingerprintJob,
  cells: readonly FingerprintCell<Row>[],
  values: readonly FoundValue<Row>[],
  keys: OwnerKeys,
  tally: Tally,
): Promise<void> {
  if (cells.length === 0) return
  const byRef = new Map(values.map((found) => [valueRefKey(found.value), found]))
  const changes: FingerprintChange[] = []
  for (const cell of cells) {
    const { key, column, fingerprint } = cell
    const found = byRef.get(valueRefKey({ key, column: fingerprint.of }))
    if (found === undefined) throw valueMissing()
    if (isTurnDueInLoop(weightOf(String(found.value.value)))) await nextTurn()
    const comparison = await compareFingerprint(cell, found, keys, job.fingerprintVersion)
    tally.add(comparison.state)
    const { owner } = found.value
    const ref = { key, column, owner }
    if ('error' in comparison && comparison.error !== undefined) tally.fail(ref, comparison.error)
    if (!('wanted' in comparison)) continue
    if (job.dryRun) tally.change('staleFingerprint', stateOf(comparison.wanted))
    else {
      const of = { column: fingerprint.of, value: (found.stored ?? null) as string | null }
      changes.push({ ...ref, from: cell.value ?? null, to: comparison.wanted ?? null, of })
    }
  }
  if (changes.length > 0) await replaceFingerprints(job, changes, tally)
}

async function replaceFingerprints(
  job: FingerprintJob,
  changes: readonly FingerprintChange[],
  tally: Tally,
): Promise<void> {
  await writeApart(changes, {
    async write(changes) {
      const isWritten = writtenIn(
        changes,
        await job.source.replaceFingerprints?.(changes),
        'replaceFingerprints()',
      )
      for (const change of changes) {
        if (isWritten(change)) tally.change('staleFingerprint', stateOf(change.to))
        else tally.skipped += 1
      }
    },
    refused: (change, error) => tally.fail(change, isOfUniqueIndex(error) ? notUnique(error) : error),
  })
}

function isOfUniqueIndex(error: unknown): error is KeystoreError {
  const { cause } = error as KeystoreError
  return /^(SQLITE_CONSTRAINT_(UNIQUE|PRIMARYKEY)|23505)$/.test(String(Reflect.get(cause as Error, 'code')))
}

function notUnique(error: KeystoreError): KeystoreError {
  return new StoreError(
    'A unique index refuses its fingerprint, since another row has it: two rows hold the same value, and one of them has to change. If the ' +
      'values differ, fingerprints were exchanged: set them to null in both rows, and sweep again',
    { cause: error },
  )
}

/** @returns whether a change was written @throws ERR_INVALID_ARGUMENT */
export function writtenIn<Change extends Pick<ValueRef, 'key' | 'column'>>(
  changes: readonly Change[],
  replaced: unknown,
  method: string,
): (change: Change) => boolean {
  const refs = writtenRefs(replaced, method)
  const asked = new Set<unknown>(changes)
  // Mostly the changes themselves.
  if (refs.every((ref) => asked.has(ref))) {
    const written = new Set<unknown>(refs)
    return (change) => written.has(change)
  }
  const written = new Set(refs.map(valueRefKey))
  return (change) => written.has(valueRefKey(change))
}

/** A source may return a count or true by mistake, and every change would then count as written. @throws ERR_INVALID_ARGUMENT */
function writtenRefs(replaced: unknown, method: string): readonly Pick<ValueRef, 'key' | 'column'>[] {
  if (Array.isArray(replaced) && replaced.every((ref) => typeof ref === 'object' && ref !== null))
    return replaced
  throw invalidArgument(
    `${method} of the source must return an array of { key, column }: those that were written`,
  )
}

function valueMissing(): KeystoreError {
  return invalidArgument('a page of the source must have the value of each fingerprint that it has')
}
