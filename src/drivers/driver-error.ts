/**
 * Turns what drivers throw into StoreError. Drizzle's errors carry the bound values in their message, and a Postgres CHECK
 * violation carries the whole failing row in `detail`. So a driver's error object never leaves an adapter, and its message
 * leaves one only where it is known to hold no value.
 */
import { KeystoreError, printable, StoreError } from '../errors.js'
import { CONNECTION_TO_SERVER, DeadlineError } from './deadline.js'
import { closedClient } from './host-client.js'
import { sqliteCodeName } from './sqlite-codes.js'
import { UNREADABLE } from './url.js'

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
/**
 * Codes of postgres-js (postgresjs.org, "Error handling"), but for CONNECTION_ENDED: the host has ended the client. Of libsql those of a
 * connection that was lost.
 */
const TRANSIENT_CLIENT_CODES = new Set([
  'CONNECTION_CLOSED',
  'CONNECTION_DESTROYED',
  'CONNECT_TIMEOUT',
  'HRANA_CLOSED_ERROR',
  'HRANA_WEBSOCKET_ERROR',
  // Of fetch, in Node.js (undici) and in Bun.
  'UND_ERR_CONNECT_TIMEOUT',
  'UND_ERR_SOCKET',
  'UND_ERR_HEADERS_TIMEOUT',
  'UND_ERR_BODY_TIMEOUT',
  'ConnectionRefused',
  'ConnectionClosed',
  'FailedToOpenSocket',
])
/** What is said of the event that a WebSocket has failed: browsers, Workers and Node.js give no reason with it. */
const WEBSOCKET_FAILED = 'the WebSocket could not be opened, or was lost'
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
  WEBSOCKET_FAILED,
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
  // Of the package ws.
  /^Unexpected server response: \d{3}$/,
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
  for (const current of errorsOf(error)) {
    if (current instanceof DeadlineError || TRANSIENT_MESSAGES.includes(current.message))
      return failure(null, current.message, true)
    const closed = closedClient(current)
    if (closed !== null) return failure(null, closed, false)
    const notBuilt = loadFailure(current)
    if (notBuilt !== null) return notBuilt
    const onD1 = d1Failure(current)
    if (onD1 !== null) return onD1
    if (isConnectRefusal(current)) return failure(null, current.message, false)
    const unreachable = unreachableFailure(current)
    if (unreachable !== null) return unreachable
    const code = codeOf(current)
    if (code === null) continue
    if (code.startsWith('SQLITE_')) {
      // The host application's trigger words its own message, which may quote the row. A bare code may be that of a trigger.
      const text = /^SQLITE_CONSTRAINT(_TRIGGER)?$/.test(code) ? '' : `: ${current.message}`
      // libsql's message begins with the code.
      return failure(code, text.startsWith(`: ${code}`) ? text.slice(2) : code + text, isBusyCode(code))
    }
    if (/^[0-9A-Z]{5}$/.test(code) && 'severity' in current) {
      const transient = TRANSIENT_SQLSTATES.has(code) || code.startsWith('08')
      const text = MESSAGE_WITHOUT_VALUES.test(code) ? `: ${current.message}` : constraintOf(current)
      return failure(code, `SQLSTATE ${code}${text}`, transient)
    }
    const description =
      'syscall' in current
        ? current.message || code
        : code === 'ERR_INVALID_URL'
          ? `the URL ${UNREADABLE}`
          : code
    return failure(code, description, TRANSIENT_SYSTEM_CODES.has(code) || TRANSIENT_CLIENT_CODES.has(code))
  }
  return failure(null, error instanceof Error ? error.name : typeof error, false)
}

/**
 * The errors of a chain of causes, the outermost first. A driver on WebSockets may reject with the event of one, which has its error, if any,
 * as a property.
 */
function* errorsOf(error: unknown): Generator<Error> {
  let current = error
  for (; current instanceof Error; current = current.cause) yield current
  if (typeof current !== 'object' || current === null || Reflect.get(current, 'type') !== 'error') return
  yield* errorsOf(Reflect.get(current, 'error'))
  yield new Error(WEBSOCKET_FAILED)
}

/** Errors of a server that cannot be reached which have no code, or no code that says so. */
function unreachableFailure(error: Error): DriverFailure | null {
  const { message, cause } = error
  if (NO_WEBSOCKET.test(message)) return failure(null, SET_WEBSOCKET, false)
  const status = httpStatus(error)
  if (status !== null) {
    const advice = status === 401 || status === 403 ? ': is the authToken the right one?' : ''
    return failure(null, `HTTP status ${status}${advice}`, status >= 500 || status === 429)
  }
  // libsql repeats what the WebSocket said. It names a system call, a code and an address.
  const [, reason] = error.name === 'LibsqlError' ? (SOCKET_REASON.exec(message) ?? []) : []
  if (reason !== undefined)
    return failure(reason.split(' ')[1] ?? null, reason, /(REFUSED|AGAIN|TIMEDOUT|UNREACH)/.test(reason))
  if (!isFetchFailure(error)) return null
  const why = cause instanceof Error && /^[a-z ]+$/.test(cause.message) ? `: ${cause.message}` : ''
  return failure(null, `fetch failed${why}`, false)
}

/** Of @neondatabase/serverless. */
const NO_WEBSOCKET = /^All attempts to open a WebSocket to connect to the database failed/
const SET_WEBSOCKET =
  'no WebSocket: Node.js has one of its own from version 22; before that, npm install ws and set neonConfig.webSocketConstructor = ws'
const SOCKET_REASON = /\b((?:connect|getaddrinfo) E[A-Z_]+(?: [\w.:[\]-]+)?)$/

/** Of a server of libsql that does not answer as one. */
function httpStatus({ name, message }: Error): number | null {
  const [, status] =
    name === 'LibsqlError' ? (/^SERVER_ERROR: Server returned HTTP status (\d{3})\b/.exec(message) ?? []) : []
  return status === undefined ? null : Number(status)
}

/** Whether fetch says no more than that it has failed. Deno's error has the URL in it. */
function isFetchFailure(error: Error): boolean {
  if (!(error instanceof TypeError) || !/^(fetch failed|error sending request)\b/.test(error.message))
    return false
  return !(error.cause instanceof Error) || codeOf(error.cause) === null
}

function codeOf(error: Error): string | null {
  // node:sqlite gives SQLite's code as a number, libsql the extended one apart.
  const [code, errcode, extendedCode] = ['code', 'errcode', 'extendedCode'].map((name): unknown =>
    Reflect.get(error, name),
  )
  if (code === 'ERR_SQLITE_ERROR' && typeof errcode === 'number') return sqliteCodeName(errcode)
  if (typeof extendedCode === 'string' && extendedCode.startsWith('SQLITE_')) return extendedCode
  return typeof code === 'string' ? code : null
}

/** Errors of D1 have everything in their message, which may quote values. */
function d1Failure({ message }: Error): DriverFailure | null {
  if (!message.startsWith('D1_')) return null
  const [kind = ''] = /^D1_[A-Z_]+/.exec(message) ?? []
  const code = message.match(/SQLITE_[A-Z_]+/g)?.at(-1)
  if (code !== undefined) return failure(code, `${kind}: ${code}`, isBusyCode(code))
  const lost = TRANSIENT_D1_MESSAGES.find((text) => message.includes(text))
  return failure(null, lost === undefined ? kind : `${kind}: ${lost}`, lost !== undefined)
}

/** Parts of messages (developers.cloudflare.com/d1/observability/debug-d1). */
const TRANSIENT_D1_MESSAGES = [
  'Network connection lost',
  'object to be reset',
  'reset because its code was updated',
  'is overloaded',
]

/** Why a driver could not be loaded, above all better-sqlite3's native module. Node's own message names only its path and versions. */
function loadFailure(error: Error): DriverFailure | null {
  const code = 'code' in error && error.code === 'ERR_DLOPEN_FAILED' ? error.code : null
  if (code !== null && /better.sqlite3/.test(error.message)) {
    const [built, needed] = error.message.match(/(?<=NODE_MODULE_VERSION )\d+/g) ?? []
    const versions = needed === undefined ? '' : ` (module version ${built}, this one needs ${needed})`
    return failure(
      code,
      `${code}: better-sqlite3 was built for another Node.js${versions}: ${REBUILD}`,
      false,
    )
  }
  if (error.message.startsWith('Could not locate the bindings file')) {
    const description = `better-sqlite3 is without its native module: in a bundle, mark it as external; if it is installed, ${REBUILD}`
    return failure(null, description, false)
  }
  // esbuild's, where an ES module has CommonJS in it. It names a module of Node.js.
  if (/^Dynamic require of "[\w:/.-]+" is not supported$/.test(error.message))
    return failure(null, `${error.message}: bundle as CommonJS, or mark the driver as external`, false)
  return null
}

const REBUILD = 'npm rebuild better-sqlite3'

/** postgres-js has another property for it than pg. */
function constraintOf(error: Error): string {
  const names = [Reflect.get(error, 'constraint'), Reflect.get(error, 'constraint_name')]
  const name = names.find((name) => typeof name === 'string' && name !== '')
  return name === undefined ? '' : ` (constraint ${name})`
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
/** Codes of drivers, and of fetch, for a connection that is not made. */
const CONNECT_CODES: ReadonlySet<unknown> = new Set([
  'CONNECT_TIMEOUT',
  'UND_ERR_CONNECT_TIMEOUT',
  'ConnectionRefused',
  'FailedToOpenSocket',
])
const CONNECT_MESSAGES = [
  WEBSOCKET_FAILED,
  'Connection terminated due to connection timeout',
  'timeout exceeded when trying to connect',
]

/** Whether the server could not be reached, or did not let us in. */
export function isConnectFailure(error: unknown): boolean {
  for (const current of errorsOf(error)) {
    if (CONNECT_MESSAGES.includes(current.message) || isConnectRefusal(current)) return true
    if (current instanceof DeadlineError && current.message.includes(CONNECTION_TO_SERVER)) return true
    if (unreachableFailure(current) !== null) return true
    if ('code' in current && (TLS_CODE.test(String(current.code)) || CONNECT_CODES.has(current.code)))
      return true
    if ('syscall' in current && CONNECT_SYSCALLS.has(current.syscall)) return true
    // Node.js tries each address of a name, and throws one error of them all.
    if (current instanceof AggregateError && current.errors.some(isConnectFailure)) return true
    if ('severity' in current && 'code' in current && CONNECT_SQLSTATE.test(String(current.code))) return true
  }
  return false
}

/** What has failed: making the connection, or else what was to be done on it. */
export function failedAction(action: string, error: unknown, server = 'the database'): string {
  return isConnectFailure(error) ? `connect to ${server}` : action
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
  // Drizzle wraps what a connection throws.
  for (let current = error; current instanceof Error; current = current.cause)
    if (current instanceof KeystoreError) return current
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
