/**
 * Turns what drivers throw into StoreError. Drizzle's errors carry the bound values in their message, and a Postgres CHECK
 * violation the whole failing row in `detail`: so nothing of a driver's error object leaves an adapter, and of its message
 * only what is known to hold no value.
 */
import { KeystoreError, StoreError } from '../errors.js'

/** SQLSTATE codes after which the same statement may succeed (postgresql.org/docs/current/errcodes-appendix.html). */
const TRANSIENT_SQLSTATES = new Set(['40001', '40P01', '53300', '55P03', '57P01', '57P02', '57P03'])
const TRANSIENT_SYSTEM_CODES = new Set([
  'EAI_AGAIN',
  'ECONNREFUSED',
  'ECONNRESET',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EPIPE',
  'ETIMEDOUT',
])
/** What pg throws without any code. */
const TRANSIENT_MESSAGES = [
  'Connection terminated unexpectedly',
  'Connection terminated due to connection timeout',
  'Connection terminated',
  'timeout exceeded when trying to connect',
  'timeout expired',
  'Client has encountered a connection error and is not queryable',
]
/** Classes of SQLSTATE whose messages name objects, roles and hosts. 22 and 23 quote values; P0 and others may. */
const MESSAGE_WITHOUT_VALUES = /^(08|25|28|3D|3F|40|42|53|54|55|57|58)/

/** What of a driver's error may be shown. */
export interface DriverFailure {
  readonly code: string | null
  readonly description: string
  readonly transient: boolean
}

export function describeDriverError(error: unknown): DriverFailure {
  for (let at = error; at instanceof Error; at = at.cause) {
    if (TRANSIENT_MESSAGES.includes(at.message))
      return { code: null, description: at.message, transient: true }
    const code = 'code' in at && typeof at.code === 'string' ? at.code : null
    if (code === null) continue
    if (code.startsWith('SQLITE_')) {
      // The message of a host's trigger is the host's own, and may quote the row.
      const text = code === 'SQLITE_CONSTRAINT_TRIGGER' ? '' : `: ${at.message}`
      return { code, description: code + text, transient: isBusy(code) }
    }
    if (/^[0-9A-Z]{5}$/.test(code) && 'severity' in at) {
      const transient = TRANSIENT_SQLSTATES.has(code) || code.startsWith('08')
      const constraint =
        'constraint' in at && typeof at.constraint === 'string' ? ` (constraint ${at.constraint})` : ''
      const text = MESSAGE_WITHOUT_VALUES.test(code) ? `: ${at.message}` : constraint
      return { code, description: `SQLSTATE ${code}${text}`, transient }
    }
    if ('syscall' in at) {
      return { code, description: at.message || code, transient: TRANSIENT_SYSTEM_CODES.has(code) }
    }
    return { code, description: code, transient: TRANSIENT_SYSTEM_CODES.has(code) }
  }
  return { code: null, description: error instanceof Error ? error.name : typeof error, transient: false }
}

/** SQLITE_BUSY, SQLITE_BUSY_SNAPSHOT, SQLITE_BUSY_RECOVERY, SQLITE_LOCKED …: somebody else has the lock. */
export function isBusy(code: string): boolean {
  return code.startsWith('SQLITE_BUSY') || code.startsWith('SQLITE_LOCKED')
}

/** @param action what `who` was doing, to follow "could not" */
export function storeError(action: string, error: unknown, who = 'The key store'): KeystoreError {
  if (error instanceof KeystoreError) return error
  const { code, description, transient } = describeDriverError(error)
  const cause = Object.assign(new Error(description), {
    name: 'DriverError',
    ...(code === null ? {} : { code }),
  })
  return new StoreError(`${who} could not ${action} (${description})`, { cause, retryable: transient })
}
