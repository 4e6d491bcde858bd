/** The first use of a master key in a key service: it has to open what it wraps. */
import { isKeystoreError, MasterKeyError, printable, serviceDetails } from '../errors.js'
import { equalBytes, generateKey } from '../format/aead.js'
import { preAuthEncode } from '../format/encoding.js'
import { isMasterKeyFailure, isOutage } from './failure.js'
import type { KeyOwner, MasterKey } from './master-key.js'
import { unwrapByService, wrapByService } from './service-calls.js'

/** Other than that of any row: what the service returns here can stand in none. */
const LABEL = 'drizzle-keystore/first-wrap/v1'
/** The pool's, which is no user. */
const OWNER: KeyOwner = { userId: '', version: 1, tenantId: null }

/** Which of the two did not work, and why. */
export interface FailedWrapping {
  readonly step: 'wrap' | 'unwrap'
  readonly error: MasterKeyError
}

/** Wraps a random key and opens it again: two calls, after which the key is forgotten. @returns null if it is the same */
export async function tryWrapping(key: MasterKey): Promise<FailedWrapping | null> {
  const dataKey = generateKey()
  const aad = preAuthEncode([LABEL, key.id])
  let opened: Uint8Array | undefined
  let step: FailedWrapping['step'] = 'wrap'
  try {
    const wrapped = await wrapByService(key, dataKey, aad, OWNER)
    step = 'unwrap'
    opened = await unwrapByService(key, wrapped, aad, OWNER)
    return equalBytes(dataKey, opened) ? null : { step, error: doesNotOpen(key) }
  } catch (error) {
    if (!isKeystoreError(error)) throw error
    if (isOutage(error)) return { step, error }
    if (error.code === 'ERR_UNWRAP_FAILED') return { step, error: doesNotOpen(key, error as MasterKeyError) }
    return {
      step,
      error: isMasterKeyFailure(error) ? cannotWork(key, step, error) : (error as MasterKeyError),
    }
  } finally {
    dataKey.fill(0)
    opened?.fill(0)
  }
}

function doesNotOpen({ id }: MasterKey, answer?: MasterKeyError): MasterKeyError {
  return new MasterKeyError(
    'ERR_MASTER_KEY',
    `Master key ${printable(id)} does not open what it has just wrapped to the same key: nothing that is encrypted under it could be read`,
    { ...serviceDetails(answer), reason: 'wrongKey' },
  )
}

function cannotWork({ id }: MasterKey, step: FailedWrapping['step'], cause: MasterKeyError): MasterKeyError {
  const { reason, retryable } = cause
  return new MasterKeyError(
    'ERR_MASTER_KEY',
    `Master key ${printable(id)} cannot ${step} a key, and must be able both to wrap and to unwrap before the first key is made: ${cause.message}`,
    { ...serviceDetails(cause), reason, retryable, cause },
  )
}
