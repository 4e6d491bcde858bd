/** Publishes what stores write to a Postgres table. LISTENs, and begins anew when the connection that listens is lost. */
import { setTimeout as sleep } from 'node:timers/promises'
import { describeDriverError } from '../../drivers/driver-error.js'
import type { Listen } from '../../drivers/postgres-listen.js'
import { Backoff, RECONNECT_BACKOFF } from '../../drivers/retry.js'
import { isKeystoreError } from '../../errors.js'
import type { StoreChange } from '../../store.js'
import { type ChangeListener, Listeners } from '../listeners.js'
import { isProbe, ListenConnection } from './listen-connection.js'

interface PostgresChangesOptions {
  readonly channel: string
  /** How to listen, or why the store cannot. */
  readonly target: Listen | string
  /** How long connecting, and each answer, may take. */
  readonly timeoutMs: number
  /** Notifies the channel through another connection than the one that listens. */
  notify(payload: string): Promise<void>
}

export class PostgresChanges {
  readonly #options: PostgresChangesOptions
  readonly #listeners = new Listeners({ start: () => this.#start(), stop: () => this.#stop() })
  #stopping: AbortController | null = null
  #ended: Promise<void> = Promise.resolve()

  constructor(options: PostgresChangesOptions) {
    this.#options = options
  }

  /** @returns a function that ends it */
  subscribe(listener: ChangeListener): () => void {
    return this.#listeners.add(listener)
  }

  async close(): Promise<void> {
    this.#listeners.clear()
    await this.#ended
  }

  #start(): void {
    const { target } = this.#options
    if (typeof target === 'string') {
      process.nextTick(() => this.#listeners.publish({ silent: target }))
      return
    }
    const stopping = new AbortController()
    this.#stopping = stopping
    this.#ended = this.#ended.then(() => this.#run(target, stopping.signal))
  }

  #stop(): void {
    this.#stopping?.abort()
    this.#stopping = null
  }

  /** Listens until `signal` is aborted, on one connection after the other. Never rejects. */
  async #run(listen: Listen, signal: AbortSignal): Promise<void> {
    let silent = false
    const backoff = new Backoff(RECONNECT_BACKOFF)
    while (!signal.aborted) {
      try {
        await this.#listen(listen, signal, () => {
          silent = false
          backoff.reset()
        })
        return
      } catch (error) {
        if (signal.aborted) return
        const description = isKeystoreError(error) ? error.message : describeDriverError(error).description
        if (!silent)
          this.#listeners.publish({ silent: `The connection that listens is lost (${description})` })
        silent = true
      }
      await sleep(backoff.nextMs(), undefined, { ref: false, signal }).catch(() => undefined)
    }
  }

  /**
   * Listens on one connection. Returns if notifications do not arrive on it, so that another connection would not help.
   *
   * @param onListening called when the probe has arrived
   * @throws why the connection was lost
   */
  async #listen(listen: Listen, signal: AbortSignal, onListening: () => void): Promise<void> {
    const { channel, notify, timeoutMs } = this.#options
    const connection = new ListenConnection({
      listen,
      channel,
      timeoutMs,
      notify,
      onNotification: (payload) => {
        const change = changeFrom(payload)
        if (change !== null) this.#listeners.publish(change)
      },
      // Anything may have changed while nobody listened.
      onResumed: () => this.#listeners.publish({}),
    })
    signal.addEventListener('abort', connection.close, { once: true })
    try {
      await connection.open()
      if (!(await connection.probe())) {
        this.#listeners.publish({ silent: NOT_DELIVERED })
        return
      }
      onListening()
      // Anything may have changed before the connection listened.
      this.#listeners.publish({})
      await connection.closed()
    } finally {
      signal.removeEventListener('abort', connection.close)
      await connection.close()
    }
  }
}

const NOT_DELIVERED =
  'LISTEN succeeded, but a notification did not arrive: is a pooler in transaction mode in between? Give listenUrl, ' +
  'the URL of a direct connection'

/**
 * The change that a notification reports, or null for another process's probe. Anybody who may connect to the database can notify:
 * an unexpected payload only means that anything may have changed, and makes caches read again.
 */
function changeFrom(payload: string): StoreChange | null {
  const content = parseJson(payload)
  if (isUserIds(content)) return { userIds: content }
  const forgotten =
    typeof content === 'object' && content !== null && 'forgotten' in content && content.forgotten
  if (isUserIds(forgotten)) return { userIds: forgotten, forgotten: true }
  return isProbe(content) ? null : {}
}

function isUserIds(content: unknown): content is string[] {
  return Array.isArray(content) && content.length > 0 && content.every((userId) => typeof userId === 'string')
}

function parseJson(payload: string): unknown {
  try {
    return JSON.parse(payload)
  } catch {
    return undefined
  }
}
