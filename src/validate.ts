/** Checks of what callers pass. Each message names the argument, what was expected and the kind of thing that arrived, never its value. */
import { invalidArgument, type KeystoreError, quoted } from './errors.js'
import { RESERVED_USER_ID_PREFIX, TENANT_USER_ID_PREFIX } from './table.js'

/** The longest user id, in UTF-8 bytes: a Postgres index entry cannot hold much more. */
export const MAX_USER_ID_BYTES = 512

/** The longest tenant id: with its prefix it is the user id of the tenant's own key. */
export const MAX_TENANT_ID_BYTES = MAX_USER_ID_BYTES - TENANT_USER_ID_PREFIX.length

/**
 * @throws ERR_INVALID_ARGUMENT unless 1–512 UTF-8 bytes, well formed (both databases would turn different lone
 *   surrogates into one U+FFFD, so two users would share a key), without NUL (which Postgres does not store), and not
 *   beginning with U+0001 (the keystore's own keys have such ids)
 */
export function assertUserId(userId: unknown): asserts userId is string {
  assertId('userId', userId, MAX_USER_ID_BYTES)
  if (userId.startsWith(RESERVED_USER_ID_PREFIX))
    throw invalidArgument('userId must not begin with U+0001, which is kept for keys of tenants')
}

/** @throws ERR_INVALID_ARGUMENT unless 1–504 UTF-8 bytes, well formed, without NUL */
export function assertTenantId(tenantId: unknown, name = 'tenantId'): asserts tenantId is string {
  assertId(name, tenantId, MAX_TENANT_ID_BYTES)
}

function assertId(name: string, id: unknown, mostBytes: number): asserts id is string {
  if (typeof id !== 'string') throw invalidArgument(`${name} must be a string, got ${kindOf(id)}`)
  if (id === '') throw invalidArgument(`${name} must not be empty`)
  if (!id.isWellFormed())
    throw invalidArgument(`${name} must be well-formed Unicode, it has a lone surrogate`)
  if (id.includes('\0')) throw invalidArgument(`${name} must not contain a NUL character`)
  // A character is 1 to 3 bytes of UTF-8: most ids need no count.
  if (id.length * 3 <= mostBytes) return
  const bytes = Buffer.byteLength(id)
  if (bytes > mostBytes)
    throw invalidArgument(`${name} must be at most ${mostBytes} UTF-8 bytes, got ${bytes}`)
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

/** The kind of a value, for messages. */
export function kindOf(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'an array'
  if (value instanceof Uint8Array) return 'bytes'
  return typeof value === 'object' ? 'an object' : typeof value
}

/**
 * Whether a value is `{ … }`: an object that inherits nothing but what every object does. No Map, Date or array, and nothing made with
 * `Object.create(other)`.
 */
export function isPlainObject(value: unknown): value is object {
  if (typeof value !== 'object' || value === null) return false
  const prototype = Object.getPrototypeOf(value)
  if (prototype === null || prototype === Object.prototype) return true
  // The Object.prototype of another realm, such as that of node:vm.
  return Object.getPrototypeOf(prototype) === null && Object.hasOwn(prototype, 'isPrototypeOf')
}

/**
 * A copy of an options object that inherits nothing: what some code has put on `Object.prototype` is then no option. Options of a class
 * are refused, since its getters would silently not count.
 *
 * @throws ERR_INVALID_ARGUMENT unless it is a plain object whose properties can be read
 */
export function ownOptions<T extends object>(options: T, name = 'options'): T {
  assertPlainOptions(options, name)
  try {
    return Object.assign(Object.create(null), options)
  } catch {
    throw unreadable(name)
  }
}

/** Without the error of the getter, which may hold what the option holds. */
export function unreadable(name: string): KeystoreError {
  return invalidArgument(`${name} cannot be read: a getter of it threw`)
}

/** For whoever reads the options' own properties one by one, instead of {@link ownOptions}. @throws ERR_INVALID_ARGUMENT like it */
export function assertPlainOptions(options: unknown, name: string): asserts options is object {
  if (typeof options !== 'object' || options === null)
    throw invalidArgument(`${name} must be an object, got ${kindOf(options)}`)
  if (!isPlainObject(options))
    throw invalidArgument(
      `${name} must be a plain object: properties that it inherits would not count. Pass { ... } of them`,
    )
}

/**
 * {@link ownOptions}, none of them unknown.
 *
 * @param known all options that there are: the compiler finds a missing one
 * @param of what takes the options, such as `EnvelopeCrypto.open`
 * @throws ERR_INVALID_ARGUMENT, like {@link refuseUnknownOptions}
 */
export function knownOptions<T extends object>(
  options: T,
  known: Readonly<Record<keyof T, true>>,
  of: string,
  name = 'options',
): T {
  const own = ownOptions(options, name)
  refuseUnknownOptions(own, known, of)
  return own
}

/**
 * Refuses an option that there is not: ignoring it would silently mean the default of the one that was meant.
 *
 * @param of what takes the options, such as `EnvelopeCrypto.open`
 * @throws ERR_INVALID_ARGUMENT, which names the known option with the most similar name, or all of them
 */
export function refuseUnknownOptions(
  options: object,
  known: Readonly<Record<string, true>>,
  of: string,
): void {
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || Object.hasOwn(known, name)) continue
    throw invalidArgument(`${quoted(name)} is no option of ${of}: ${nameAdvice(name, Object.keys(known))}`)
  }
}

/** For the message about a name that there is not: which of the known names was meant, or all of them. */
export function nameAdvice(name: string, known: readonly string[]): string {
  const [nearest] = known
    .map((other) => ({ other, distance: editDistance(name.toLowerCase(), other.toLowerCase()) }))
    .filter(({ other, distance }) => distance <= other.length / 3)
    .sort((a, b) => a.distance - b.distance)
  return nearest === undefined ? `it takes ${known.join(', ')}` : `did you mean ${nearest.other}?`
}

/** The longest name whose spelling is compared. */
const MAX_COMPARED = 50

/** How many characters are to be inserted, removed or replaced (Levenshtein). */
function editDistance(a: string, b: string): number {
  if (a.length > MAX_COMPARED) return MAX_COMPARED
  let row = [...b, ''].map((_, index) => index)
  for (let i = 0; i < a.length; i += 1) {
    const next = [i + 1]
    for (let j = 0; j < b.length; j += 1) {
      const replaced = (row[j] ?? 0) + (a[i] === b[j] ? 0 : 1)
      next.push(Math.min(replaced, (row[j + 1] ?? 0) + 1, (next[j] ?? 0) + 1))
    }
    row = next
  }
  return row.at(-1) ?? 0
}
