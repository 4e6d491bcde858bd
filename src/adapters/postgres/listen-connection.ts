/** A Postgres connection that listens to one channel. */
import { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { randomId } from '../../format/aead.js'

/** How long the probe may take to arrive. A notification usually takes about 2 ms. */
const PROBE_TIMEOUT_MS = 2000
/** Added to the probe's time: see {@link ListenConnection.probe}. */
const PROBE_GRACE_MS = 50
const HEARTBEAT_INTERVAL_MS = 15_000
const MAX_TIMEOUT_MS = 10_000
const CLOSE_TIMEOUT_MS = 500

interface ListenOptions {
  readonly config: pg.ClientConfig
  readonly channel: string
  /** How long connecting, and each answer, may take. At most 10 s count. */
  readonly timeoutMs: number
  /** Notifies the channel through another connection than this one. */
  notify(payload: string): Promise<void>
  /** Called with each payload that arrives after a successful probe. */
  onNotification(payload: string): void
}

/** Used once: open, probe, wait until it is closed. It keeps no process alive. */
export class ListenConnection {
  readonly #options: ListenOptions
  readonly #timeoutMs: number
  readonly #probePayload = JSON.stringify({ probe: randomId() })
  readonly #socket = new Socket()
  readonly #client: pg.Client
  readonly #probeArrived: Promise<void>
  #isProbed = false
  /** Why the connection cannot be used any more. */
  #failure: Error | null = null
  /** Rejects the operation that is waiting. */
  #rejectPending: (error: Error) => void = () => undefined

  constructor(options: ListenOptions) {
    this.#options = options
    this.#timeoutMs = Math.min(options.timeoutMs, MAX_TIMEOUT_MS)
    this.#client = new pg.Client({ ...options.config, stream: () => this.#socket })
    this.#client.on('error', (error) => this.#fail(error))
    this.#client.on('end', () => this.#fail(new Error('Connection terminated')))
    this.#probeArrived = new Promise((resolve) => {
      this.#client.on('notification', ({ channel, payload = '' }) => {
        if (channel !== options.channel) return
        if (payload === this.#probePayload) resolve()
        // An earlier notification is not needed: once the probe has arrived, listeners are told that anything may have changed.
        else if (this.#isProbed) options.onNotification(payload)
      })
    })
  }

  /** Connects and listens. @throws the driver's error */
  async open(): Promise<void> {
    const connecting = this.#client.connect()
    // Only now does the socket have a handle to unref.
    this.#socket.unref()
    await this.#unlessFailed(withTimeout(this.#timeoutMs, connecting))
    await this.#unlessFailed(
      withTimeout(this.#timeoutMs, this.#client.query(`listen ${this.#options.channel}`)),
    )
  }

  /**
   * Sends a notification and waits for it. Behind a pooler in transaction mode LISTEN succeeds, but on a server connection that another
   * client may use next: only a notification that arrives proves that we listen.
   *
   * @returns whether it arrived
   */
  async probe(): Promise<boolean> {
    await this.#unlessFailed(withTimeout(this.#timeoutMs, this.#options.notify(this.#probePayload)))
    const arrived = this.#probeArrived.then(() => true)
    // Two timers: if this process was suspended meanwhile, it reads what has arrived before the second one ends.
    const timedOut = pause(PROBE_TIMEOUT_MS)
      .then(() => pause(PROBE_GRACE_MS))
      .then(() => false)
    this.#isProbed = await this.#unlessFailed(Promise.race([arrived, timedOut]))
    return this.#isProbed
  }

  /**
   * Waits until the connection is closed. Sends a query now and then: a frozen server, or a connection that is open at our end only,
   * does not answer.
   *
   * @throws why it was closed
   */
  async closed(): Promise<never> {
    for (;;) {
      await this.#unlessFailed(pause(HEARTBEAT_INTERVAL_MS))
      await this.#unlessFailed(withTimeout(this.#timeoutMs, this.#client.query('select 1')))
    }
  }

  /** Closes the connection; what is waiting fails. Never rejects. */
  readonly close = async (): Promise<void> => {
    this.#fail(new Error('Closed'))
    await withTimeout(CLOSE_TIMEOUT_MS, this.#client.end(), true).catch(() => undefined)
    this.#socket.destroy()
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
