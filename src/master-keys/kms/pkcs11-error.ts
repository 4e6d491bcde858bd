/** What a return value of PKCS #11 (CKR_…) means for a master key. The driver's own errors never leave: they show arguments. */
import { isKeystoreError, MasterKeyError, type MasterKeyReason } from '../../errors.js'

/** Return values that pkcs11js has no name for. */
const NAMES: Readonly<Record<number, string>> = {
  66: 'CKR_AEAD_DECRYPT_FAILED',
  185: 'CKR_SESSION_ASYNC_NOT_SUPPORTED',
  440: 'CKR_PIN_TOO_WEAK',
  513: 'CKR_TOKEN_RESOURCE_EXCEEDED',
}

/** What a session, a handle or the login is worth no longer: a new session may do. Some say so of a key whose token went away. */
const STALE: ReadonlySet<string> = new Set([
  'CKR_SESSION_HANDLE_INVALID',
  'CKR_SESSION_CLOSED',
  'CKR_USER_NOT_LOGGED_IN',
  'CKR_KEY_HANDLE_INVALID',
  'CKR_OBJECT_HANDLE_INVALID',
  'CKR_OPERATION_ACTIVE',
  'CKR_OPERATION_NOT_INITIALIZED',
  'CKR_SLOT_ID_INVALID',
  'CKR_CRYPTOKI_NOT_INITIALIZED',
  'CKR_DEVICE_REMOVED',
  'CKR_TOKEN_NOT_PRESENT',
  'CKR_TOKEN_NOT_RECOGNIZED',
  'CKR_DEVICE_ERROR',
  'CKR_GENERAL_ERROR',
  'CKR_FUNCTION_FAILED',
])

const REASONS: Readonly<Record<string, MasterKeyReason>> = {
  CKR_PIN_INCORRECT: 'denied',
  CKR_PIN_INVALID: 'denied',
  CKR_PIN_LEN_RANGE: 'denied',
  CKR_PIN_EXPIRED: 'denied',
  CKR_PIN_LOCKED: 'denied',
  CKR_USER_PIN_NOT_INITIALIZED: 'denied',
  CKR_USER_TYPE_INVALID: 'denied',
  CKR_USER_NOT_LOGGED_IN: 'denied',
  CKR_USER_ANOTHER_ALREADY_LOGGED_IN: 'denied',
  CKR_KEY_FUNCTION_NOT_PERMITTED: 'denied',
  CKR_FUNCTION_REJECTED: 'denied',
  CKR_ACTION_PROHIBITED: 'denied',
  CKR_SESSION_COUNT: 'throttled',
  CKR_TOKEN_RESOURCE_EXCEEDED: 'throttled',
  CKR_DEVICE_MEMORY: 'throttled',
  CKR_KEY_HANDLE_INVALID: 'notFound',
  CKR_OBJECT_HANDLE_INVALID: 'notFound',
  CKR_KEY_TYPE_INCONSISTENT: 'wrongKey',
  CKR_KEY_SIZE_RANGE: 'wrongKey',
  CKR_MECHANISM_INVALID: 'wrongKey',
  CKR_MECHANISM_PARAM_INVALID: 'wrongKey',
}

/** Said of a ciphertext that was changed, and of nothing else. */
const REFUSALS: ReadonlySet<string> = new Set([
  'CKR_ENCRYPTED_DATA_INVALID',
  'CKR_ENCRYPTED_DATA_LEN_RANGE',
  'CKR_AEAD_DECRYPT_FAILED',
  'CKR_SIGNATURE_INVALID',
  'CKR_SIGNATURE_LEN_RANGE',
])

/** Said of a changed ciphertext by some modules (SoftHSM: CKR_GENERAL_ERROR), and of outages by all. */
const UNCLEAR: ReadonlySet<string> = new Set([
  'CKR_GENERAL_ERROR',
  'CKR_FUNCTION_FAILED',
  'CKR_DEVICE_ERROR',
  'CKR_ARGUMENTS_BAD',
  'CKR_DATA_INVALID',
  'CKR_DATA_LEN_RANGE',
])

/** @returns the name of the return value that the driver threw, or null if it threw something else */
export function ckrOf(error: unknown): string | null {
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'number') return null
  const known = NAMES[error.code]
  if (known !== undefined) return known
  const [name] = /^CKR_[A-Z0-9_]+/.exec(error.message) ?? []
  if (name === undefined) return null
  return name === 'CKR_VENDOR_DEFINED' ? `CKR_0x${error.code.toString(16)}` : name
}

export function isStale(ckr: string | null): boolean {
  return ckr !== null && STALE.has(ckr)
}

export function isRefusal(ckr: string | null): boolean {
  return ckr !== null && REFUSALS.has(ckr)
}

export function isUnclear(ckr: string | null): boolean {
  return ckr !== null && UNCLEAR.has(ckr)
}

/** Whether it may be cured by a look for the token in a module that was initialized anew. */
export function isOutage(error: unknown): boolean {
  return isKeystoreError(error) && 'reason' in error && error.reason === 'unavailable'
}

/** The error of a key for what the driver threw. One of ours stays as it is. */
export function pkcs11Error(id: string, error: unknown): Error {
  if (isKeystoreError(error)) return error
  const ckr = ckrOf(error)
  const reason = (ckr === null ? undefined : REASONS[ckr]) ?? 'unavailable'
  return keyError(id, reason, `the token answered ${ckr ?? 'with an error of the driver'}`, ckr)
}

/** `ERR_MASTER_KEY`, with what to do where there is something. */
export function keyError(
  id: string,
  reason: MasterKeyReason,
  what: string,
  ckr: string | null,
): MasterKeyError {
  return new MasterKeyError('ERR_MASTER_KEY', `Master key ${id}: ${what}${adviceOn(ckr)}`, {
    reason,
    ...(ckr !== null && { providerCode: ckr }),
  })
}

function adviceOn(ckr: string | null): string {
  switch (ckr) {
    case 'CKR_PIN_INCORRECT':
      return '. It is not tried again, since a token locks after a few wrong PINs: correct the PIN'
    case 'CKR_PIN_LOCKED':
      return '. Its security officer has to set a new user PIN'
    case 'CKR_KEY_FUNCTION_NOT_PERMITTED':
      return '. The key needs CKA_ENCRYPT and CKA_DECRYPT'
    case 'CKR_MECHANISM_INVALID':
      return '. The token or the key does not offer AES-GCM (CKM_AES_GCM)'
    case 'CKR_SESSION_COUNT':
      return '. It has no session left: lower the option `sessions`, or the number of processes'
    case 'CKR_TOKEN_NOT_PRESENT':
      return '. It is not there: is it switched on, and are label and serial number right?'
    default:
      return ''
  }
}
