/** Makes node-postgres pools and the settings of node-postgres connections from a URL. */
import pg from 'pg'
import { invalidArgument } from '../errors.js'

/** Without this pg would wait for ever. */
const DEFAULT_CONNECTION_TIMEOUT_MS = 10_000

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

export function newPool(source: PostgresUrlSource): pg.Pool {
  const { maxConnections } = source
  const pool = new pg.Pool({
    ...clientConfig('url', source.url, source),
    ...(maxConnections === undefined ? {} : { max: maxConnections }),
  })
  // An 'error' event without a listener ends the process. There is nothing to do when a connection is lost: a query that was
  // running fails by itself, and the pool replaces the connection.
  const ignore = () => undefined
  pool.on('error', ignore)
  pool.on('connect', (client) => client.on('error', ignore))
  return pool
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
  if (typeof url !== 'string' || !/^postgres(ql)?:\/\//.test(url)) {
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
