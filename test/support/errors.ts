/** The error that a piece of work must end with. */
import { expect } from 'vitest'
import { KeystoreError } from '../../src/errors.js'

/** The error of a promise or of a function. @throws if it succeeds, or throws what is no Error */
export async function errorOf(work: Promise<unknown> | (() => unknown)): Promise<Error> {
  try {
    await (typeof work === 'function' ? work() : work)
  } catch (error) {
    if (error instanceof Error) return error
    throw new Error(`not an Error was thrown: ${typeof error}`)
  }
  throw new Error('it did not fail')
}

/** The KeystoreError of a promise or of a function. @throws if it succeeds, and any other error as it is */
export async function keystoreErrorOf(work: Promise<unknown> | (() => unknown)): Promise<KeystoreError> {
  const error = await errorOf(work)
  if (!(error instanceof KeystoreError)) throw error
  return error
}

/** The message of the ERR_SCHEMA that a promise must end with. */
export async function schemaErrorOf(work: Promise<unknown>): Promise<string> {
  const error = await keystoreErrorOf(work)
  expect(error.code, error.message).toBe('ERR_SCHEMA')
  return error.message
}

/** The error of an encrypted column, which Drizzle wraps in its own. @throws if the query succeeds */
export async function columnErrorOf(query: () => PromiseLike<unknown>): Promise<Error> {
  let error = await errorOf((async () => await query())())
  while (!('code' in error) && error.cause instanceof Error) error = error.cause
  return error
}
