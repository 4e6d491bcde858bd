/** Checks of what callers pass. Each message names the argument, what was expected and the kind of thing that arrived, never its value. */
import { invalidArgument } from './errors.js'

/** The longest user id, in UTF-8 bytes: a Postgres index entry cannot hold much more. */
export const MAX_USER_ID_BYTES = 512

/** The caller's name → value map: authenticated by v3 tokens, not stored in them; v2 tokens ignore it. */
export type EncryptionContext = Readonly<Record<string, string>>

/**
 * @throws ERR_INVALID_ARGUMENT unless 1–512 UTF-8 bytes, well formed (both databases would turn different lone
 *   surrogates into one U+FFFD, so two users would share a key) and without NUL (which Postgres does not store)
 */
export function assertUserId(userId: unknown): asserts userId is string {
  if (typeof userId !== 'string') throw invalidArgument(`userId must be a string, got ${kindOf(userId)}`)
  if (userId === '') throw invalidArgument('userId must not be empty')
  if (!userId.isWellFormed())
    throw invalidArgument('userId must be well-formed Unicode, it has a lone surrogate')
  if (userId.includes('\0')) throw invalidArgument('userId must not contain a NUL character')
  const bytes = Buffer.byteLength(userId)
  if (bytes > MAX_USER_ID_BYTES) {
    throw invalidArgument(`userId must be at most ${MAX_USER_ID_BYTES} UTF-8 bytes, got ${bytes}`)
  }
}

/** @throws ERR_INVALID_ARGUMENT unless a well-formed string: a lone surrogate would come back as U+FFFD */
export function assertPlaintext(plaintext: unknown): asserts plaintext is string {
  if (typeof plaintext !== 'string')
    throw invalidArgument(`plaintext must be a string, got ${kindOf(plaintext)}`)
  if (!plaintext.isWellFormed()) {
    throw invalidArgument(
      'plaintext must be well-formed Unicode, it has a lone surrogate; encryptBytes takes any bytes',
    )
  }
}

/** @throws ERR_INVALID_ARGUMENT unless a Uint8Array, of exactly `length` bytes where one is given */
export function assertBytes(name: string, value: unknown, length?: number): asserts value is Uint8Array {
  const wanted = length === undefined ? 'a Uint8Array' : `a Uint8Array of ${length} bytes`
  if (!(value instanceof Uint8Array)) throw invalidArgument(`${name} must be ${wanted}, got ${kindOf(value)}`)
  if (length !== undefined && value.length !== length) {
    throw invalidArgument(`${name} must be ${wanted}, got ${value.length} bytes`)
  }
}

/**
 * A context as the pieces that a token's AAD goes on with: name1, value1, name2, value2 …, names in the order of their UTF-8
 * bytes. Own enumerable string keys; absent equals `{}`; names and values may be empty.
 *
 * @throws ERR_INVALID_ARGUMENT unless undefined or a plain object whose values are strings, all well formed
 */
export function contextPieces(context: unknown): readonly string[] {
  if (context === undefined) return NO_CONTEXT
  if (typeof context !== 'object' || context === null || !isPlain(context)) {
    throw invalidArgument(`context must be a plain object of strings, got ${kindOf(context)}`)
  }
  const names = Object.keys(context)
  // Not JavaScript's own order, which compares UTF-16 units: it has U+1F600 before U+FF5E.
  if (names.length > 1) names.sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
  const pieces: string[] = []
  for (const name of names) {
    const value: unknown = (context as Record<string, unknown>)[name]
    if (typeof value !== 'string')
      throw invalidArgument(`context values must be strings, got ${kindOf(value)}`)
    if (!name.isWellFormed() || !value.isWellFormed()) {
      throw invalidArgument('context names and values must be well-formed Unicode, one has a lone surrogate')
    }
    pieces.push(name, value)
  }
  return pieces
}

const NO_CONTEXT: readonly string[] = []

/** No Map, Date or array: what they hold is in no own key, so that any two of them would be the same context. */
function isPlain(value: object): boolean {
  const prototype = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}

/** The kind of a value, for messages. */
export function kindOf(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'an array'
  if (value instanceof Uint8Array) return 'bytes'
  return typeof value === 'object' ? 'an object' : typeof value
}
