/** Pools and connections of node-postgres that the library makes itself, from a URL. */
import pg from 'pg'
import { invalidArgument } from '../errors.js'

/** pg waits for ever by default. */
const DEFAULT_CONNECTION_TIMEOUT_MS = 10_000

export interface UrlSource {
  /** `postgres://…`: a pool of ours, which `close()` ends. */
  readonly url: string
  /** TLS options of node:tls. Not together with `sslmode=` in the URL, which would silently replace them. */
  readonly ssl?: boolean | pg.ClientConfig['ssl']
  /** Default 10. */
  readonly maxConnections?: number
  /** How long one attempt to connect may take, in milliseconds. Default 10,000. */
  readonly connectionTimeoutMs?: number
}

export function newPool(source: UrlSource): pg.Pool {
  const { maxConnections } = source
  const pool = new pg.Pool({
    ...clientConfig('url', source.url, source),
    ...(maxConnections === undefined ? {} : { max: maxConnections }),
  })
  // Without these a connection that dies idle, or one that dies while checked out, ends the process. The query that was
  // under way fails by itself, and the pool replaces the connection: there is nothing else to do.
  const survive = () => undefined
  pool.on('error', survive)
  pool.on('connect', (client) => client.on('error', survive))
  return pool
}

/** @throws ERR_INVALID_ARGUMENT, naming the parameter that holds the URL */
export function clientConfig(
  name: string,
  url: string,
  { ssl, connectionTimeoutMs = DEFAULT_CONNECTION_TIMEOUT_MS }: Partial<UrlSource>,
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
