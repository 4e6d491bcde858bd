/** One page of the sweep: what its values are, and tokens in the place of those that are not as they should be. */

import type { UserHandle } from '../envelope/user-handle.js'
import { invalidArgument, KeystoreError } from '../errors.js'
import { equalBytes } from '../format/aead.js'
import type { EncryptionContext } from '../format/context.js'
import { contextMaker } from '../format/context.js'
import type { Token } from '../format/token.js'
import { inTurns } from '../lifecycle/long-work.js'
import type { ValueCell, ValueChange, ValueRef, ValueSource } from '../sources/value-source.js'
import { type Found, type OpenOptions, openValue, type SweptValue } from './open-value.js'
import { isOfOneOwner, OwnerKeys } from './owner-keys.js'
import type { Tally } from './tally.js'

/** What all pages have in common. */
export interface Work<Row> extends OpenOptions<Row> {
  readonly source: ValueSource<Row>
  /** The wanted context of values whose cells name none; null if nobody does. */
  readonly contextOf: ContextMaker<Row> | null
  readonly previousContexts: readonly ContextMaker<Row>[]
  readonly dryRun: boolean
}

type ContextMaker<Row> = (row: Row) => EncryptionContext

/** A value that is to be replaced. */
interface Opened<Row> {
  readonly value: SweptValue<Row>
  readonly state: Found['state']
  readonly plaintext: Uint8Array
}

/** @throws what is about more than one value: an outage of the key store or of a key service; what the source throws */
export async function sweepPage<Row>(
  work: Work<Row>,
  cells: readonly ValueCell<Row>[],
  tally: Tally<Row>,
): Promise<void> {
  const keys = new OwnerKeys(work.envelope)
  const values = cells.map((cell) => sweptValue(work, cell))
  await keys.load(values.filter(isPresent).map(({ owner }) => owner))
  const found = await inTurns(values, (value) => openValue(value, keys, work))
  const opened: Opened<Row>[] = []
  for (const [index, value] of values.entries()) {
    const { state, plaintext, error } = found[index] as Found
    tally.add(state)
    if (error !== undefined) tally.fail(value, error)
    else if (plaintext !== undefined) opened.push({ value, state, plaintext })
  }
  try {
    if (work.dryRun) tryAll(keys, opened, tally)
    else await replace(work.source, keys, opened, tally)
  } finally {
    for (const { plaintext } of opened) plaintext.fill(0)
  }
}

function sweptValue<Row>(work: Work<Row>, cell: ValueCell<Row>): SweptValue<Row> {
  const { key, column, owner = null, value, row } = cell
  const swept = { key, column, owner, value, row }
  if (!isPresent(swept)) return { ...swept, contexts: NO_CONTEXTS }
  if (cell.context === undefined && work.contextOf === null) throw withoutContext()
  try {
    return { ...swept, contexts: contextsOf(work, cell) }
  } catch (error) {
    if (!isOfOneOwner(error)) throw error
    return { ...swept, contexts: error }
  }
}

function isPresent({ value }: { readonly value?: unknown }): boolean {
  return value !== null && value !== undefined
}

function contextsOf<Row>(
  { contextOf, previousContexts }: Work<Row>,
  { context, row }: ValueCell<Row>,
): [EncryptionContext, ...EncryptionContext[]] {
  // A source without rows gives none to the functions either.
  const make = context === undefined && contextOf !== null ? contextOf : contextMaker(context ?? null)
  return [make(row as Row), ...previousContexts.map((make) => make(row as Row))]
}

const NO_CONTEXTS: readonly [EncryptionContext] = [{}]

function withoutContext(): KeystoreError {
  return invalidArgument(
    "context is required, such as 'credentials.api_key', or null for none: neither the source nor the options name one",
  )
}

/** What `replace` would come to, if nobody else wrote meanwhile. */
function tryAll<Row>(keys: OwnerKeys, opened: readonly Opened<Row>[], tally: Tally<Row>): void {
  for (const { value, state } of opened) {
    const refusal = keys.refusal(value.owner)
    if (refusal === null) tally.change(state)
    else tally.fail(value, refusal)
  }
}

async function replace<Row>(
  source: ValueSource<Row>,
  keys: OwnerKeys,
  opened: readonly Opened<Row>[],
  tally: Tally<Row>,
): Promise<void> {
  await keys.mint(opened.map(({ value }) => value.owner))
  const changes: ValueChange[] = []
  const states: Found['state'][] = []
  for (const { value, state, plaintext } of opened) {
    const { key, column, owner } = value
    try {
      const [context] = value.contexts as readonly [EncryptionContext]
      changes.push({
        key,
        column,
        owner,
        from: value.value as string,
        to: encrypted(keys.of(owner), plaintext, context),
      })
      states.push(state)
    } catch (error) {
      if (!isOfOneOwner(error)) throw error
      tally.fail(value, error)
    }
  }
  if (changes.length === 0) return
  const replaced: unknown = await source.replace(changes)
  // Of a number or a boolean all changes would count as written.
  if (!isArrayOfRefs(replaced))
    throw invalidArgument(
      'replace() of the source must return an array of { key, column }: those that were written',
    )
  const refs = new Set(replaced.map(refKey))
  for (const [index, change] of changes.entries()) {
    if (refs.has(refKey(change))) tally.change(states[index] as Found['state'])
    else tally.skipped += 1
  }
}

/** Opens what it made before the old value is gone: a fault of memory must not cost a user their data. */
function encrypted(keys: UserHandle, plaintext: Uint8Array, context: EncryptionContext): Token {
  const token = keys.encryptBytes(plaintext, context)
  const again = keys.decryptBytes(token, context)
  const isSame = equalBytes(plaintext, again)
  again.fill(0)
  if (!isSame)
    throw new KeystoreError(
      'ERR_DECRYPTION_FAILED',
      'The new token does not hold the same: nothing was written',
    )
  return token
}

function isArrayOfRefs(value: unknown): value is readonly Pick<ValueRef, 'key' | 'column'>[] {
  return Array.isArray(value) && value.every((ref) => typeof ref === 'object' && ref !== null)
}

function refKey({ key, column }: Pick<ValueRef, 'key' | 'column'>): string {
  return JSON.stringify([column, key], (_, part) => (typeof part === 'bigint' ? `${part}n` : part))
}
