/** One page of the sweep: classifies its values and replaces the outdated ones by new tokens. */

import type { UserHandle } from '../envelope/user-handle.js'
import { invalidArgument, KeystoreError } from '../errors.js'
import { isTurnDueInLoop, nextTurn, weightOf } from '../event-loop.js'
import { equalBytes } from '../format/aead.js'
import { contextMaker, type EncryptionContext } from '../format/context.js'
import type { Token } from '../format/token.js'
import type { LongWorkOptions } from '../lifecycle/long-work.js'
import type { ValueCell, ValueChange, ValueSource } from '../sources/value-source.js'
import type { Foresight } from './foresight.js'
import { type OpenOptions, type OpenResult, openValue, type SweptValue } from './open-value.js'
import type { OwnerCount } from './owner-count.js'
import { isOwnerError, OwnerKeys } from './owner-keys.js'
import {
  type FingerprintCell,
  type FingerprintJob,
  type FoundValue,
  sweepFingerprints,
  writtenIn,
} from './sweep-fingerprints.js'
import type { Tally } from './tally.js'
import { writeApart } from './write-apart.js'
import type { WrittenValues } from './written-values.js'

/** The checked options of one sweep. */
export interface SweepJob<Row> extends OpenOptions<Row>, LongWorkOptions, FingerprintJob {
  readonly source: ValueSource<Row>
  /** The wanted context of values whose cells name none. Null if the options name none either. */
  readonly contextOf: ContextMaker<Row> | null
  readonly previousContexts: readonly ContextMaker<Row>[]
  /** Who is encrypted for, in all passes. */
  readonly owners: OwnerCount
  /** Of a dry run. */
  readonly foresight: Foresight | null
  /** Whether values whose owner is null belong to the shared pool. */
  readonly pool: boolean
}

type ContextJob<Row> = Pick<SweepJob<Row>, 'contextOf' | 'previousContexts' | 'pool'>

type ContextMaker<Row> = (row: Row) => EncryptionContext

/** A value that is to be replaced. */
type OutdatedValue<Row> = FoundValue<Row> & { readonly plaintext: Uint8Array }

/** What is to be written, and why some values are not: the keys of their owners fail. */
interface EncryptedValues<Row> {
  readonly changes: Map<ValueChange, OutdatedValue<Row>>
  readonly refused: Map<OutdatedValue<Row>, KeystoreError>
}

/** A page whose values are open, and whose new tokens are made. It holds plaintexts until {@link finishPage} or {@link dropPage}. */
export interface PreparedPage<Row> {
  readonly fingerprints: readonly FingerprintCell<Row>[]
  readonly keys: OwnerKeys
  readonly found: readonly FoundValue<Row>[]
  readonly encrypted: EncryptedValues<Row>
  /** How long the page is, with empty values. */
  readonly length: number
}

/**
 * Opens the values of a page, and makes the new tokens. Writes no value.
 *
 * @throws errors that concern more than one value: an outage of the key store or of a key service
 */
export async function preparePage<Row>(
  job: SweepJob<Row>,
  cells: readonly ValueCell<Row>[],
): Promise<PreparedPage<Row>> {
  const keys = new OwnerKeys(job.envelope)
  const found = await openValues(job, cells, keys)
  try {
    const encrypted = await encryptValues(job, keys, job.dryRun ? [] : found.filter(isOutdated))
    return { fingerprints: cells.filter(isFingerprint), keys, found, encrypted, length: cells.length }
  } catch (error) {
    wipe(found)
    throw error
  }
}

/** Counts what was found in a page, and writes what is new. @throws like {@link preparePage}; what the source throws */
export async function finishPage<Row>(
  job: SweepJob<Row>,
  { fingerprints, keys, found, encrypted: { changes, refused } }: PreparedPage<Row>,
  tally: Tally,
): Promise<void> {
  try {
    for (const { value, state, error, form, openedBy } of found) {
      tally.add(state)
      if (form !== undefined) tally.ciphertexts.add(value.column, form)
      if (error !== undefined) tally.fail(value, error)
      // What another process has written meanwhile need not be opened again by the last look, if there is to be one.
      if (openedBy !== undefined && tally.changed > 0 && typeof value.value === 'string')
        noteCurrent(job.written, keys, value, value.value, openedBy)
    }
    for (const [found, error] of refused) {
      found.error = error
      tally.fail(found.value, error)
    }
    if (job.foresight !== null) {
      const outdated = found.filter(isOutdated)
      countReplacements(job.owners, keys, outdated, tally)
      await job.foresight.look(outdated)
    } else await writeValues(job, keys, changes, tally)
    await sweepFingerprints(job, fingerprints, found, keys, tally)
  } finally {
    wipe(found)
  }
}

/** Whether all values of a page are current: another process is at work there, or an earlier run was. */
export function isDone<Row>({ found }: PreparedPage<Row>): boolean {
  return found.some(({ state }) => state === 'current') && found.every(({ state }) => DONE.has(state))
}

const DONE: ReadonlySet<string> = new Set(['current', 'empty'])

/** Of a page that is not finished. */
export function dropPage<Row>({ found }: PreparedPage<Row>): void {
  wipe(found)
}

/** @param found with holes, if an error came before all values of the page were open */
function wipe(found: readonly ({ readonly plaintext?: Uint8Array | undefined } | undefined)[]): void {
  for (const value of found) value?.plaintext?.fill(0)
}

/** Classifies the values of a page. Who calls it wipes their plaintexts. @throws errors that concern more than one value */
export async function openValues<Row>(
  job: OpenOptions<Row> & ContextJob<Row>,
  cells: readonly ValueCell<Row>[],
  keys: OwnerKeys,
): Promise<FoundValue<Row>[]> {
  const values: SweptValue<Row>[] = []
  for (const cell of cells) {
    if (isTurnDueInLoop()) await nextTurn()
    if (!isFingerprint(cell)) values.push(sweptValue(job, cell))
  }
  const owners = new Set<string | null>()
  for (const value of values)
    if (isPresent(value) && !(value.contexts instanceof Error)) owners.add(value.owner)
  await keys.load(owners)
  const found: FoundValue<Row>[] = []
  const waiting: (() => Promise<void>)[] = []
  try {
    for (let index = 0; index < values.length; index += 1) {
      const value = values[index] as SweptValue<Row>
      if (isTurnDueInLoop(typeof value.value === 'string' ? weightOf(value.value) : 1)) await nextTurn()
      const result = openValue(value, keys, job)
      if (!(result instanceof Promise)) found[index] = foundValue(value, result)
      else {
        // Of the few that wait, a key service or a reader answers some at the same time.
        waiting.push(() =>
          result.then((result) => {
            found[index] = foundValue(value, result)
          }),
        )
        // It is awaited below.
        result.catch(() => undefined)
        if (waiting.length % AT_ONCE === 0) await Promise.all(waiting.splice(0).map((wait) => wait()))
      }
    }
    await Promise.all(waiting.map((wait) => wait()))
    return found
  } catch (error) {
    wipe(found)
    throw error
  }
}

/** Values that are waited for at the same time. */
const AT_ONCE = 16

function foundValue<Row>(
  value: SweptValue<Row>,
  { state, plaintext, error, form, openedBy }: OpenResult,
): FoundValue<Row> {
  return { value, state, plaintext, error, form, openedBy, stored: value.value }
}

function isOutdated<Row>(found: FoundValue<Row>): found is OutdatedValue<Row> {
  return found.plaintext !== undefined && found.error === undefined
}

export function isFingerprint<Row>(cell: ValueCell<Row>): cell is FingerprintCell<Row> {
  return cell.fingerprint !== undefined
}

function sweptValue<Row>(job: ContextJob<Row>, cell: ValueCell<Row>): SweptValue<Row> {
  const { key, column, container, owner = null, value, row, isJson = false } = cell
  return { key, column, container, owner, value, row, isJson, contexts: wantedContexts(job, cell) }
}

function wantedContexts<Row>(job: ContextJob<Row>, cell: ValueCell<Row>): SweptValue<Row>['contexts'] {
  const { owner } = cell
  if (!isPresent(cell)) return NO_CONTEXTS
  if (cell.context === undefined && job.contextOf === null) throw contextRequired()
  if (cell.defect !== undefined) return cell.defect
  if (owner === undefined || (owner === null && !job.pool)) return ownerless(owner === null)
  if (owner === '') return emptyOwner()
  try {
    return contextsOf(job, cell)
  } catch (error) {
    if (!isOwnerError(error)) throw error
    return error
  }
}

function isPresent({ value }: { readonly value?: unknown }): boolean {
  return value !== null && value !== undefined
}

function contextsOf<Row>(
  { contextOf, previousContexts }: ContextJob<Row>,
  { context, row }: ValueCell<Row>,
): [EncryptionContext, ...EncryptionContext[]] {
  const make = context === undefined && contextOf !== null ? contextOf : contextMaker(context ?? null)
  // A source without rows has undefined here, and its context functions get that.
  return [make(row as Row), ...previousContexts.map((make) => make(row as Row))]
}

const NO_CONTEXTS: readonly [EncryptionContext] = [{}]

function contextRequired(): KeystoreError {
  return invalidArgument(
    "context is required, such as 'credentials.api_key', or null for none: neither the source nor the options name one",
  )
}

/** Nobody's value must not become everybody's by oversight: a join that found no user, a column that was not selected. */
function ownerless(isNull: boolean): KeystoreError {
  return invalidArgument(
    isNull
      ? 'It has no owner (null). It belongs to the shared pool only if pool: true says so, of the source, of its table in defineEncrypted, or of reencrypt (with --table: --pool)'
      : 'The source names no owner: it must give the id of the user, or null together with pool: true for the shared pool',
  )
}

function emptyOwner(): KeystoreError {
  return invalidArgument(
    "Its row names '' as the owner: write the id of its user there, or null together with pool: true (--pool) for the shared pool",
  )
}

/** For a dry run: counts what {@link replaceValues} would replace if nobody else wrote meanwhile. */
function countReplacements<Row>(
  owners: OwnerCount,
  keys: OwnerKeys,
  outdated: readonly OutdatedValue<Row>[],
  tally: Tally,
): void {
  for (const found of outdated) {
    const refusal = keys.refusal(found.value.owner)
    if (refusal === null) {
      owners.add(found.value.owner, keys.isToBeMinted(found.value.owner))
      tally.change(found.state)
    } else {
      found.error = refusal
      tally.fail(found.value, refusal)
    }
  }
}

async function encryptValues<Row>(
  { owners }: Pick<SweepJob<Row>, 'owners'>,
  keys: OwnerKeys,
  outdated: readonly OutdatedValue<Row>[],
): Promise<EncryptedValues<Row>> {
  const changes = new Map<ValueChange, OutdatedValue<Row>>()
  const refused = new Map<OutdatedValue<Row>, KeystoreError>()
  if (outdated.length === 0) return { changes, refused }
  const lacking = new Set(
    outdated.map(({ value }) => value.owner).filter((owner) => keys.isToBeMinted(owner)),
  )
  await keys.mint(lacking)
  for (const found of outdated) {
    const { value, plaintext } = found
    const { key, column, owner } = value
    if (isTurnDueInLoop(weightOf(plaintext))) await nextTurn()
    try {
      const [context] = value.contexts as readonly [EncryptionContext]
      const to = encryptVerified(keys.of(owner), plaintext, context)
      changes.set({ key, column, owner, from: value.value as string, to }, found)
      owners.add(owner, lacking.has(owner))
    } catch (error) {
      if (!isOwnerError(error)) throw error
      refused.set(found, error)
    }
  }
  return { changes, refused }
}

async function writeValues<Row>(
  { source, written }: Pick<SweepJob<Row>, 'source' | 'written'>,
  keys: OwnerKeys,
  changed: ReadonlyMap<ValueChange, OutdatedValue<Row>>,
  tally: Tally,
): Promise<void> {
  await writeApart([...changed.keys()], {
    containerOf: (change) => changed.get(change)?.value.container,
    async write(changes) {
      const isWritten = writtenIn(changes, await source.replace(changes), 'replace()')
      for (const change of changes) {
        if (isTurnDueInLoop()) await nextTurn()
        const found = changed.get(change) as OutdatedValue<Row>
        if (isWritten(change)) {
          found.stored = change.to
          tally.change(found.state)
          noteCurrent(written, keys, found.value, change.to, keys.of(change.owner))
        } else {
          found.stored = undefined
          tally.skipped += 1
        }
      }
    },
    refused(change, error) {
      const found = changed.get(change) as OutdatedValue<Row>
      found.error = error as KeystoreError
      tally.refuse(found.value, error)
    },
  })
}

/**
 * Spares the last look a value that is current. Not if its owner's keys were looked up again meanwhile and have a newer version, which
 * another value of the page may have named; nor if the owner was shredded.
 *
 * @param keys as they are now
 * @param openedBy under whose newest version the token is
 */
function noteCurrent<Row>(
  written: WrittenValues | undefined,
  keys: OwnerKeys,
  value: SweptValue<Row>,
  token: string,
  openedBy: UserHandle,
): void {
  if (written === undefined) return
  const now = keys.usable(value.owner)
  if (now?.activeKeyName === openedBy.activeKeyName) written.add(value, token, now)
}

/** Encrypts, and decrypts the new token before it replaces the old value: a fault of memory must not cost a user their data. */
function encryptVerified(keys: UserHandle, plaintext: Uint8Array, context: EncryptionContext): Token {
  const token = keys.encryptBytes(plaintext, context)
  const decrypted = keys.decryptBytes(token, context)
  const isSame = equalBytes(plaintext, decrypted)
  decrypted.fill(0)
  if (!isSame)
    throw new KeystoreError(
      'ERR_DECRYPTION_FAILED',
      'The new token does not decrypt to the same plaintext: nothing was written',
    )
  return token
}
