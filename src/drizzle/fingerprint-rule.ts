/** How a column of fingerprints fills itself when its row is written, and how it is compared. */
import { type Column, inArray, type SQL } from 'drizzle-orm'
import { invalidArgument, quoted } from '../errors.js'
import { fingerprintVersion } from '../format/fingerprint.js'
import type { FingerprintRole } from '../sources/value-source.js'
import { assertPlaintext, kindOf } from '../validate.js'
import { tablePartsOf } from './drizzle-table.js'
import { type EncryptedColumnMark, handleFor, markOf, refuseUnseenRow } from './encrypted-column.js'
import {
  type FingerprintColumnOptions,
  fingerprintMark,
  fingerprintMarkOf,
  fingerprintRoles,
  markFingerprint,
} from './fingerprint-column.js'
import { setRowRule, type WrittenRow, watchWrites } from './written-row.js'

/** What an insert gets for the column before its rule fills it: with it, Drizzle's types do not ask for a value. */
const UNFILLED = Object.freeze({ unfilled: true }) as unknown as string

/** The methods of a column builder that matter here. Drizzle does not declare all of them. */
interface BuilderHooks {
  readonly config: { dataType: string }
  /** 1.0 gives the table's casing too. */
  setName(key: string, ...casing: unknown[]): void
  build(table: object): object
  $defaultFn(make: () => string): unknown
  unique(...options: unknown[]): unknown
}

/**
 * Makes a builder of a text column one of a column of fingerprints.
 *
 * @param define makes the builder, given how values are encoded
 * @param own a builder of Drizzle's own for text: see `guardedBuilder`
 * @param dialect the prototype of the dialect's class, whose writes are watched from now on
 */
export function fingerprintBuilder<Builder extends object>(
  define: (toDriver: (value: string) => string) => Builder,
  options: FingerprintColumnOptions,
  own: object,
  dialect: object,
): Builder {
  const mark = fingerprintMark(options)
  watchWrites(dialect)
  const builder = define((value) => checkedFingerprint(value, mark.bits))
  const hooks = builder as Builder & BuilderHooks
  hooks.config.dataType = (own as BuilderHooks).config.dataType
  hooks.$defaultFn(() => UNFILLED)
  const { setName, build, unique } = hooks
  let key = ''
  hooks.setName = function (this: BuilderHooks, name, ...casing) {
    key = name
    setName.call(this, name, ...casing)
  }
  hooks.build = function (this: BuilderHooks, table) {
    const column = build.call(this, table)
    markFingerprint(column, mark)
    let role: RoleInTable | undefined
    const property = key
    setRowRule(table, property, (row) => {
      // Not before: the table is complete only after all of its columns are built.
      role ??= roleOf(table, property)
      fillFingerprint(row, property, role)
    })
    return column
  }
  for (const method of ['default', '$defaultFn', '$default', '$onUpdate', '$onUpdateFn', 'generatedAlwaysAs'])
    if (method in hooks) Reflect.set(hooks, method, refuseOtherValues)
  for (const method of ['primaryKey', 'array']) if (method in hooks) Reflect.set(hooks, method, refuseAsKey)
  hooks.unique = function (this: BuilderHooks, ...rest) {
    return mark.bits < 256 ? refuseTruncatedUnique() : unique.apply(this, rest)
  }
  return builder
}

/** With the column whose values are fingerprinted: under the key of its owner. */
interface RoleInTable extends FingerprintRole {
  readonly value: EncryptedColumnMark
}

function roleOf(table: object, property: string): RoleInTable {
  const parts = tablePartsOf(table)
  const role = fingerprintRoles(parts).get(property) as FingerprintRole
  return { ...role, value: markOf(parts.columns.get(role.of)) as EncryptedColumnMark }
}

/** The rule of the column. What is given for the column itself is ignored beside a value, so that a selected row can be written again. */
function fillFingerprint(row: WrittenRow, property: string, { of, kind, value: mark }: RoleInTable): void {
  const value = row.read(of)
  if ('value' in value) {
    row.write(property, value, (plaintext) => {
      if (plaintext === null || plaintext === undefined) return null
      assertPlaintext(plaintext)
      return handleFor(mark).fingerprintUnder('lowest', plaintext, kind)
    })
    return
  }
  const own = row.read(property)
  const isUnfilled = 'value' in own && own.value === UNFILLED
  // Both from the database, such as `excluded`, or the rows of a select.
  if (value.kind === 'unseen' && own.kind === 'unseen') return
  if (value.kind === 'unseen') throw unseenValue(property, of)
  if (isUnfilled) row.write(property, { kind: 'value', value: null }, () => null)
  else if (own.kind !== 'absent') throw writtenAlone(property, of)
}

function unseenValue(property: string, of: string): Error {
  return invalidArgument(
    `The fingerprint ${quoted(property)} cannot be made of an sql expression in ${quoted(of)}: give the plaintext, or expressions for both, as in an upsert`,
  )
}

function writtenAlone(property: string, of: string): Error {
  return invalidArgument(
    `The fingerprint ${quoted(property)} was to be written without ${quoted(of)}: leave it out, it is made when ${quoted(of)} is written`,
  )
}

/** @throws ERR_INVALID_ARGUMENT. The message does not show the value, which may be a plaintext */
function checkedFingerprint(value: unknown, bits: number): string {
  if (value === UNFILLED) return refuseUnseenRow()
  if (typeof value === 'string' && fingerprintVersion(value, { bits }) !== null) return value
  throw invalidArgument(
    `A column of fingerprints got ${kindOf(value)} that is none of its fingerprints. It fills itself; compare it with fingerprintMatches(column, value)`,
  )
}

/**
 * A condition for rows whose value, in the column that `column` has the fingerprints of, equals `value`, after `normalize`. Call it inside the
 * scope. While versions of the user's key are being pruned, it finds fingerprints under any live one. With `bits`, other values match too:
 * compare what is found.
 *
 * @throws ERR_INVALID_ARGUMENT if `column` is no column of `fingerprintText` · ERR_NO_SCOPE · what `fingerprints` of the handle throws
 * @example
 * const ofKey = () => db.select().from(credentials).where(fingerprintMatches(credentials.apiKeyFingerprint, 'sk-…'))
 * const found = await envelope.scope('alice', ofKey)
 */
export function fingerprintMatches(column: Column, value: string): SQL {
  const mark = fingerprintMarkOf(column)
  if (mark === null) throw invalidArgument('column must be a column of fingerprintText')
  assertPlaintext(value)
  const { columns } = tablePartsOf(column.table)
  const [property = ''] = [...columns].find(([, candidate]) => fingerprintMarkOf(candidate) === mark) ?? []
  const { kind, value: valueMark } = roleOf(column.table, property)
  return inArray(column, handleFor(valueMark).fingerprintsOf(value, kind))
}

function refuseOtherValues(): never {
  throw invalidArgument('A column of fingerprints fills itself: it has no other default and no expression')
}

function refuseAsKey(): never {
  throw invalidArgument(
    'A column of fingerprints cannot be a primary key or an array: the sweep changes fingerprints',
  )
}

function refuseTruncatedUnique(): never {
  throw invalidArgument(
    'A column of fingerprints with bits cannot be unique: different values share a fingerprint. Leave bits out',
  )
}
