/** The handle in force. Encrypted columns use it, since Drizzle passes them no argument of the caller. */
import { AsyncLocalStorage } from 'node:async_hooks'
import type { UserHandle } from './user-handle.js'

// On globalThis, so that two copies of this package in one application share it.
const SCOPE = Symbol.for('drizzle-keystore/scope')

function storage(): AsyncLocalStorage<UserHandle> {
  const holder = globalThis as { [SCOPE]?: AsyncLocalStorage<UserHandle> }
  holder[SCOPE] ??= new AsyncLocalStorage()
  return holder[SCOPE]
}

/**
 * Runs `work` with a handle in force, and awaits its result inside: a lazy Drizzle query that is merely returned would run outside.
 */
export function runInScope<T>(
  handle: UserHandle,
  work: (handle: UserHandle) => T | PromiseLike<T>,
): Promise<T> {
  return storage().run(handle, async () => await work(handle))
}

/** The handle in force, or undefined outside any scope. */
export function currentHandle(): UserHandle | undefined {
  return storage().getStore()
}
