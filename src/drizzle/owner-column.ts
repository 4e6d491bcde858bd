/** The check that a row belongs to the user under whose key its values are encrypted. */
import { currentScope, requiredScope } from '../envelope/scope.js'
import { invalidArgument, KeystoreError, quoted } from '../errors.js'
import { kindOf } from '../validate.js'
import type { EncryptedColumnMark } from './encrypted-column.js'
import { type EncodedCell, setRowRule, type WrittenRow, watchWrites } from './written-row.js'

/** Called when a column is built. @param encode the column's own encoder */
export type RowGuard = (table: object, property: string, encode: (value: unknown) => unknown) => void

/**
 * The guard of a column that was told its owner column; undefined for others.
 *
 * @param dialect the prototype of the dialect's class, whose writes are watched from now on
 */
export function ownerGuard(
  { context, ownerColumn }: EncryptedColumnMark,
  dialect: object,
): RowGuard | undefined {
  if (ownerColumn === undefined) return undefined
  watchWrites(dialect)
  const name = context?.column ?? null
  return (table, property, encode) =>
    setRowRule(table, property, (row) => checkOwner(row, { property, ownerColumn, name, encode }))
}

interface OwnedColumn {
  readonly property: string
  readonly ownerColumn: string
  /** For messages. */
  readonly name: string | null
  readonly encode: (value: unknown) => unknown
}

function checkOwner(row: WrittenRow, column: OwnedColumn): void {
  const { property, ownerColumn, encode } = column
  if (row.statement === 'insert-select') throw unseenOwner(column, 'insert … select')
  const value = row.read(property)
  const owner = row.read(ownerColumn)
  const isEncrypted = 'value' in value && value.value !== null
  if (row.statement === 'update' && owner.kind === 'absent' && (isEncrypted || value.kind === 'unseen'))
    requireOwner(row, column, isEncrypted ? value : null)
  if (!isEncrypted) {
    // The stored values stay under the key of the scope's user: only for that user the row can be read afterwards.
    if (row.statement === 'update' && 'value' in owner)
      row.onEncode(ownerColumn, (id) => assertOwner(column, id, userInScope(column)))
    return
  }
  if (owner.kind === 'value') {
    row.write(property, value, (plaintext) => {
      if (!isAbsent(plaintext)) assertOwner(column, owner.value, userInScope(column))
      return encode(plaintext)
    })
  } else if (owner.kind === 'placeholder') {
    checkPlaceholder(row, column)
  } else if (row.statement === 'update' && owner.kind === 'absent') {
    row.write(property, value, encode)
  } else {
    throw unseenOwner(column, owner.kind === 'absent' ? 'a row without it' : 'an sql expression')
  }
}

/**
 * An update that does not set the owner: only the database knows whose the rows are that it comes to. It refuses those of others, if the owner
 * column is NOT NULL.
 *
 * @param value null: an expression, such as `excluded.api_key`. Without a scope it encrypts nothing
 */
function requireOwner(row: WrittenRow, column: OwnedColumn, value: EncodedCell | null): void {
  const { ownerColumn } = column
  if (!row.isNotNull(ownerColumn)) return
  const moment = value ?? { kind: 'value', value: true }
  row.requireStored(ownerColumn, moment, (given) => {
    if (isAbsent(given)) return null
    return value === null ? (currentScope('user')?.handle.userId ?? null) : userInScope(column)
  })
}

/**
 * The owner of a prepared statement is known at each execution only. Drizzle encodes constants when it builds the statement and placeholders in
 * their order at each execution: so of value and owner the one that is encoded later finds the other's, and compares.
 */
function checkPlaceholder(row: WrittenRow, column: OwnedColumn): void {
  const { property, ownerColumn, encode } = column
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
    if (isAbsent(plaintext)) return encode(plaintext)
    const user = userInScope(column)
    if (isOwnerFirst) assertOwner(column, owner, user)
    userId = user
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

function isAbsent(value: unknown): boolean {
  return value === null || value === undefined
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
