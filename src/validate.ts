/** Checks of what callers pass. Each message names the argument, what was expected and the kind of thing that arrived, never its value. */
import { invalidArgument } from './errors.js'
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
  if (typeof options !== 'object' || options === null)
    throw invalidArgument(`${name} must be an object, got ${kindOf(options)}`)
  if (!isPlainObject(options))
    throw invalidArgument(
      `${name} must be a plain object: properties that it inherits would not count. Pass { ... } of them`,
    )
  try {
    return Object.assign(Object.create(null), options)
  } catch {
    // A getter's own error may hold what the option holds.
    throw invalidArgument(`${name} cannot be read: a getter of it threw`)
  }
}
