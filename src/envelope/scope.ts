/** The scopes in force. Encrypted columns use them, since Drizzle passes them no argument of the caller. */
import { AsyncLocalStorage } from 'node:async_hooks'
import { invalidArgument, KeystoreError, quoted } from '../errors.js'
import { kindOf, ownOptions } from '../validate.js'
import { assertOnUnreadable, type OnUnreadable } from './unreadable.js'
import type { ScopeOptions, UserHandle } from './user-handle.js'

/** Whose values a scope is for: one user's, or those of the shared pool. */
export type ScopeKind = 'user' | 'pool'

export interface Scope {
  readonly handle: UserHandle
  readonly onUnreadable: OnUnreadable
}

/** At most one of each kind: the inner one of two is in force. */
type Scopes = { readonly [Kind in ScopeKind]?: Scope }

// On globalThis, so that two copies of this package in one application share it.
const SCOPES = Symbol.for('drizzle-keystore/scope')

function storage(): AsyncLocalStorage<Scopes> {
  const holder = globalThis as { [SCOPES]?: AsyncLocalStorage<Scopes> }
  holder[SCOPES] ??= new AsyncLocalStorage()
  return holder[SCOPES]
}

/**
 * Runs `work` with a scope in force beside that of the other kind, and awaits its result inside: a lazy Drizzle query that is merely
 * returned would run outside.
 */
export function runInScope<T>(
  kind: ScopeKind,
  scope: Scope,
  work: (handle: UserHandle) => T | PromiseLike<T>,
): Promise<T> {
  return storage().run({ ...storage().getStore(), [kind]: scope }, async () => await work(scope.handle))
}

/** The scope in force, or undefined. */
export function currentScope(kind: ScopeKind): Scope | undefined {
  return storage().getStore()?.[kind]
}

/** @returns what to do with values that cannot be read @throws ERR_INVALID_ARGUMENT */
export function scopeArguments(work: unknown, options: ScopeOptions): OnUnreadable {
  if (typeof work !== 'function') throw invalidArgument(`work must be a function, got ${kindOf(work)}`)
  const { onUnreadable = 'throw' } = ownOptions(options)
  assertOnUnreadable(onUnreadable)
  return onUnreadable
}

/**
 * The scope in force.
 *
 * @param column what the message calls the column; null: its context names none
 * @throws ERR_NO_SCOPE, with what to write
 */
export function requiredScope(kind: ScopeKind, column: string | null): Scope {
  const scopes = storage().getStore()
  const scope = scopes?.[kind]
  if (scope !== undefined) return scope
  const place = column === null ? 'An encrypted column' : `The encrypted column ${quoted(column)}`
  const what = `${place} ${kind === 'pool' ? 'holds values of the pool, and ' : ''}was read or written outside a scope`
  throw new KeystoreError(
    'ERR_NO_SCOPE',
    `${what}${kind === 'pool' ? ' of the pool' : ''}: ${adviceFor(kind, scopes)}`,
  )
}

function adviceFor(kind: ScopeKind, scopes: Scopes | undefined): string {
  const call = kind === 'user' ? 'envelope.scope(userId, () => …)' : 'envelope.pool.scope(() => …)'
  const run = `run the query inside \`await ${call}\``
  if (scopes === undefined) return run
  return kind === 'user'
    ? `${run}, which may stand in the scope of the pool or around it. If the values are the pool's, declare the column with owner: 'pool'`
    : `${run}, which may stand in the scope of a user or around it`
}
