/** The check that a row belongs to the user under whose key its values are encrypted. */
import { currentScope, requiredScope } from '../envelope/scope.js'
import { invalidArgument, KeystoreError, quoted } from '../errors.js'
import { kindOf } from '../validate.js'
import type { AnyCodec, EncryptedColumnMark } from './encrypted-column.js'
import { isOfInsertedRow } from './expression-guard.js'
import type { Cell, EncodedCell, RowRule, WrittenRow } from './written-row.js'

/** Makes the rule of a column that is built. @param encode the column's own encoder */
export type RowGuard = (property: string, encode: (value: unknown) => unknown) => RowRule

/** The guard of a column that was told its owner column; undefined for others. The dialect must be watched (`watchWrites`). */
export function ownerGuard({
  mark,
  canBeDefault,
}: Pick<AnyCodec<never>, 'mark' | 'canBeDefault'>): RowGuard | undefined {
  const { context, ownerColumn } = mark
  if (ownerColumn === undefined) return undefined
  const name = context?.column ?? null
  const isPlain = (value: unknown) => value === null || value === undefined || canBeDefault?.(value) === true
  return (property, encode) => (row) =>
    checkOwner(row, { property, ownerColumn, name, mark, isPlain, encode })
}

interface OwnedColumn {
  readonly property: string
  readonly ownerColumn: string
  /** For messages. */
  readonly name: string | null
  readonly mark: EncryptedColumnMark
  /** Whether nothing of a value is encrypted: a null, or a JSON value without a secret in it. */
  readonly isPlain: (value: unknown) => boolean
  readonly encode: (value: unknown) => unknown
}

function checkOwner(row: WrittenRow, column: OwnedColumn): void {
  const { property, ownerColumn, isPlain, encode } = column
  if (row.statement === 'insert-select') throw unseenOwner(column, 'insert … select')
  const value = row.read(property)
  const owner = row.read(ownerColumn)
  if (row.statement === 'update') {
    checkUpdate(row, column, value, owner)
  } else if (!isEncoded(value)) {
    // Nothing of the row is encrypted. SQLite's dialect would encode a default past this rule.
    const value = row.constantDefault(property)
    if (value !== undefined) row.write(property, { kind: 'value', value }, encode)
  } else if (owner.kind === 'value') {
    row.write(property, value, (plaintext) => {
      if (!isPlain(plaintext)) assertOwner(column, owner.value, userInScope(column))
      return encode(plaintext)
    })
  } else if (owner.kind === 'placeholder') {
    checkPlaceholder(row, column)
  } else {
    throw unseenOwner(column, owner.kind === 'absent' ? 'a row without it' : 'an sql expression')
  }
}

/** An update changes no owner: the values of the row's other columns would stay under the key of the owner before. */
function checkUpdate(row: WrittenRow, column: OwnedColumn, value: Cell, owner: Cell): void {
  const { property, ownerColumn, isPlain, encode } = column
  if (owner.kind === 'unseen') throw unseenOwner(column, 'an sql expression')
  let userOfConstant: string | undefined
  if (isEncoded(value))
    row.write(property, value, (plaintext) => {
      if (isPlain(plaintext)) return encode(plaintext)
      const user = userInScope(column)
      if (owner.kind === 'value') assertOwner(column, owner.value, user)
      if (value.kind === 'value') userOfConstant = user
      return encode(plaintext)
    })
  if (owner.kind === 'absent') {
    if (value.kind !== 'absent') requireOwner(row, column, value)
    return
  }
  const isScopes = (id: unknown) => {
    assertOwner(column, id, userInScope(column))
    if (userOfConstant !== undefined) assertOwner(column, id, userOfConstant)
  }
  if (row.isNotNull(ownerColumn)) row.keepStored(ownerColumn, owner, isScopes)
  else row.onEncode(ownerColumn, isScopes)
}

/**
 * An update that does not set the owner: only the database knows whose the rows are that it comes to. It refuses those of others, if the owner
 * column is NOT NULL. What encrypts nothing, an expression such as `excluded.api_key` or a null, needs no scope, and is refused in that of
 * another user.
 */
function requireOwner(row: WrittenRow, column: OwnedColumn, value: Cell): void {
  const { ownerColumn, mark, isPlain } = column
  if (!row.isNotNull(ownerColumn)) return
  if (value.kind === 'unseen' && isOfInsertedRow(value.sources, mark)) {
    // Each execution has its own, and the row that was to be inserted is checked then.
    row.requireInserted(ownerColumn)
  } else if (isEncoded(value)) {
    row.requireStored(ownerColumn, value, (given) => (isPlain(given) ? userOfScope() : userInScope(column)))
  } else {
    row.requireStored(ownerColumn, { kind: 'value', value: true }, userOfScope)
  }
}

function userOfScope(): string | null {
  return currentScope('user')?.handle.userId ?? null
}

/** Whether an encoder gets it: no null, and nothing that only the database knows. */
function isEncoded(value: Cell): value is EncodedCell {
  return 'value' in value && value.value !== null
}

/**
 * The owner of a prepared statement is known at each execution only. Drizzle encodes constants when it builds the statement and placeholders in
 * their order at each execution: so of value and owner the one that is encoded later finds the other's, and compares.
 */
function checkPlaceholder(row: WrittenRow, column: OwnedColumn): void {
  const { property, ownerColumn, isPlain, encode } = column
  if (!row.isNotNull(ownerColumn)) {
    // Drizzle 1.0 passes a null by, and the row would have the owner of the execution before.
    throw invalidArgument(
      `${quoted(ownerColumn)} is the owner of an encrypted column: to be a placeholder, it must be declared .notNull()`,
    )
  }
  const value = row.read(property)
  if (!('value' in value)) return
  const isConstant = value.kind === 'value'
  let owner: unknown
  let userId: string | undefined
  const isOwnerFirst = !isConstant && row.isBefore(ownerColumn, property)
  row.write(property, value, (plaintext) => {
    if (isPlain(plaintext)) return encode(plaintext)
    const user = userInScope(column)
    if (isOwnerFirst) assertOwner(column, owner, user)
    userId = user
    // All placeholders of an execution are encoded at once: one that fails in between must leave nothing to the next.
    if (!isConstant) queueMicrotask(() => (userId = undefined))
    return encode(plaintext)
  })
  row.onEncode(ownerColumn, (id) => {
    owner = id
    if (isOwnerFirst) return
    const user = userId
    // That of a constant stays: it is encoded once, for the user of that scope.
    if (!isConstant) userId = undefined
    if (user !== undefined) assertOwner(column, id, user)
  })
}

function userInScope({ name }: OwnedColumn): string {
  return requiredScope('user', name).handle.userId
}

/** A number counts as its decimal digits, as in a source of the sweep. */
function assertOwner({ ownerColumn, name }: OwnedColumn, owner: unknown, userId: string): void {
  const isId = typeof owner === 'string' || typeof owner === 'number' || typeof owner === 'bigint'
  if (isId && String(owner) === userId) return
  const whose = isId ? `user ${quoted(String(owner))}` : `no user (${kindOf(owner)})`
  throw new KeystoreError(
    'ERR_WRONG_OWNER',
    `A row whose ${quoted(ownerColumn)} is ${whose} was to be written in the scope of user ${quoted(userId)}, under whose key ${describe(name)} would be encrypted: write it in the scope of its owner`,
  )
}

function unseenOwner({ ownerColumn, name }: OwnedColumn, what: string): KeystoreError {
  return invalidArgument(
    `${what} does not tell ${quoted(ownerColumn)}, the owner of ${describe(name)}: give it in values() or set()`,
  )
}

function describe(name: string | null): string {
  return name === null ? 'an encrypted column' : `the encrypted column ${quoted(name)}`
}
