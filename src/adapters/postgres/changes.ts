/** Tells who listens of what stores write to a Postgres table: LISTEN, on a connection of its own. */
import { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { describeDriverError } from '../../drivers/driver-error.js'
import { type ChangeListener, Listeners } from '../listeners.js'

/** A notification takes 2 ms where nothing swallows it. */
const PROBE_MS = 2000
const HEARTBEAT_MS = 15_000
const ANSWER_MS = 10_000
/** How long we wait before we try to connect again: up to the first, then up to twice as long each time. */
const FIRST_WAIT_MS = 100
const LONGEST_WAIT_MS = 5000
const GRACE_MS = 50
const GOODBYE_MS = 500

export interface PostgresChangesOptions {
  readonly channel: string
  /** How to connect, or why not. */
  readonly target: pg.ClientConfig | string
  /** Notifies the channel, by another connection than the one that listens. */
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

  listen(listener: ChangeListener): () => void {
    return this.#listeners.add(listener)
  }

  async close(): Promise<void> {
    this.#listeners.clear()
    await this.#ended
  }

  #start(): void {
    const { target } = this.#options
    if (typeof target === 'string') {
      process.nextTick(() => this.#listeners.tell({ silent: target }))
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

  /** Never rejects. */
  async #run(config: pg.ClientConfig, signal: AbortSignal): Promise<void> {
    let silent = false
    let longestMs = FIRST_WAIT_MS
    while (!signal.aborted) {
      try {
        await this.#listen(config, signal, () => {
          silent = false
          longestMs = FIRST_WAIT_MS
        })
        return
      } catch (error) {
        if (signal.aborted) return
        const { description } = describeDriverError(error)
        if (!silent) this.#listeners.tell({ silent: `The connection that listens is lost (${description})` })
        silent = true
      }
      await sleep(Math.random() * longestMs, undefined, { ref: false, signal }).catch(() => undefined)
      longestMs = Math.min(longestMs * 2, LONGEST_WAIT_MS)
    }
  }

  /** Ends when there is no use in trying again. @throws why the connection was lost */
  async #listen(config: pg.ClientConfig, signal: AbortSignal, onHearing: () => void): Promise<void> {
    const ear = new Ear(config, this.#options, (change) => this.#listeners.tell(change))
    signal.addEventListener('abort', ear.close, { once: true })
    try {
      await ear.open()
      if (!(await ear.hears())) {
        this.#listeners.tell({ silent: SWALLOWED })
        return
      }
      onHearing()
      // Whatever happened while nobody listened.
      this.#listeners.tell({})
      await ear.lost()
    } finally {
      signal.removeEventListener('abort', ear.close)
      await ear.close()
    }
  }
}

const SWALLOWED =
  'LISTEN succeeded, but a notification did not arrive: is a pooler in transaction mode in between? Give listenUrl, ' +
  'the URL of a direct connection'

/** One connection that listens, until it fails. */
class Ear {
  readonly #options: PostgresChangesOptions
  readonly #probe = JSON.stringify({ probe: crypto.randomUUID() })
  readonly #socket = new Socket()
  readonly #client: pg.Client
  readonly #heard: Promise<void>
  #isProven = false
  #gone: Error | null = null
  /** Fails what is being waited for. */
  #fail: (error: Error) => void = () => undefined

  constructor(config: pg.ClientConfig, options: PostgresChangesOptions, tell: ChangeListener) {
    this.#options = options
    this.#client = new pg.Client({ ...config, stream: () => this.#socket })
    this.#client.on('error', (error) => this.#lose(error))
    this.#client.on('end', () => this.#lose(new Error('Connection terminated')))
    this.#heard = new Promise((resolve) => {
      this.#client.on('notification', ({ channel, payload = '' }) => {
        if (channel !== options.channel) return
        if (payload === this.#probe) resolve()
        // Before that, nobody has been told that we listen, and will then have to look at everything.
        else if (this.#isProven) tellOf(payload, tell)
      })
    })
  }

  async open(): Promise<void> {
    const connecting = this.#client.connect()
    // It has a handle since then, and is to keep no process alive.
    this.#socket.unref()
    await this.#orGone(connecting)
    await this.#orGone(within(ANSWER_MS, this.#client.query(`listen ${this.#options.channel}`)))
  }

  /** Behind a pooler LISTEN may succeed on a connection that is another client's by now: only hearing something proves it. */
  async hears(): Promise<boolean> {
    await this.#orGone(within(ANSWER_MS, this.#options.notify(this.#probe)))
    const heard = this.#heard.then(() => true)
    // Twice: this process may have stood still meanwhile, and then reads what has arrived before the second time is up.
    const unheard = pause(PROBE_MS)
      .then(() => pause(GRACE_MS))
      .then(() => false)
    this.#isProven = await this.#orGone(Promise.race([heard, unheard]))
    return this.#isProven
  }

  /** Until it is. A frozen server, or a connection that is open at our end only, answers no query. @throws why */
  async lost(): Promise<never> {
    for (;;) {
      await this.#orGone(pause(HEARTBEAT_MS))
      await this.#orGone(within(ANSWER_MS, this.#client.query('select 1')))
    }
  }

  readonly close = async (): Promise<void> => {
    this.#lose(new Error('Closed'))
    await within(GOODBYE_MS, this.#client.end(), true).catch(() => undefined)
    this.#socket.destroy()
  }

  #lose(error: Error): void {
    this.#gone ??= error
    this.#fail(this.#gone)
  }

  /** Not a race with one promise for the life of the connection: that would keep a trace of each. */
  #orGone<T>(work: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#fail = reject
      work.then(resolve, reject)
      if (this.#gone !== null) reject(this.#gone)
    })
  }
}

/** Anybody who may connect to the database can notify: believed no further than that caches are to be looked at again. */
function tellOf(payload: string, tell: ChangeListener): void {
  const content = parsed(payload)
  if (Array.isArray(content) && content.length > 0 && content.every((userId) => typeof userId === 'string')) {
    tell({ userIds: content })
  } else if (!isProbe(content)) {
    tell({})
  }
}

function parsed(payload: string): unknown {
  try {
    return JSON.parse(payload)
  } catch {
    return undefined
  }
}

/** Of another process that begins to listen. */
function isProbe(content: unknown): boolean {
  return typeof content === 'object' && content !== null && 'probe' in content
}

function pause(ms: number): Promise<void> {
  return sleep(ms, undefined, { ref: false })
}

/** @param ref whether the process stays alive until the time is up @throws when it is */
async function within<T>(ms: number, work: Promise<T>, ref = false): Promise<T> {
  const inTime = new AbortController()
  const late = sleep(ms, undefined, { ref, signal: inTime.signal }).then(() => {
    throw Object.assign(new Error(`no answer within ${ms} ms`), { code: 'ETIMEDOUT', syscall: 'query' })
  })
  try {
    return await Promise.race([work, late])
  } finally {
    inTime.abort()
  }
}
