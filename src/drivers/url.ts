/** What a URL of a database names. */
import { fileURLToPath } from 'node:url'
import { invalidArgument, StoreError } from '../errors.js'

/** @throws ERR_INVALID_ARGUMENT */
export function assertUrl(url: unknown): asserts url is string {
  if (typeof url !== 'string' || url === '') throw invalidArgument('url must be a non-empty string')
  // From a file or an environment variable: as a path it would be made, line end and all.
  if (url !== url.trim()) throw invalidArgument('url must not begin or end with white space')
}

export function isPostgresUrl(url: string): boolean {
  return /^postgres(ql)?:/i.test(url)
}

/** @throws ERR_INVALID_ARGUMENT for a scheme that is none of ours; of the URL only the scheme is shown */
export function sqlitePath(url: string): string {
  const [, scheme, rest = ''] = /^([a-z][a-z0-9+.-]+):(.*)$/is.exec(url) ?? []
  // A single letter is a Windows drive, and a scheme of two or more letters is not.
  if (scheme === undefined || url === ':memory:') return url
  const name = scheme.toLowerCase()
  if (name !== 'sqlite' && name !== 'file') {
    throw invalidArgument(
      `The URL has the scheme ${name}: it must be a path, sqlite:…, file:… or postgres://…`,
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

/** @throws ERR_STORE if the driver is not installed */
export async function loadDriver<T>(driver: string, load: () => Promise<T>): Promise<T> {
  try {
    return await load()
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : null
    if (code !== 'ERR_MODULE_NOT_FOUND' && code !== 'MODULE_NOT_FOUND') throw error
    // Only the quoted name is what is missing; the file that wanted it, often one of drizzle-orm's, stands unquoted.
    const missing = error instanceof Error && error.message.includes("'drizzle-orm") ? 'drizzle-orm' : driver
    throw new StoreError(`This needs the package ${missing}, which is not installed: npm install ${missing}`)
  }
}
