/** Why a master key failed: what callers, events and reports say of it. */
import { isKeystoreError, type MasterKeyError, type MasterKeyReason, serviceDetails } from '../errors.js'
import type { KeystoreEvent } from '../events.js'

/** Why a master key failed, where it says so. A retryable ERR_MASTER_KEY without a reason is an outage. */
export function reasonOf(error: unknown): MasterKeyReason | undefined {
  if (!isMasterKeyFailure(error)) return undefined
  return error.reason ?? (error.retryable ? 'unavailable' : undefined)
}

/** Whether an error says that a service could not be asked, and nothing about a key: an outage, which may be over soon. */
export function isOutage(error: unknown): error is MasterKeyError {
  const reason = reasonOf(error)
  return reason === 'unavailable' || reason === 'throttled'
}

/** Whether a master key did not do its work, so that the error is about no single row. */
export function isMasterKeyFailure(error: unknown): error is MasterKeyError {
  return isKeystoreError(error) && error.code === 'ERR_MASTER_KEY'
}

/** The event of a failure, or null if it has no reason. */
export function unavailableEvent(kekId: string, error: unknown): KeystoreEvent | null {
  const reason = reasonOf(error)
  if (reason === undefined) return null
  return { type: 'masterKeyUnavailable', kekId, reason, ...serviceDetails(error as MasterKeyError) }
}
