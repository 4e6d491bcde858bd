/** Encrypts and decrypts fields of rows of other libraries: each for the user whom the row belongs to, or for the pool. */
import type { EnvelopeCrypto } from '../envelope/envelope-crypto.js'
import { isOfValue } from '../envelope/unreadable.js'
import { invalidArgument, isKeystoreError, KeystoreError, quoted } from '../errors.js'
import type { EncryptionContext } from '../format/context.js'
import { isDamagedToken, isToken, type Token } from '../format/token.js'
import { kindOf } from '../validate.js'

/** What to do with a stored value that is no token: an error, or the value as it is. */
export type StoredPlaintext = 'reject' | 'pass-through'

/** A value that cannot be decrypted. It has neither the value nor the token. */
export interface UnreadableField {
  /** The library's own name of the table. */
  readonly model: string
  /** The library's own name of the field. */
  readonly field: string
  /** The `id` of its row. Null if the row has none, or was read without it. */
  readonly rowId: string | null
  /** Null: it belongs to the pool. */
  readonly userId: string | null
  /** Why; tell them apart by `code`. */
  readonly error: KeystoreError
}

/** What to give in place of a value that cannot be decrypted: an error, null, or what a function returns. An outage is always an error. */
export type OnUnreadable = 'throw' | 'null' | ((unreadable: UnreadableField) => string | null)

/** A field of a row. */
export interface FieldCell {
  readonly model: string
  readonly rowId: string | null
  readonly field: string
  readonly value: unknown
  readonly context: EncryptionContext
  /** Null: it belongs to the pool. */
  readonly owner: string | null
}

/** For {@link FieldCell.rowId}. */
export function rowIdOf({ id }: { readonly id?: unknown }): string | null {
  return typeof id === 'string' || typeof id === 'number' || typeof id === 'bigint' ? String(id) : null
}

/** Works with values of any number of users, with one look-up of keys. */
export class FieldCrypto {
  readonly #envelope: EnvelopeCrypto
  readonly #plaintext: StoredPlaintext
  readonly #onUnreadable: OnUnreadable

  /** @throws ERR_INVALID_ARGUMENT */
  constructor(envelope: EnvelopeCrypto, plaintext: StoredPlaintext, onUnreadable: OnUnreadable) {
    if (typeof envelope?.encryptMany !== 'function')
      throw invalidArgument(`envelope must be what EnvelopeCrypto.open returns, got ${kindOf(envelope)}`)
    if (plaintext !== 'reject' && plaintext !== 'pass-through')
      throw invalidArgument("plaintext must be 'reject' or 'pass-through'")
    if (onUnreadable !== 'throw' && onUnreadable !== 'null' && typeof onUnreadable !== 'function')
      throw invalidArgument("onUnreadable must be 'throw', 'null' or a function")
    this.#envelope = envelope
    this.#plaintext = plaintext
    this.#onUnreadable = onUnreadable
  }

  /** @throws ERR_INVALID_ARGUMENT (a value that is no text, or is a token) · like `encrypt` of the service */
  async encrypt(cells: readonly FieldCell[]): Promise<Token[]> {
    for (const { model, field, value } of cells) {
      if (typeof value !== 'string')
        throw invalidArgument(`${model}.${field} must be text to be encrypted, got ${kindOf(value)}`)
    }
    return this.#each(
      cells,
      (cell) => this.#envelope.pool.encrypt(cell.value as string, cell.context),
      (userId, { value, context }) => ({ userId, plaintext: value as string, context }),
      (items) => this.#envelope.encryptMany(items),
    ).then((results) => results.map((result, at) => tokenOf(result, cells[at] as FieldCell)))
  }

  /** @throws like `decrypt` of the service. Its error names the field */
  async decrypt(cells: readonly FieldCell[]): Promise<(string | null)[]> {
    const texts: (string | null)[] = []
    const stored: FieldCell[] = []
    const places: number[] = []
    for (const [at, cell] of cells.entries()) {
      const { value } = cell
      if (isToken(value) || (typeof value === 'string' && isDamagedToken(value))) {
        places.push(at)
        stored.push(cell)
      } else if (typeof value === 'string' && this.#plaintext === 'pass-through') {
        texts[at] = value
      } else {
        texts[at] = this.#unreadable(cell, notEncrypted(value))
      }
    }
    const results = await this.#each(
      stored,
      (cell) => this.#envelope.pool.decrypt(cell.value as string, cell.context),
      (userId, { value, context }) => ({ userId, token: value as string, context }),
      (items) => this.#envelope.decryptMany(items),
    )
    for (const [index, result] of results.entries()) {
      const cell = stored[index] as FieldCell
      texts[places[index] as number] = typeof result === 'string' ? result : this.#unreadable(cell, result)
    }
    return texts
  }

  /** A result for each cell, in their order. */
  async #each<Item, Value extends string>(
    cells: readonly FieldCell[],
    ofPool: (cell: FieldCell) => Promise<Value>,
    itemOf: (userId: string, cell: FieldCell) => Item,
    ofUsers: (
      items: Item[],
    ) => Promise<readonly ({ ok: true; value: Value } | { ok: false; error: KeystoreError })[]>,
  ): Promise<(Value | KeystoreError)[]> {
    const owned = cells.flatMap((cell) => (cell.owner === null ? [] : itemOf(cell.owner, cell)))
    const results = (owned.length === 0 ? [] : await ofUsers(owned)).values()
    const values: (Value | KeystoreError)[] = []
    for (const cell of cells) {
      if (cell.owner === null) values.push(await ofPool(cell).catch(keystoreError))
      else {
        const { value: result } = results.next()
        values.push(result?.ok ? result.value : keystoreError(result?.error))
      }
    }
    return values
  }

  #unreadable(cell: FieldCell, error: KeystoreError): string | null {
    const named = withField(cell, error)
    if (this.#onUnreadable === 'throw' || !isOfValue(error)) throw named
    if (this.#onUnreadable === 'null') return null
    const { model, field, rowId, owner: userId } = cell
    const given: unknown = this.#onUnreadable({ model, field, rowId, userId, error: named })
    if (typeof given === 'string' || given === null) return given
    // A promise would be taken for the value.
    throw invalidArgument(
      `onUnreadable must return text or null, and not later: it returned ${kindOf(given)}`,
    )
  }
}

function tokenOf(result: Token | KeystoreError, cell: FieldCell): Token {
  if (typeof result === 'string') return result
  throw withField(cell, result)
}

/** An error about a value names the field, its row and its user; one about a store or a master key stays as it is. */
function withField({ model, field, rowId, owner }: FieldCell, error: KeystoreError): KeystoreError {
  if (error.code !== 'ERR_INVALID_ARGUMENT' && !isOfValue(error)) return error
  const row = rowId === null ? '' : ` of row ${quoted(rowId)}`
  const user = owner === null ? '' : `${row === '' ? ' of' : ','} user ${quoted(owner)}`
  return new KeystoreError(error.code, `${model}.${field}${row}${user}: ${error.message}`, { cause: error })
}

function notEncrypted(value: unknown): KeystoreError {
  const what =
    typeof value === 'string' ? 'the stored value is no token' : `the stored value is ${kindOf(value)}`
  return new KeystoreError(
    'ERR_NOT_ENCRYPTED',
    `${what}: sweep the table with reencrypt, and read plaintext with plaintext: 'pass-through' until it reports left: 0`,
  )
}

/** @throws what is no error of ours */
function keystoreError(error: unknown): KeystoreError {
  if (isKeystoreError(error)) return error
  throw error
}
