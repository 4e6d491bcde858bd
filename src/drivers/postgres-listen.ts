/** Listens to a channel of Postgres: on a connection of our own, or through the host application's driver where that can. */
import { Socket } from 'node:net'
import { loadPg, type PgClient } from './pg.js'
import { isPglite, isPostgresJs, type Pglite, type PostgresJs } from './postgres-clients.js'
import type { ConnectionConfig } from './postgres-pool.js'

interface ListenHandlers {
  onPayload(payload: string): void
  /** Called when the driver listens again after it had lost its connection: payloads may be missing. */
  onResumed(): void
  /** Called once, when nothing more will arrive. */
  onLost(error: Error): void
}

/** One subscription to one channel. Used once. */
export interface Subscription {
  /** Resolves when it listens. @throws the driver's error */
  open(): Promise<unknown>
  /** Asks for an answer on the connection that listens. Absent: there is no way to use that connection. */
  check?(): Promise<unknown>
  /** Ends it in good order. */
  close(): Promise<unknown>
  /** Ends it, if {@link close} did not in time. */
  destroy?(): void
}

export type Listen = (channel: string, handlers: ListenHandlers) => Subscription

/** Listens on a connection of its own, which does not keep the process alive. */
export function listenOnPg(config: ConnectionConfig): Listen {
  return (channel, { onPayload, onLost }) => {
    const socket = new Socket()
    let client: PgClient | null = null
    let isClosed = false
    return {
      async open() {
        const { Client } = await loadPg()
        if (isClosed) return
        client = new Client({ ...config, stream: () => socket })
        client.on('error', onLost)
        client.on('end', () => onLost(new Error('Connection terminated')))
        client.on('notification', (message) => {
          if (message.channel === channel) onPayload(message.payload ?? '')
        })
        const connecting = client.connect()
        // Only now does the socket have a handle to unref.
        socket.unref()
        await connecting
        await client.query(`listen ${channel}`)
      },
      check: async () => client?.query('select 1'),
      async close() {
        isClosed = true
        await client?.end()
      },
      destroy: () => void socket.destroy(),
    }
  }
}

/** Listens through the host's postgres-js or PGlite. @returns null for any other client */
export function listenOnHost(client: unknown): Listen | null {
  if (isPostgresJs(client)) return listenOnPostgresJs(client)
  return isPglite(client) ? listenOnPglite(client) : null
}

/**
 * postgres-js listens on a connection of its own, which it replaces when it is lost, and which lives until the host calls `sql.end()`. A
 * connection that is open at our end only it does not notice.
 */
function listenOnPostgresJs(client: PostgresJs): Listen {
  return (channel, { onPayload, onResumed }) => {
    let end: (() => Promise<unknown>) | null = null
    let isClosed = false
    return {
      async open() {
        const { unlisten } = await client.listen(channel, onPayload, () => {
          if (end !== null) onResumed()
        })
        end = unlisten
        if (isClosed) await unlisten()
      },
      async close() {
        isClosed = true
        await end?.()
      },
    }
  }
}

/** PGlite is a part of this process: there is no connection that could be lost. */
function listenOnPglite(client: Pglite): Listen {
  return (channel, { onPayload }) => {
    let end: (() => Promise<unknown>) | null = null
    let isClosed = false
    return {
      async open() {
        end = await client.listen(channel, onPayload)
        if (isClosed) await end()
      },
      check: async () => undefined,
      async close() {
        isClosed = true
        await end?.()
      },
    }
  }
}
