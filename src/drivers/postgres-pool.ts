/** Makes node-postgres pools and the settings of node-postgres connections from a URL. */
import pg from 'pg'
import { invalidArgument } from '../errors.js'
import { destroySocket } from './client-socket.js'
import { Deadline } from './deadline.js'
import { DEFAULT_DEADLINE_MS } from './retry.js'
import { isPostgresUrl } from './url.js'

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
  readonly ssl?: boolean | pg.ClientConfig['ssl']
  /** The largest number of connections in the pool. Default 10. */
  readonly maxConnections?: number
  /** How long one attempt to connect may take, in milliseconds. Default 10,000. */
  readonly connectionTimeoutMs?: number
}

/** A pool of ours. */
export interface OwnPool {
  readonly pool: pg.Pool
  /** Closes all connections. Ends within 2 s, and leaves none open, whatever the server does. */
  close(): Promise<void>
}

/** @param deadlineMs how long the calls that use the pool wait: an attempt to connect takes hardly longer */
export function newPool(source: PostgresUrlSource, deadlineMs = DEFAULT_DEADLINE_MS): OwnPool {
  const { maxConnections, connectionTimeoutMs = DEFAULT_CONNECTION_TIMEOUT_MS } = source
  const open = new Set<pg.Client>()
  let onEmpty: () => void = ignore
  const pool = new pg.Pool({
    ...clientConfig('url', source.url, {
      ...source,
      connectionTimeoutMs: Math.min(connectionTimeoutMs, Math.max(0, deadlineMs) + CONNECT_GRACE_MS),
    }),
    ...(maxConnections === undefined ? {} : { max: maxConnections }),
    // A program that forgets to close the store is not kept alive by idle connections.
    allowExitOnIdle: true,
    // The pool does not say which connections it is still making, nor which are still open after it has ended.
    Client: class extends pg.Client {
      constructor(config?: pg.ClientConfig) {
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
  pool.on('error', ignore)
  pool.on('connect', (client) => client.on('error', ignore))
  return {
    pool,
    async close() {
      const allClosed = new Promise<void>((resolve) => {
        onEmpty = resolve
      })
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
): pg.ClientConfig {
  if (typeof url !== 'string' || !isPostgresUrl(url) || !url.includes('://')) {
    throw invalidArgument(`${name} must begin with postgres:// or postgresql://`)
  }
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
