/**
 * Turns what drivers throw into StoreError. Drizzle's errors carry the bound values in their message, and a Postgres CHECK
 * violation carries the whole failing row in `detail`. So a driver's error object never leaves an adapter, and its message
 * leaves one only where it is known to hold no value.
 */
import { KeystoreError, printable, StoreError } from '../errors.js'
import { DeadlineError } from './deadline.js'

/**
 * SQLSTATE codes after which the same statement may succeed at once (postgresql.org/docs/current/errcodes-appendix.html). 25P03, 25P04,
 * 57P05: a session or transaction was ended because it was idle or lasted long. 57014: a statement was cancelled.
 */
const TRANSIENT_SQLSTATES = new Set([
  '25P03',
  '25P04',
  '40001',
  '40P01',
  '53300',
  '55P03',
  '57014',
  '57P01',
  '57P02',
  '57P03',
  '57P05',
])
/**
 * Codes after which the same call may succeed later, though another attempt at once is of no use: a server that is read-only until it
 * takes over (25006), a full disk (53100), no memory (53200). Of SQLite's I/O errors those of writing and locking, which a full quota or a
 * network file system gives; one of reading means damage (sqlite.org/rescode.html).
 */
const RETRYABLE_CODES = new Set([
  '25006',
  '53100',
  '53200',
  'SQLITE_FULL',
  'SQLITE_NOMEM',
  'SQLITE_PROTOCOL',
  ...['NOMEM', 'BLOCKED', 'LOCK', 'UNLOCK', 'RDLOCK', 'CHECKRESERVEDLOCK', 'WRITE', 'FSYNC', 'TRUNCATE'].map(
    (kind) => `SQLITE_IOERR_${kind}`,
  ),
  ...['OPEN', 'SIZE', 'LOCK', 'MAP'].map((kind) => `SQLITE_IOERR_SHM${kind}`),
])
const TRANSIENT_SYSTEM_CODES = new Set([
  'EAI_AGAIN',
  'ECONNREFUSED',
  'ECONNRESET',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EPIPE',
  'ETIMEDOUT',
])
/** Messages of errors that pg throws without a code. */
const TRANSIENT_MESSAGES = [
  'Connection terminated unexpectedly',
  'Connection terminated due to connection timeout',
  'Connection terminated',
  'timeout exceeded when trying to connect',
  'timeout expired',
  'Client has encountered a connection error and is not queryable',
  // The connection's query_timeout.
  'Query read timeout',
]
/**
 * Messages of pg's and pg-protocol's own errors about a server that does not take the connection. They have no code, and quote nothing of
 * the server's but a byte.
 */
const CONNECT_REFUSALS = [
  /^The server does not support SSL connections$/,
  /^There was an error establishing an SSL connection$/,
  /^SASL: Only mechanism\(s\) [\w ,-]+ are supported$/,
  /^SASL: Mechanism SCRAM-SHA-256-PLUS requires a certificate$/,
  /^SASL: SCRAM-SERVER-(FIRST|FINAL)-MESSAGE: [\w -]+$/,
  /^received invalid response: [0-9a-f]{1,2}$/,
]
const isConnectRefusal = ({ message }: Error) => CONNECT_REFUSALS.some((refusal) => refusal.test(message))

/** Classes of SQLSTATE whose messages name only objects, roles and hosts. Those of 22 and 23 quote values; P0 and others may. */
const MESSAGE_WITHOUT_VALUES = /^(08|25|28|3D|3F|40|42|53|54|55|57|58)/

/** What may be shown of a driver's error. */
interface DriverFailure {
  /** SQLite's result code, a SQLSTATE or a code of Node's. */
  readonly code: string | null
  readonly description: string
  /** Whether the same statement may succeed at once, or a moment later. */
  readonly transient: boolean
  /** Whether the same call may succeed later. True if it is transient. */
  readonly retryable: boolean
}

/** Reads the first error in the chain of causes that has a code, or a message that needs none. */
export function describeDriverError(error: unknown): DriverFailure {
  for (let current = error; current instanceof Error; current = current.cause) {
    if (current instanceof DeadlineError || TRANSIENT_MESSAGES.includes(current.message))
      return failure(null, current.message, true)
    if (isConnectRefusal(current)) return failure(null, current.message, false)
    const code = 'code' in current && typeof current.code === 'string' ? current.code : null
    if (code === null) continue
    if (code.startsWith('SQLITE_')) {
      // The host application's trigger words its own message, which may quote the row.
      const text = code === 'SQLITE_CONSTRAINT_TRIGGER' ? '' : `: ${current.message}`
      return failure(code, code + text, isBusyCode(code))
    }
    if (/^[0-9A-Z]{5}$/.test(code) && 'severity' in current) {
      const transient = TRANSIENT_SQLSTATES.has(code) || code.startsWith('08')
      const constraint =
        'constraint' in current && typeof current.constraint === 'string'
          ? ` (constraint ${current.constraint})`
          : ''
      const text = MESSAGE_WITHOUT_VALUES.test(code) ? `: ${current.message}` : constraint
      return failure(code, `SQLSTATE ${code}${text}`, transient)
    }
    const description = 'syscall' in current ? current.message || code : code
    return failure(code, description, TRANSIENT_SYSTEM_CODES.has(code))
  }
  return failure(null, error instanceof Error ? error.name : typeof error, false)
}

function failure(code: string | null, description: string, transient: boolean): DriverFailure {
  return {
    code,
    description,
    transient,
    retryable: transient || (code !== null && RETRYABLE_CODES.has(code)),
  }
}

/** SQLSTATEs of a server that does not take a connection: classes 08 and 28, an unknown database, too many clients, still starting. */
const CONNECT_SQLSTATE = /^(08\w{3}|28\w{3}|3D000|53300|57P03)$/
/** What Node.js was doing, by the names that its errors give it. It opens the files with the certificates that a URL names. */
const CONNECT_SYSCALLS: ReadonlySet<unknown> = new Set(['connect', 'getaddrinfo', 'open'])
/** Node's and OpenSSL's codes of a TLS connection that is not made, such as for a certificate that nobody vouches for. */
const TLS_CODE = /^(ERR_(TLS|SSL)_|CERT_|SELF_SIGNED_|DEPTH_ZERO_|UNABLE_TO_|HOSTNAME_MISMATCH$|EPROTO$)/
const CONNECT_MESSAGES = [
  'Connection terminated due to connection timeout',
  'timeout exceeded when trying to connect',
]

/** Whether the server could not be reached, or did not let us in. */
export function isConnectFailure(error: unknown): boolean {
  for (let current = error; current instanceof Error; current = current.cause) {
    if (CONNECT_MESSAGES.includes(current.message) || isConnectRefusal(current)) return true
    if ('code' in current && TLS_CODE.test(String(current.code))) return true
    if ('syscall' in current && CONNECT_SYSCALLS.has(current.syscall)) return true
    // Node.js tries each address of a name, and throws one error of them all.
    if (current instanceof AggregateError && current.errors.some(isConnectFailure)) return true
    if ('severity' in current && 'code' in current && CONNECT_SQLSTATE.test(String(current.code))) return true
  }
  return false
}

/** Tables, constraints and roles of the host's have whatever names their owners like. */
const SHOWN_CHARACTERS = 1000

/** Whether another connection has the lock: SQLITE_BUSY, SQLITE_BUSY_SNAPSHOT, SQLITE_BUSY_RECOVERY, SQLITE_LOCKED … */
export function isBusyCode(code: string): boolean {
  return code.startsWith('SQLITE_BUSY') || code.startsWith('SQLITE_LOCKED')
}

/**
 * An ERR_STORE that says what failed, with what may be shown of the driver's error. An error of ours is returned as it is.
 *
 * @param action what `who` was doing, to follow "could not"
 */
export function storeError(action: string, error: unknown, who = 'The key store'): KeystoreError {
  if (error instanceof KeystoreError) return error
  const { code, description, retryable } = describeDriverError(error)
  const reason = printable(description, SHOWN_CHARACTERS)
  const cause = Object.assign(new Error(reason), {
    name: 'DriverError',
    ...(code === null ? {} : { code }),
  })
  return new StoreError(`${who} could not ${printable(action, SHOWN_CHARACTERS)} (${reason})`, {
    cause,
    retryable,
  })
}
