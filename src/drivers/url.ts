/** Reads database URLs, and loads the driver that one needs. */
import { fileURLToPath } from 'node:url'
import { invalidArgument, StoreError } from '../errors.js'

/** @param name of the parameter, for the error @throws ERR_INVALID_ARGUMENT */
export function assertUrl(url: unknown, name = 'url'): asserts url is string {
  if (url === undefined || url === null || url === '')
    throw invalidArgument(
      `${name} is ${url === '' ? 'empty' : 'missing'}: the environment variable that it is read from, such as process.env.DATABASE_URL, is ` +
        'probably not set in this process',
    )
  if (typeof url !== 'string') throw invalidArgument(`${name} must be a string`)
  // A URL read from a file may end with a line break. SQLite would make a file of that name.
  if (url !== url.trim()) throw invalidArgument(`${name} must not begin or end with white space`)
}

export function isPostgresUrl(url: string): boolean {
  return /^postgres(ql)?:/i.test(url)
}

/**
 * Refuses a Postgres URL that cannot be read, or that would be read with a part of its password as the host: `#`, `/` and `?` end what is
 * before them, and errors name hosts.
 *
 * @param name of the parameter, for the error, which shows nothing of the URL
 * @throws ERR_INVALID_ARGUMENT
 */
export function assertPostgresUrl(url: unknown, name: string): asserts url is string {
  assertUrl(url, name)
  const [, rest] = /^postgres(?:ql)?:\/\/(.*)$/is.exec(url) ?? []
  if (rest === undefined) throw invalidArgument(`${name} must begin with postgres:// or postgresql://`)
  const [, path = '', query = ''] = /^[^/?#]*([^?]*)\??(.*)$/s.exec(rest) ?? []
  const isCut = rest.includes('#') || path.includes('@') || /^[^=]*@/.test(query)
  // pg takes a user without a host, as for a socket; a URL by itself does not.
  if (isCut || !URL.canParse(url.replace('@/', '@host/'))) throw invalidArgument(`${name} ${UNREADABLE}`)
}

export const UNREADABLE =
  'cannot be read as a URL: a user name or password with characters such as # / ? @ : must be percent-encoded (encodeURIComponent)'

/** Whether it names a server of libsql. A file that libsql opens is a `db` of the host's. */
export function isLibsqlUrl(url: string): boolean {
  return /^libsql:/i.test(url)
}

/** The server and database of a URL, `host:port/database`, without user and password. @returns null if it cannot be read */
export function serverOf(url: unknown): string | null {
  const { host = '', pathname = '' } = typeof url === 'string' && URL.canParse(url) ? new URL(url) : {}
  if (host === '') return null
  const port = /:\d+$/.test(host) || !isPostgresUrl(String(url)) ? '' : ':5432'
  return `${host}${port}${pathname}`
}

/**
 * The path in `sqlite:…`, `file:…` or a bare path.
 *
 * @throws ERR_INVALID_ARGUMENT for any other scheme; the message shows only the scheme of the URL
 */
export function sqlitePath(url: string): string {
  const [, scheme, rest = ''] = /^([a-z][a-z0-9+.-]+):(.*)$/is.exec(url) ?? []
  // A scheme has two or more letters: a single one is a Windows drive.
  if (scheme === undefined || url === ':memory:') return url
  const name = scheme.toLowerCase()
  if (name !== 'sqlite' && name !== 'file') {
    throw invalidArgument(
      `The URL has the scheme ${name}: it must be a path, sqlite:…, file:…, libsql://… or postgres://…`,
    )
  }
  if (/[?#]/.test(rest)) throw invalidArgument(`A ${name}: URL takes no parameters: pass options instead`)
  if (rest === '') throw invalidArgument(`The ${name}: URL has no path`)
  if (!rest.startsWith('//')) return rest
  try {
    return fileURLToPath(`file:${rest}`)
  } catch {
    throw invalidArgument(`The ${name}: URL must be ${name}:relative/path or ${name}:///absolute/path`)
  }
}

/** ERR_STORE: a package that is needed is not installed. */
export class DriverMissingError extends StoreError {}

/** Imports a driver. @throws ERR_STORE if it is not installed */
export async function loadDriver<T>(driver: string, load: () => Promise<T>): Promise<T> {
  try {
    return await load()
  } catch (error) {
    throw driverMissing(driver, error)
  }
}

/** What to throw when importing a driver has failed: ERR_STORE with what to install, if it is not installed, else the error itself. */
export function driverMissing(driver: string, error: unknown): unknown {
  const code = error instanceof Error && 'code' in error ? error.code : null
  if (code !== 'ERR_MODULE_NOT_FOUND' && code !== 'MODULE_NOT_FOUND') return error
  // The message quotes the missing package. It also names the file that imports it, unquoted, which is often one of drizzle-orm's.
  const missing = error instanceof Error && error.message.includes("'drizzle-orm") ? 'drizzle-orm' : driver
  return new DriverMissingError(
    `This needs the package ${missing}, which is not installed: npm install ${missing}`,
  )
}
