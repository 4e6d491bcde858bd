/** Makes node-postgres pools and the settings of node-postgres connections from a URL. */
import type { ConnectionOptions } from 'node:tls'
import { invalidArgument } from '../errors.js'
import type { PostgresPool } from './client-pool.js'
import { destroySocket } from './client-socket.js'
import { Deadline } from './deadline.js'
import { loadPg, type PgClient, type PgPool } from './pg.js'
import { DEFAULT_DEADLINE_MS } from './retry.js'
import { assertPostgresUrl } from './url.js'

/** Without this pg would wait for ever. */
const DEFAULT_CONNECTION_TIMEOUT_MS = 10_000
/** How much longer an attempt to connect may take than the call that needs it, so that the call's own error says what it waited for. */
const CONNECT_GRACE_MS = 100
/** How long connections may take to come back to a pool that is closed. */
const END_TIMEOUT_MS = 1000
/** How long the server may take to close its end of them. */
const HANG_UP_TIMEOUT_MS = 500

export interface PostgresUrlSource {
  /** `postgres://…`. The store makes a pool for it and ends the pool in `close()`. */
  readonly url: string
  /** TLS options of node:tls. Cannot be combined with `sslmode=` in the URL, which would silently replace them. */
  readonly ssl?: boolean | ConnectionOptions
  /** The largest number of connections in the pool. Default 10. */
  readonly maxConnections?: number
  /** How long one attempt to connect may take, in milliseconds. Default 10,000. */
  readonly connectionTimeoutMs?: number
}

/** A pool of ours, which is made with the first connection: only then is node-postgres loaded. */
export interface OwnPool {
  readonly pool: PostgresPool
  /** Closes all connections. Ends within 2 s, and leaves none open, whatever the server does. */
  close(): Promise<void>
}

/**
 * @param deadlineMs how long the calls that use the pool wait: an attempt to connect takes hardly longer
 * @throws ERR_INVALID_ARGUMENT
 */
export function newPool(source: PostgresUrlSource, deadlineMs = DEFAULT_DEADLINE_MS): OwnPool {
  const { maxConnections, connectionTimeoutMs = DEFAULT_CONNECTION_TIMEOUT_MS } = source
  const options = {
    ...clientConfig('url', source.url, {
      ...source,
      connectionTimeoutMs: Math.min(connectionTimeoutMs, Math.max(0, deadlineMs) + CONNECT_GRACE_MS),
    }),
    ...(maxConnections === undefined ? {} : { max: maxConnections }),
    // A program that forgets to close the store is not kept alive by idle connections.
    allowExitOnIdle: true,
  }
  const open = new Set<PgClient>()
  let onEmpty: () => void = ignore
  let made: PgPool | null = null
  const make = async (): Promise<PgPool> => {
    const pg = await loadPg()
    made = new pg.Pool({
      ...options,
      // The pool does not say which connections it is still making, nor which are still open after it has ended.
      Client: class extends pg.Client {
        constructor(config?: object) {
          super(config)
          open.add(this)
          this.once('end', () => {
            open.delete(this)
            if (open.size === 0) onEmpty()
          })
        }
      },
    })
    // An 'error' event without a listener ends the process. There is nothing to do when a connection is lost: a query that was
    // running fails by itself, and the pool replaces the connection.
    made.on('error', ignore)
    made.on('connect', (client) => client.on('error', ignore))
    return made
  }
  let making: Promise<PgPool> | null = null
  return {
    pool: {
      options,
      get totalCount() {
        return made?.totalCount ?? 0
      },
      get idleCount() {
        return made?.idleCount ?? 0
      },
      async connect() {
        making ??= make().catch((error) => {
          making = null
          throw error
        })
        return (made ?? (await making)).connect()
      },
    },
    async close() {
      const allClosed = new Promise<void>((resolve) => {
        onEmpty = resolve
      })
      const pool = made ?? (await making?.catch(() => null)) ?? null
      if (pool === null) return
      await atMost(END_TIMEOUT_MS, pool.end())
      if (open.size > 0) await atMost(HANG_UP_TIMEOUT_MS, allClosed)
      for (const client of open) destroySocket(client)
    },
  }
}

function ignore(): void {
  // See above.
}

/** Waits for an operation, or not so long. */
async function atMost(ms: number, operation: Promise<void>): Promise<void> {
  await new Deadline(ms).wait(operation, () => '').catch(ignore)
}

/** Settings of a node-postgres connection. */
export interface ConnectionConfig {
  readonly connectionString: string
  readonly connectionTimeoutMillis: number
  readonly keepAlive: boolean
  readonly ssl?: boolean | ConnectionOptions
}

/**
 * The settings of one connection.
 *
 * @param name of the parameter that holds the URL, for the error
 * @throws ERR_INVALID_ARGUMENT
 */
export function clientConfig(
  name: string,
  url: string,
  { ssl, connectionTimeoutMs = DEFAULT_CONNECTION_TIMEOUT_MS }: Partial<PostgresUrlSource>,
): ConnectionConfig {
  assertPostgresUrl(url, name)
  if (ssl !== undefined && /[?&]sslmode=/.test(url)) {
    throw invalidArgument(
      `Give either ssl or sslmode= in the ${name}: sslmode= would silently replace the ssl options`,
    )
  }
  return {
    connectionString: url,
    connectionTimeoutMillis: connectionTimeoutMs,
    keepAlive: true,
    ...(ssl === undefined ? {} : { ssl }),
  }
}
