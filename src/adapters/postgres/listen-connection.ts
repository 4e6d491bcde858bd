/** A Postgres connection that listens to one channel. */
import { setTimeout as sleep } from 'node:timers/promises'
import { DeadlineError } from '../../drivers/deadline.js'
import type { Listen, Subscription } from '../../drivers/postgres-listen.js'
import { randomId } from '../../format/aead.js'

/** How long the probe may take to arrive. A notification usually takes about 2 ms. */
const PROBE_TIMEOUT_MS = 2000
/** Added to the probe's time: see {@link ListenConnection.probe}. */
const PROBE_GRACE_MS = 50
const HEARTBEAT_INTERVAL_MS = 15_000
const MAX_TIMEOUT_MS = 10_000
const CLOSE_TIMEOUT_MS = 500

interface ListenOptions {
  readonly listen: Listen
  readonly channel: string
  /** How long connecting, and each answer, may take. At most 10 s count. */
  readonly timeoutMs: number
  /** Notifies the channel through another connection than this one. */
  notify(payload: string): Promise<void>
  /** Called with each payload that arrives after a successful probe. */
  onNotification(payload: string): void
  /** Called when notifications arrive again after some may have been lost. */
  onResumed(): void
}

/** Used once: open, probe, wait until it is closed. It keeps no process alive, unless a driver of the host's does. */
export class ListenConnection {
  readonly #options: ListenOptions
  readonly #timeoutMs: number
  readonly #subscription: Subscription
  /** The probe that is under way. */
  #probe: { readonly payload: string; arrived(): void } | null = null
  #isProbed = false
  /** Why the connection cannot be used any more. */
  #failure: Error | null = null
  /** Rejects the operation that is waiting. */
  #rejectPending: (error: Error) => void = () => undefined

  constructor(options: ListenOptions) {
    const { listen, channel } = options
    this.#options = options
    this.#timeoutMs = Math.min(options.timeoutMs, MAX_TIMEOUT_MS)
    this.#subscription = listen(channel, {
      onPayload: (payload) => {
        if (payload === this.#probe?.payload) this.#probe.arrived()
        // An earlier notification is not needed: once the probe has arrived, listeners are told that anything may have changed.
        else if (this.#isProbed && this.#failure === null) options.onNotification(payload)
      },
      onResumed: () => {
        if (this.#isProbed && this.#failure === null) options.onResumed()
      },
      onLost: (error) => this.#fail(error),
    })
  }

  /** Connects and listens. @throws the driver's error */
  async open(): Promise<void> {
    await this.#unlessFailed(withTimeout(this.#timeoutMs, this.#subscription.open()))
  }

  /**
   * Sends a notification and waits for it. Behind a pooler in transaction mode LISTEN succeeds, but on a server connection that another
   * client may use next: only a notification that arrives proves that we listen.
   *
   * @returns whether it arrived
   */
  async probe(): Promise<boolean> {
    const payload = JSON.stringify({ probe: randomId() })
    const arrived = new Promise<true>((resolve) => {
      this.#probe = { payload, arrived: () => resolve(true) }
    })
    await this.#unlessFailed(withTimeout(this.#timeoutMs, this.#options.notify(payload)))
    // Two timers: if this process was suspended meanwhile, it reads what has arrived before the second one ends.
    const timedOut = pause(PROBE_TIMEOUT_MS)
      .then(() => pause(PROBE_GRACE_MS))
      .then(() => false)
    this.#isProbed = await this.#unlessFailed(Promise.race([arrived, timedOut]))
    this.#probe = null
    return this.#isProbed
  }

  /**
   * Waits until the connection is closed. Checks it now and then: a frozen server, or a connection that is open at our end only, does not
   * answer.
   *
   * @throws why it was closed
   */
  async closed(): Promise<never> {
    const { check } = this.#subscription
    for (;;) {
      await this.#unlessFailed(pause(HEARTBEAT_INTERVAL_MS))
      if (check !== undefined) await this.#unlessFailed(withTimeout(this.#timeoutMs, check()))
      else if (!(await this.probe())) throw new DeadlineError('a notification did not arrive')
    }
  }

  /** Closes the connection; what is waiting fails. Never rejects. */
  readonly close = async (): Promise<void> => {
    this.#fail(new Error('Closed'))
    await withTimeout(CLOSE_TIMEOUT_MS, this.#subscription.close(), true).catch(() => undefined)
    this.#subscription.destroy?.()
  }

  #fail(error: Error): void {
    this.#failure ??= error
    this.#rejectPending(this.#failure)
  }

  /**
   * Waits for an operation, and rejects as soon as the connection fails. Not Promise.race with one promise for the life of the
   * connection: that promise would keep a reaction for each operation.
   */
  #unlessFailed<T>(operation: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#rejectPending = reject
      operation.then(resolve, reject)
      if (this.#failure !== null) reject(this.#failure)
    })
  }
}

/** Whether a payload is the probe of a process that begins to listen. */
export function isProbe(content: unknown): boolean {
  return typeof content === 'object' && content !== null && 'probe' in content
}

function pause(ms: number): Promise<void> {
  return sleep(ms, undefined, { ref: false })
}

/** @param ref whether the timer keeps the process alive @throws ETIMEDOUT */
async function withTimeout<T>(ms: number, operation: Promise<T>, ref = false): Promise<T> {
  const ended = new AbortController()
  const timeout = sleep(ms, undefined, { ref, signal: ended.signal }).then(() => {
    throw Object.assign(new Error(`no answer within ${ms} ms`), { code: 'ETIMEDOUT', syscall: 'query' })
  })
  try {
    return await Promise.race([operation, timeout])
  } finally {
    ended.abort()
  }
}
