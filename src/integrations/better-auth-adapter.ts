/** The methods of a Better Auth adapter, with encryption in between. */
import { invalidArgument } from '../errors.js'
import type { EncryptedModel } from './better-auth-fields.js'
import { type AuthSchema, ownFieldName } from './better-auth-schema.js'
import type {
  AuthAdapter,
  Call,
  Condition,
  CreateCall,
  FindCall,
  IncrementCall,
  Row,
  UpdateCall,
  WhereCall,
} from './better-auth-shapes.js'
import { deletedUsers, type UserShredder } from './better-auth-users.js'
import {
  cellsOf,
  encryptedRow,
  encryptedWrites,
  isEquality,
  matchingRows,
  ownerOf,
  pinnedValue,
  type Write,
} from './better-auth-writes.js'
import type { FieldCell, FieldCrypto } from './field-crypto.js'

/** What is known of one Better Auth. */
export interface AuthPlan {
  readonly schema: AuthSchema
  readonly encrypted: ReadonlyMap<string, EncryptedModel>
  readonly crypto: FieldCrypto
}

/** Methods that neither read nor write rows. */
const HARMLESS = new Set(['createSchema'])
const METHODS = [
  'create',
  'findOne',
  'findMany',
  'count',
  'update',
  'updateMany',
  'delete',
  'deleteMany',
  'consumeOne',
  'incrementOne',
  'transaction',
] as const satisfies readonly (keyof AuthAdapter)[]

/** Adapters that encrypt already. */
const encrypting = new WeakSet<object>()

/**
 * Makes an adapter encrypt. It is changed in place: Better Auth finds an adapter's check of the database schema by the object's identity. A
 * method that this version does not know throws, since it might write plaintext.
 *
 * @throws ERR_INVALID_ARGUMENT
 */
export function encryptInPlace(adapter: AuthAdapter, plan: AuthPlan, shredder: UserShredder): void {
  if (encrypting.has(adapter))
    throw invalidArgument(
      'the adapter encrypts already: encryptedAdapter was called twice, or its adapter function returns one object again and again',
    )
  const base: AuthAdapter = Object.create(
    Object.getPrototypeOf(adapter),
    Object.getOwnPropertyDescriptors(adapter),
  )
  const methods = new EncryptingMethods(base, adapter, plan, shredder)
  for (const name of methodNames(adapter)) {
    const known = METHODS.find((method) => method === name)
    if (known !== undefined) define(adapter, name, methods[known].bind(methods))
    else if (!HARMLESS.has(name)) define(adapter, name, () => Promise.reject(unknownMethod(name)))
  }
  encrypting.add(adapter)
}

function define(adapter: object, name: string, value: unknown): void {
  Object.defineProperty(adapter, name, { value, writable: true, enumerable: true, configurable: true })
}

function methodNames(adapter: object): Set<string> {
  const names = new Set<string>()
  for (let at = adapter; at !== null && at !== Object.prototype; at = Object.getPrototypeOf(at)) {
    for (const name of Object.getOwnPropertyNames(at)) {
      if (name !== 'constructor' && typeof Reflect.get(adapter, name) === 'function') names.add(name)
    }
  }
  return names
}

function unknownMethod(name: string) {
  return invalidArgument(
    `This version of drizzle-keystore does not know the adapter's method ${name}, which might write plaintext: use a version that does`,
  )
}

class EncryptingMethods implements AuthAdapter {
  readonly #base: AuthAdapter
  readonly #adapter: AuthAdapter
  readonly #plan: AuthPlan
  readonly #shredder: UserShredder

  constructor(base: AuthAdapter, adapter: AuthAdapter, plan: AuthPlan, shredder: UserShredder) {
    this.#base = base
    this.#adapter = adapter
    this.#plan = plan
    this.#shredder = shredder
  }

  async create(call: CreateCall): Promise<Row> {
    const encrypted = this.#modelOf(call)
    if (encrypted === undefined) return this.#base.create(call)
    const { data } = call
    const hasValues = cellsOf(encrypted, null, data).length > 0
    const written = hasValues
      ? await encryptedRow(this.#plan.crypto, encrypted, ownerOf(encrypted, data), data)
      : data
    const select = withOwner(encrypted, call.select)
    const row = await this.#base.create({ ...call, ...select, data: written })
    return this.#opened(call, [row]).then(([opened]) => opened as Row)
  }

  async findOne(call: FindCall): Promise<Row | null> {
    const row = await this.#base.findOne(this.#readable(call))
    return this.#openedOne(call, row)
  }

  async findMany(call: FindCall): Promise<readonly Row[]> {
    return this.#opened(call, await this.#base.findMany(this.#readable(call)))
  }

  async count(call: WhereCall): Promise<number> {
    return this.#base.count(this.#readable(call))
  }

  async update(call: UpdateCall): Promise<Row | null> {
    const [write] = await this.#writeOfOne(call, call.update)
    if (write === undefined) return null
    const { where, values: update } = write
    return this.#openedOne(call, await this.#base.update({ ...call, where: [...where], update }))
  }

  async updateMany(call: UpdateCall): Promise<number> {
    let count = 0
    for (const { where, values: update } of await this.#writes(call, call.update))
      count += await this.#base.updateMany({ ...call, where: [...where], update })
    return count
  }

  async incrementOne(call: IncrementCall): Promise<Row | null> {
    const encrypted = this.#modelOf(call)
    for (const field of Object.keys(call.increment ?? {})) {
      if (encrypted?.fields.has(ownFieldName(encrypted.model, field)))
        throw refused(encrypted, field, 'increment')
    }
    const [write] = await this.#writeOfOne(call, call.set ?? {})
    if (write === undefined) return null
    const set = call.set === undefined ? {} : { set: write.values }
    const row = await this.#base.incrementOne({ ...call, where: [...write.where], ...set })
    return this.#openedOne(call, row)
  }

  async delete(call: WhereCall): Promise<void> {
    const where = await this.#guarded(call)
    if (where === null) return
    await this.#deleting({ ...call, where }, (guarded) => this.#base.delete(guarded))
  }

  async deleteMany(call: WhereCall): Promise<number> {
    const where = await this.#guarded(call)
    return where === null
      ? 0
      : this.#deleting({ ...call, where }, (guarded) => this.#base.deleteMany(guarded))
  }

  async consumeOne(call: WhereCall): Promise<Row | null> {
    const where = await this.#guarded(call)
    if (where === null) return null
    const row = await this.#deleting({ ...call, where }, (guarded) => this.#base.consumeOne(guarded))
    return this.#openedOne(call, row)
  }

  /** What is given to `work` encrypts too. Users that it deletes are shredded once it is committed. */
  async transaction<T>(work: (adapter: AuthAdapter) => Promise<T>): Promise<T> {
    let deferred = this.#shredder.deferred()
    const result = await this.#base.transaction((adapter) => {
      // Without real transactions it is the adapter itself.
      if (adapter === this.#adapter) return work(adapter)
      // An adapter may run it again.
      deferred = this.#shredder.deferred()
      encryptInPlace(adapter, this.#plan, deferred)
      return work(adapter)
    })
    await deferred.shred(this.#base)
    return result
  }

  #modelOf({ model }: Call): EncryptedModel | undefined {
    const name = this.#plan.schema.model(model)?.name
    return name === undefined ? undefined : this.#plan.encrypted.get(name)
  }

  /** @returns the call, with the owner among what it selects @throws ERR_INVALID_ARGUMENT */
  #readable<T extends FindCall>(call: T): T {
    const encrypted = this.#modelOf(call)
    if (encrypted === undefined) return call
    const [compared] = comparedFields(encrypted, call.where ?? [])
    if (compared !== undefined) throw refused(encrypted, compared.field, 'where')
    const { sortBy } = call
    if (sortBy && encrypted.fields.has(ownFieldName(encrypted.model, sortBy.field)))
      throw refused(encrypted, sortBy.field, 'sortBy')
    return { ...call, ...withOwner(encrypted, call.select) }
  }

  async #writes(call: WhereCall, values: Row): Promise<Write[]> {
    const encrypted = this.#modelOf(call)
    if (encrypted === undefined) return [{ where: call.where ?? [], values }]
    const where = await this.#guarded(call)
    return where === null ? [] : encryptedWrites(this.#base, this.#plan.crypto, encrypted, where, values)
  }

  async #writeOfOne(call: WhereCall, values: Row): Promise<Write[]> {
    const writes = await this.#writes(call, values)
    if (writes.length < 2) return writes
    throw invalidArgument(
      `${call.model}: the update of one row matches rows of several users, whose tokens differ. Name the row by its id, or use updateMany`,
    )
  }

  /**
   * The conditions of a write. One that an encrypted field has a value is compared by us, if the row is named by its id, and becomes the
   * condition that the field still has the same token. Better Auth's two-factor plugin uses up a backup code in this way.
   *
   * @returns null if the value is another one @throws ERR_INVALID_ARGUMENT
   */
  async #guarded(call: WhereCall): Promise<Condition[] | null> {
    const { where = [] } = call
    const encrypted = this.#modelOf(call)
    const compared = encrypted === undefined ? [] : comparedFields(encrypted, where)
    const [first] = compared
    if (encrypted === undefined || first === undefined) return where
    if (pinnedValue(encrypted, where, 'id') === undefined || !compared.every(isEquality))
      throw refused(encrypted, first.field, 'where')
    const others = where.filter((condition) => !compared.includes(condition))
    const row = await this.#base.findOne({ model: encrypted.model.name, where: others })
    if (row === null) return null
    const owner = ownerOf(encrypted, row)
    const stored = cellsOf(encrypted, owner, row)
    const cells = compared.map(({ field }) =>
      stored.find((cell) => cell.field === ownFieldName(encrypted.model, field)),
    )
    if (!cells.every((cell) => cell !== undefined)) return null
    const texts = await this.#plan.crypto.decrypt(cells)
    if (!texts.every((text, at) => text === compared[at]?.value)) return null
    return [...others, ...cells.map(({ field, value }) => ({ field, value }))]
  }

  async #deleting<T>(call: WhereCall, work: (call: WhereCall) => Promise<T>): Promise<T> {
    const { schema } = this.#plan
    const model = schema.model(call.model)
    if (model?.name !== 'user' || !this.#shredder.isOn) return work(call)
    const users = await matchingRows(this.#base, { model }, call.where ?? [], ['id'])
    const result = await work(call)
    await this.#shredder.deleted(this.#base, deletedUsers(users))
    return result
  }

  async #openedOne(call: FindCall, row: Row | null): Promise<Row | null> {
    if (row === null || row === undefined) return row
    const [opened] = await this.#opened(call, [row])
    return opened as Row
  }

  /** Copies of rows, with plaintext in their fields and in those of the rows that were joined. */
  async #opened({ select, join, ...call }: FindCall, rows: readonly Row[]): Promise<readonly Row[]> {
    const encrypted = this.#modelOf(call)
    const joined = joinedModels(join, (model) => this.#modelOf({ model }))
    if (encrypted === undefined && joined.size === 0) return rows
    const cells: FieldCell[] = []
    const targets: Record<string, unknown>[] = []
    const copy = (model: EncryptedModel, row: Row) => {
      const copied = { ...row }
      for (const cell of ownedCells(model, row)) {
        cells.push(cell)
        targets.push(copied)
      }
      return copied
    }
    const addedOwner = encrypted && withOwner(encrypted, select).select !== select ? encrypted.owner : null
    const opened = rows.map((row) => {
      const copied: Record<string, unknown> = encrypted === undefined ? { ...row } : copy(encrypted, row)
      if (addedOwner !== null && addedOwner !== undefined) delete copied[addedOwner]
      for (const [name, model] of joined) {
        const value = row[name]
        if (Array.isArray(value)) copied[name] = value.map((item) => (item ? copy(model, item) : item))
        else if (value) copied[name] = copy(model, value as Row)
      }
      return copied
    })
    const texts = await this.#plan.crypto.decrypt(cells)
    for (const [at, { field }] of cells.entries()) (targets[at] as Record<string, unknown>)[field] = texts[at]
    return opened
  }
}

function ownedCells(encrypted: EncryptedModel, row: Row): FieldCell[] {
  // The owner matters only if there is something to open: a selection may have left both out.
  return cellsOf(encrypted, null, row).length === 0 ? [] : cellsOf(encrypted, ownerOf(encrypted, row), row)
}

/** Conditions on encrypted fields. Whether there is a value may be asked. */
function comparedFields({ model, fields }: EncryptedModel, where: readonly Condition[]): Condition[] {
  return where.filter(({ field, operator = 'eq', value }) => {
    const asksForNull = value === null && (operator === 'eq' || operator === 'ne')
    return fields.has(ownFieldName(model, field)) && !asksForNull
  })
}

function refused({ model }: EncryptedModel, field: string, where: string) {
  return invalidArgument(
    `${model.name}.${field} is encrypted, so that ${where} cannot compare it: two tokens of one value differ. Find the row by other fields, or keep a fingerprint of the value in a field of its own`,
  )
}

/** A selection that leaves out the owner gets it too, to decrypt with. */
function withOwner(
  { owner, fields }: EncryptedModel,
  select: string[] | undefined,
): { readonly select?: string[] } {
  if (select === undefined) return {}
  const isNeeded = owner !== null && select.length > 0 && !select.includes(owner)
  return { select: isNeeded && select.some((field) => fields.has(field)) ? [...select, owner] : select }
}

/** The models with encrypted fields that a call joins, by each name under which a row may hold them. */
function joinedModels(
  join: Readonly<Record<string, unknown>> = {},
  modelOf: (name: string) => EncryptedModel | undefined,
): Map<string, EncryptedModel> {
  const models = new Map<string, EncryptedModel>()
  for (const [name, isJoined] of Object.entries(join)) {
    const encrypted = isJoined ? modelOf(name) : undefined
    if (encrypted === undefined) continue
    for (const key of [name, encrypted.model.name]) models.set(key, encrypted)
  }
  return models
}
