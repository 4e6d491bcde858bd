/** What an update of Better Auth writes: tokens, for the users whom the rows belong to. */
import { invalidArgument } from '../errors.js'
import { kindOf } from '../validate.js'
import type { EncryptedModel } from './better-auth-fields.js'
import { ownFieldName } from './better-auth-schema.js'
import type { AuthAdapter, Condition, Row } from './better-auth-shapes.js'
import { type FieldCell, type FieldCrypto, rowIdOf } from './field-crypto.js'

/** An update of rows of one owner. */
export interface Write {
  readonly where: readonly Condition[]
  readonly values: Row
}

/**
 * Whom a row belongs to. Null: the pool.
 *
 * @throws ERR_INVALID_ARGUMENT if it has no owner and its model has no values of the pool
 */
export function ownerOf({ model, owner, pool }: EncryptedModel, row: Row): string | null {
  if (owner === null) return null
  const id = row[owner]
  if (typeof id === 'string') return id
  if (typeof id === 'number' || typeof id === 'bigint') return String(id)
  if (pool && (id === null || id === undefined)) return null
  throw invalidArgument(
    `${model.name}.${owner} must be the id of the user whom the row belongs to, got ${kindOf(id)}; values of no user need \`pool: true\` in fields.${model.name}`,
  )
}

/** The encrypted fields of a row that have a value. */
export function cellsOf({ model, fields }: EncryptedModel, owner: string | null, row: Row): FieldCell[] {
  const cells: FieldCell[] = []
  for (const [field, context] of fields) {
    const value = row[field]
    if (value !== null && value !== undefined)
      cells.push({ model: model.name, rowId: rowIdOf(row), field, value, context, owner })
  }
  return cells
}

/** A row with tokens in place of its encrypted fields. */
export async function encryptedRow(
  fieldCrypto: FieldCrypto,
  model: EncryptedModel,
  owner: string | null,
  row: Row,
): Promise<Row> {
  const cells = cellsOf(model, owner, row)
  const tokens = await fieldCrypto.encrypt(cells)
  return { ...row, ...Object.fromEntries(cells.map(({ field }, at) => [field, tokens[at]])) }
}

/**
 * Turns an update into one for each owner of the rows that it matches. If the update says nothing of the owner, it is looked up; the update
 * then writes only rows that still have this owner. Values of rows that come to another owner are encrypted anew.
 *
 * @returns none if nothing matches
 */
export async function encryptedWrites(
  base: AuthAdapter,
  fieldCrypto: FieldCrypto,
  encrypted: EncryptedModel,
  where: readonly Condition[],
  values: Row,
): Promise<Write[]> {
  const { owner } = encrypted
  const writesTokens = cellsOf(encrypted, null, values).length > 0
  const setsOwner = owner !== null && values[owner] !== undefined
  if (!writesTokens && !setsOwner) return [{ where, values }]
  if (owner === null) return [{ where, values: await encryptedRow(fieldCrypto, encrypted, null, values) }]

  const next = setsOwner ? ownerOf(encrypted, values) : null
  const writeFor = async (row: Row): Promise<Write> => {
    const newOwner = setsOwner ? next : ownerOf(encrypted, row)
    return {
      where: [...where, { field: owner, value: row[owner] ?? null }],
      values: await encryptedRow(fieldCrypto, encrypted, newOwner, values),
    }
  }
  const pinned = setsOwner ? undefined : pinnedValue(encrypted, where, owner)
  if (pinned !== undefined) return [await writeFor({ [owner]: pinned })]

  const rows = await matchingRows(base, encrypted, where, setsOwner ? undefined : ['id', owner])
  const moving = setsOwner ? rows.filter((row) => ownerOf(encrypted, row) !== next) : []
  const staying = rows.filter((row) => !moving.includes(row))
  const ofEachOwner = new Map(staying.map((row) => [ownerOf(encrypted, row), row]))
  const writes: Write[] = []
  for (const row of ofEachOwner.values()) writes.push(await writeFor(row))
  for (const row of moving) writes.push(await moved(fieldCrypto, encrypted, where, values, row))
  return writes
}

/** The update of one row that comes to another owner. It writes nothing if somebody changes the row's secrets meanwhile. */
async function moved(
  fieldCrypto: FieldCrypto,
  encrypted: EncryptedModel,
  where: readonly Condition[],
  values: Row,
  row: Row,
): Promise<Write> {
  const owner = encrypted.owner as string
  const staying = cellsOf(encrypted, ownerOf(encrypted, row), row).filter(
    ({ field }) => values[field] === undefined,
  )
  const texts = await fieldCrypto.decrypt(staying)
  const kept = Object.fromEntries(staying.map(({ field }, at) => [field, texts[at]]))
  return {
    where: [
      ...where,
      { field: 'id', value: row.id },
      { field: owner, value: row[owner] ?? null },
      ...staying.map(({ field, value }) => ({ field, value })),
    ],
    values: await encryptedRow(fieldCrypto, encrypted, ownerOf(encrypted, values), { ...kept, ...values }),
  }
}

/** All rows that match: adapters stop at 100 unless a limit is given. */
export async function matchingRows(
  base: AuthAdapter,
  { model: { name: model } }: Pick<EncryptedModel, 'model'>,
  where: readonly Condition[],
  select?: string[],
): Promise<readonly Row[]> {
  const limit = await base.count({ model, where: [...where] })
  if (limit === 0) return []
  return base.findMany({ model, where: [...where], limit, ...(select === undefined ? {} : { select }) })
}

/** The value that a field has in every row that matches, if the conditions say so. */
export function pinnedValue(
  { model }: Pick<EncryptedModel, 'model'>,
  where: readonly Condition[],
  field: string,
): unknown {
  if (where.some(({ connector }) => connector === 'OR')) return undefined
  const pin = where.find(
    (condition) => ownFieldName(model, condition.field) === field && isEquality(condition),
  )
  return pin?.value
}

/** Whether it compares with one text or number, exactly. */
export function isEquality({ operator = 'eq', mode = 'sensitive', value }: Condition): boolean {
  return operator === 'eq' && mode === 'sensitive' && (typeof value === 'string' || typeof value === 'number')
}
