/** What leaves of a key service's failure: why, the service's own code, its request id. Never its message, which may hold the request. */
import { MasterKeyError, type MasterKeyReason, printable } from '../../errors.js'

/** Why a call failed. `notOpened`: the service says that the wrapped bytes are not what this key made with this AAD. */
export interface Failure {
  readonly reason: MasterKeyReason | 'notOpened'
  readonly providerCode?: string | undefined
  readonly requestId?: string | undefined
  /** What to do, where more is known than `reason` says. No secret. */
  readonly advice?: string | undefined
}

const SAID: Readonly<Record<MasterKeyReason, string>> = {
  denied: 'it refuses: see that this identity may wrap and unwrap under the key, and that the key is enabled',
  unavailable:
    'there was no answer that says anything about the key: an outage, or an address that is not the service’s',
  throttled: 'it was asked too often: raise the quota, or ask less, with a key for each tenant',
  notFound:
    'there is no such key, or no longer: look for it under exactly this id before anything is deleted',
  wrongKey: 'it answered for another key, or with what is no key: nothing of the answer was used',
}

/** @param service its name, as its users write it */
export function serviceError(id: string, service: string, failure: Failure): MasterKeyError {
  const { reason } = failure
  const providerCode = shown(failure.providerCode, CODE)
  const requestId = shown(failure.requestId, UUID)
  const facts = [providerCode, requestId === undefined ? undefined : `request id ${requestId}`].filter(
    Boolean,
  )
  const from = facts.length === 0 ? service : `${service} (${facts.join(', ')})`
  const options = {
    ...(providerCode === undefined ? {} : { providerCode }),
    ...(requestId === undefined ? {} : { requestId }),
  }
  if (reason === 'notOpened') {
    return new MasterKeyError(
      'ERR_UNWRAP_FAILED',
      `The wrapped key does not open under master key ${printable(id)}, says ${from}`,
      options,
    )
  }
  return new MasterKeyError(
    'ERR_MASTER_KEY',
    `Master key ${printable(id)} in ${from} failed: ${failure.advice ?? SAID[reason]}`,
    {
      reason,
      ...options,
    },
  )
}

/**
 * For `.catch` of the import of an SDK, which the application installs. It stands at the import itself: esbuild then bundles what is not
 * installed without an error, and the comments in the import keep webpack and Vite from following it.
 *
 * @returns throws MasterKeyError `ERR_MASTER_KEY` that says what to install
 */
export function notLoaded(id: string, name: string): (error: unknown) => never {
  return (error) => {
    const isMissing = /MODULE_NOT_FOUND$/.test(String(propertyOf(error, 'code')))
    const problem = isMissing ? 'which is not installed here' : 'which is installed here but cannot be loaded'
    throw new MasterKeyError(
      'ERR_MASTER_KEY',
      `Master key ${printable(id)} needs ${name}, ${problem}: npm install ${name}, or pass a client of it`,
    )
  }
}

/** What an HTTP status says of a key where the service says no more. */
export function reasonOfStatus(status: number | undefined): MasterKeyReason {
  if (status === 404 || status === 410) return 'notFound'
  if (status === 429) return 'throttled'
  return status !== undefined && status >= 400 && status < 500 && status !== 408 ? 'denied' : 'unavailable'
}

/** A property of what was thrown, or of whatever it may be. */
export function propertyOf(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined
}

/** Codes and ids come from the network, so only what looks like one is shown, and “Error” says nothing. Neither can hold a key of 32 bytes. */
const CODE = /^(?!Error$)[A-Z][A-Za-z_]{2,39}$|^[A-Z][A-Z_ ]{2,39}$|^HTTP \d{3}$|^\d{1,3}$/
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

function shown(text: string | undefined, pattern: RegExp): string | undefined {
  return text !== undefined && pattern.test(text) ? text : undefined
}
