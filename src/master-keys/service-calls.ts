/**
 * Calls of a key service: each ends in a bounded time, and one that fails does it no harm beside its own users'.
 *
 * What is known of a service belongs to its {@link MasterKey} object, so that a service that hangs delays nobody who needs another one.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import {
  isKeystoreError,
  type KeystoreError,
  MasterKeyError,
  type MasterKeyErrorOptions,
  printable,
} from '../errors.js'
import { KEY_BYTES } from '../format/aead.js'
import { kindOf } from '../validate.js'
import { isOutage, reasonOf } from './failure.js'
import { networkCodeOf } from './kms/network-code.js'
import type { KeyOwner, MasterKey } from './master-key.js'

/** The time that a service has for one call, unless its key says otherwise. A call waits no longer than that for its turn, either. */
const TIME_LIMIT_MS = 5000
/** Calls of one service at once. More only make it throttle: AWS KMS takes some thousand a second from a whole account. */
const MOST_AT_ONCE = 16
/** A service in an outage is asked so often. All other calls fail at once meanwhile. */
const ASK_AGAIN_MS = 1000
/** So long waits who asks a service in an outage: half of the time is left for what fails at once. A later answer ends the outage too. */
const TRIAL_LIMIT_MS = 500
/** Bounds of the pause after `throttled`. The bound doubles each time, and the pause is a random part of it ("full jitter"). */
const BACKOFF = { firstMs: 50, longestMs: 1000 }
/** Characters of the remembered failure that each call in an outage shows: a key of somebody else's may write at any length. */
const SHOWN_OF_FAILURE = 600

/**
 * Asks a service to wrap a data key.
 *
 * @returns the wrapped bytes, at least one
 * @throws MasterKeyError `ERR_MASTER_KEY`, with a `reason` unless it failed with an error of its own
 */
export async function wrapByService(
  key: MasterKey,
  dataKey: Uint8Array,
  aad: Uint8Array,
  owner: KeyOwner,
): Promise<Uint8Array> {
  // A copy: a provider may wipe what it is given.
  let given: Uint8Array | undefined
  const wrap = () => {
    given?.fill(0)
    given = Uint8Array.from(dataKey)
    return key.wrap(given, aad, owner)
  }
  try {
    const wrapped = await callService(key, wrap)
    if (!(wrapped instanceof Uint8Array)) throw wrongAnswer(key, 'wrap', `${kindOf(wrapped)}, not bytes`)
    if (wrapped.length === 0) throw wrongAnswer(key, 'wrap', '0 bytes')
    if (asBuffer(wrapped).includes(asBuffer(dataKey))) throw wrongAnswer(key, 'wrap', 'the data key as it is')
    refuseAgain(key, 'wrap', wrapped)
    return wrapped
  } finally {
    given?.fill(0)
  }
}

/**
 * Asks a service to open a wrapped key.
 *
 * @returns 32 bytes, the caller's to wipe
 * @throws MasterKeyError `ERR_UNWRAP_FAILED` · `ERR_MASTER_KEY`, like {@link wrapByService}
 */
export async function unwrapByService(
  key: MasterKey,
  wrapped: Uint8Array,
  aad: Uint8Array,
  owner: KeyOwner,
): Promise<Uint8Array> {
  const dataKey = await callService(key, () => key.unwrap(wrapped, aad, owner))
  if (!(dataKey instanceof Uint8Array)) throw wrongAnswer(key, 'unwrap', `${kindOf(dataKey)}, not bytes`)
  if (dataKey.length !== KEY_BYTES) {
    const { length } = dataKey
    dataKey.fill(0)
    throw wrongAnswer(key, 'unwrap', `${length} ${length === 1 ? 'byte' : 'bytes'}, not ${KEY_BYTES}`)
  }
  refuseAgain(key, 'unwrap', dataKey)
  // Perhaps the memory of an array that was wiped.
  if (dataKey.every((byte) => byte === 0)) throw wrongAnswer(key, 'unwrap', 'zeros')
  return dataKey
}

/** The same memory, with Buffer's methods. */
function asBuffer({ buffer, byteOffset, length }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, length)
}

type Call = () => Promise<Uint8Array> | Uint8Array

/** @returns what the provider returned, whatever it is: it may not be written in TypeScript */
async function callService(key: MasterKey, call: Call): Promise<unknown> {
  return serviceOf(key).call(call)
}

function serviceOf(key: MasterKey): Service {
  let service = services.get(key)
  if (service === undefined) {
    service = new Service(key)
    services.set(key, service)
  }
  return service
}

/** Has a new object of a key share what is known of its service: how many calls are under way, and whether it is in an outage. */
export function shareService(key: MasterKey, known: MasterKey): void {
  if (key !== known) services.set(key, serviceOf(known))
}

const services = new WeakMap<MasterKey, Service>()

interface Waiting {
  start(): void
  fail(error: MasterKeyError): void
}

/** What this process knows of one service. */
class Service {
  readonly #id: string
  readonly #timeLimitMs: number
  #underWay = 0
  readonly #waiting = new Set<Waiting>()
  /** When it last answered, if only with a refusal: a time of performance.now(). */
  #answeredAt = Number.NEGATIVE_INFINITY
  /** Why it is in an outage, and when it is to be asked again. */
  #outage: { readonly error: MasterKeyError; askAgainAt: number } | null = null

  constructor({ id, timeLimitMs = TIME_LIMIT_MS }: MasterKey) {
    this.#id = id
    this.#timeLimitMs = timeLimitMs
  }

  async call(call: Call): Promise<unknown> {
    const limitMs = this.#limitOfNextCall()
    if (this.#underWay < MOST_AT_ONCE) this.#underWay += 1
    else await this.#turn(limitMs)
    try {
      return await this.#attempts(call, limitMs)
    } finally {
      const [next] = this.#waiting
      if (next === undefined) this.#underWay -= 1
      else next.start()
    }
  }

  /** @throws MasterKeyError in an outage, unless it is time to ask again */
  #limitOfNextCall(): number {
    if (this.#outage === null) return this.#timeLimitMs
    const now = performance.now()
    if (now < this.#outage.askAgainAt) throw this.#notAskedNow(this.#outage.error)
    this.#outage.askAgainAt = now + ASK_AGAIN_MS
    return Math.min(this.#timeLimitMs, TRIAL_LIMIT_MS)
  }

  /** Waits until a call that ends hands its place over. */
  #turn(limitMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const end = () => {
        clearTimeout(timer)
        this.#waiting.delete(waiting)
      }
      const waiting: Waiting = {
        start() {
          end()
          resolve()
        },
        fail(error) {
          end()
          reject(error)
        },
      }
      const giveUp = () => {
        if (this.#waiting.has(waiting)) waiting.fail(this.#tooManyCalls(limitMs))
      }
      // After those under way: if they have hung as long, it is an outage.
      const timer = setTimeout(() => setImmediate(giveUp), limitMs)
      this.#waiting.add(waiting)
    })
  }

  /** Calls until there is an answer. Only `throttled` is tried again: SDKs repeat what failed otherwise. */
  async #attempts(call: Call, limitMs: number): Promise<unknown> {
    const startMs = performance.now()
    const endMs = startMs + limitMs
    for (let boundMs = BACKOFF.firstMs; ; boundMs = Math.min(2 * boundMs, BACKOFF.longestMs)) {
      try {
        const answer = await this.#answer(call, endMs - performance.now(), limitMs)
        this.#answered()
        return answer
      } catch (thrown) {
        const error = this.#shown(thrown)
        const pauseMs = Math.random() * boundMs
        if (reasonOf(error) !== 'throttled' || performance.now() + pauseMs >= endMs) {
          this.#failed(error, startMs)
          throw error
        }
        await sleep(pauseMs)
      }
    }
  }

  /** Waits for one answer. Wipes one that comes too late. */
  #answer(call: Call, leftMs: number, limitMs: number): Promise<unknown> {
    return new Promise((resolve, reject) => {
      let isWaiting = true
      const giveUp = () => {
        if (!isWaiting) return
        isWaiting = false
        reject(this.#noAnswer(limitMs))
      }
      // After a turn of the event loop: if the process was busy or suspended meanwhile, an answer that has arrived still counts.
      const timer = setTimeout(() => setImmediate(giveUp), leftMs)
      const settle = () => {
        clearTimeout(timer)
        const isInTime = isWaiting
        isWaiting = false
        return isInTime
      }
      const asked = (async () => call())()
      asked.then(
        (answer: unknown) => {
          if (settle()) return resolve(answer)
          if (answer instanceof Uint8Array) answer.fill(0)
          this.#answered()
        },
        (error: unknown) => {
          if (settle()) reject(error)
        },
      )
    })
  }

  #answered(): void {
    this.#answeredAt = performance.now()
    this.#outage = null
  }

  #failed(error: KeystoreError, startMs: number): void {
    if (!isOutage(error)) {
      if (reasonOf(error) !== undefined || error.code === 'ERR_UNWRAP_FAILED') this.#answered()
      return
    }
    const now = performance.now()
    // One lost connection among calls that succeed is no outage.
    if (this.#outage !== null || this.#answeredAt >= Math.min(startMs, now - ASK_AGAIN_MS)) return
    this.#outage = { error, askAgainAt: now + ASK_AGAIN_MS }
    for (const { fail } of this.#waiting) fail(this.#notAskedNow(error))
  }

  /** What a caller may see of what the provider threw. */
  #shown(thrown: unknown): KeystoreError {
    if (isKeystoreError(thrown)) {
      // A client's own error may hold the request, and with it a key.
      if (thrown.cause !== undefined && !isKeystoreError(thrown.cause))
        Reflect.deleteProperty(thrown, 'cause')
      return thrown
    }
    const providerCode = networkCodeOf(thrown)
    return providerCode === null
      ? this.#error('failed with an error of its own, which is not shown because it may hold a key')
      : this.#error('cannot be reached', { reason: 'unavailable', providerCode })
  }

  #noAnswer(limitMs: number): MasterKeyError {
    return this.#error(`gave no answer within ${limitMs} ms`, { reason: 'unavailable' })
  }

  #tooManyCalls(limitMs: number): MasterKeyError {
    const what = `has answered too slowly: a call waited ${limitMs} ms for its turn, while ${MOST_AT_ONCE} were under way`
    return this.#error(what, { reason: 'throttled' })
  }

  /** Repeats why: the call that was told first may have been one whose error nobody sees. */
  #notAskedNow({ reason = 'unavailable', providerCode, requestId, message }: MasterKeyError): MasterKeyError {
    const failure = printable(message, SHOWN_OF_FAILURE)
    const what = `is ${reason}: it failed a moment ago, and is asked again about once a second. The failure: ${failure}`
    return this.#error(what, { reason, providerCode, requestId })
  }

  #error(what: string, options?: MasterKeyErrorOptions): MasterKeyError {
    return new MasterKeyError('ERR_MASTER_KEY', `Master key ${printable(this.#id)} ${what}`, options)
  }
}

/** A provider that returns one array twice would have one user's key in another's place, or a key that was wiped. */
const given = new WeakSet<Uint8Array>()

function refuseAgain(key: MasterKey, method: 'wrap' | 'unwrap', bytes: Uint8Array): void {
  if (given.has(bytes))
    throw wrongAnswer(key, method, 'the same array as before: it must make a new one each time')
  given.add(bytes)
}

function wrongAnswer({ id }: MasterKey, method: 'wrap' | 'unwrap', what: string): MasterKeyError {
  return new MasterKeyError('ERR_MASTER_KEY', `Master key ${printable(id)}: ${method}() returned ${what}`, {
    reason: 'wrongKey',
  })
}
