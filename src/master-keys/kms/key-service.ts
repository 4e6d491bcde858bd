/** What the files of key services share: the calls of one key, and the errors of those that fail. */
import { MasterKeyError } from '../../errors.js'
import { KEY_BYTES } from '../../format/aead.js'
import { networkCodeOf } from './network-code.js'
import { type Failure, serviceError } from './service-error.js'

/** The longest time in milliseconds of a call, unless its key says otherwise. Then the request is given up, so that it keeps no connection. */
export const REQUEST_LIMIT_MS = 5000

/** The service that has a key. */
export class KeyService {
  readonly #id: string
  readonly #name: string

  /** @param id of the key. @param name of the service, as its users write it */
  constructor(id: string, name: string) {
    this.#id = id
    this.#name = name
  }

  error(failure: Failure): MasterKeyError {
    return serviceError(this.#id, this.#name, failure)
  }

  /** Awaits a call. @throws MasterKeyError for whatever it throws */
  async ask<T>(failureOf: (error: unknown) => Failure, call: () => Promise<T>): Promise<T> {
    try {
      return await call()
    } catch (error) {
      if (error instanceof MasterKeyError) throw error
      const failure = failureOf(error)
      // What an SDK's own error is called says less than why there was no connection.
      const providerCode =
        failure.reason === 'unavailable'
          ? (networkCodeOf(error) ?? failure.providerCode)
          : failure.providerCode
      throw this.error({ ...failure, providerCode })
    }
  }

  /** What the service has unwrapped. @throws MasterKeyError `wrongKey` unless it is a data key: then it is wiped */
  dataKey(unwrapped: Uint8Array): Uint8Array {
    if (unwrapped.length === KEY_BYTES) return unwrapped
    unwrapped.fill(0)
    throw this.error({ reason: 'wrongKey' })
  }
}
