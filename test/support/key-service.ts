/** A key service of the tests: it can fail, fall silent and answer late, and it counts. */
import { randomBytes } from 'node:crypto'
import { localMasterKey, type MasterKey, MasterKeyError, type MasterKeyReason } from '../../src/index.js'
import { remoteMasterKey } from './store-doubles.js'

export interface KeyService {
  readonly masterKey: MasterKey
  /** Every array that it has answered with. */
  readonly given: Uint8Array[]
  /** Calls since the last `reset`, and the most of them that were under way at once. */
  readonly calls: { wrap: number; unwrap: number; most: number }
  /** Throws from now on what this makes, in calls of `only`, or in all. Null: it works again. */
  fail(make: (() => unknown) | null, only?: 'wrap' | 'unwrap'): void
  /** Gives no answer from now on, or answers again. */
  silence(on: boolean): void
  /** Takes this long for each answer. */
  delay(ms: number): void
  /** Gives all answers that are still to be given. */
  answerLate(): Promise<void>
  reset(): void
}

export function keyService(
  options: { readonly id?: string; readonly timeLimitMs?: number } = {},
): KeyService {
  const inner = localMasterKey(randomBytes(32))
  const late: (() => void)[] = []
  const given: Uint8Array[] = []
  const calls = { wrap: 0, unwrap: 0, most: 0 }
  let underWay = 0
  let silent = false
  let delayMs = 0
  let failure: (() => unknown) | null = null
  let failing: 'wrap' | 'unwrap' | undefined
  const answer = async (method: 'wrap' | 'unwrap', bytes: () => Uint8Array) => {
    calls[method] += 1
    underWay += 1
    calls.most = Math.max(calls.most, underWay)
    try {
      if (silent) await new Promise<void>((resolve) => late.push(resolve))
      if (delayMs > 0) await new Promise((resolve) => setTimeout(resolve, delayMs))
      if (failure !== null && (failing ?? method) === method) throw failure()
      const result = bytes()
      given.push(result)
      return result
    } finally {
      underWay -= 1
    }
  }
  const masterKey = remoteMasterKey({
    ...options,
    wrap: (dataKey, aad) => answer('wrap', () => inner.wrap(dataKey, aad)),
    unwrap: (wrapped, aad) => answer('unwrap', () => inner.unwrap(wrapped, aad)),
  })
  return {
    masterKey,
    given,
    calls,
    fail(make, only) {
      failure = make
      failing = only
    },
    silence(on) {
      silent = on
    },
    delay(ms) {
      delayMs = ms
    },
    async answerLate() {
      for (const resolve of late.splice(0)) resolve()
      await new Promise(setImmediate)
    },
    reset() {
      given.length = 0
      Object.assign(calls, { wrap: 0, unwrap: 0, most: 0 })
    },
  }
}

/** What a provider throws, with the details of the service. */
export function serviceError(reason: MasterKeyReason): MasterKeyError {
  const details = { providerCode: 'ProviderSays', requestId: 'request-1' }
  return new MasterKeyError('ERR_MASTER_KEY', `The service says: ${reason}`, { reason, ...details })
}
