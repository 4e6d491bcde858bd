/**
 * What a client of the host application's tells of itself: that it is none, closed, not connected yet, or on a database that nobody else
 * sees. Typed structurally. Imports no driver.
 */
import { invalidArgument, StoreError } from '../errors.js'

const CLOSE_AFTERWARDS = 'close the service first (envelope.close()), and your own client after it'

/**
 * Refuses a client through which no store can ever work.
 *
 * @param name what the caller gave it as, such as `db`
 * @throws ERR_INVALID_ARGUMENT that says what to write
 */
export function assertUsableClient(name: string, client: unknown): void {
  if (client === undefined || client === null)
    throw invalidArgument(
      `${name} has no client: drizzle was given ${client}. In a Worker the binding may have another name; elsewhere a variable may be unset`,
    )
  if (isClosed(client)) throw invalidArgument(`${name} is on a client that is closed: ${CLOSE_AFTERWARDS}`)
  if (is(client, 'name', '') && is(client, 'memory', true))
    throw invalidArgument(
      `${name} is on a temporary database, which is gone with its connection: better-sqlite3 was given no path. Write drizzle('app.db'), or ` +
        "drizzle(':memory:') in a test",
    )
}

/** Refuses a client that would make each call wait until its deadline. @throws ERR_STORE */
export function assertConnecting(client: unknown): void {
  if (is(client, '_connecting', false) && is(client, '_connected', false) && !isClosed(client))
    throw new StoreError(
      'The db is on a Client of pg that is not connected: `await client.connect()` first, or use a Pool',
    )
}

/** What is waited for where a client has not started; null if it has, or does not say. */
export function startOf(client: unknown): string | null {
  return is(client, 'ready', false) && has(client, 'waitReady')
    ? 'PGlite to start: `await db.$client.waitReady` before; making a database takes it seconds'
    : null
}

/** Whether an error says that its client was closed. @returns what to do, or null */
export function closedClient(error: Error): string | null {
  const code: unknown = Reflect.get(error, 'code')
  const isSaid = CLOSED_CODES.has(code) || CLOSED_MESSAGES.some((message) => message.test(error.message))
  return isSaid ? `the application's client is closed: ${CLOSE_AFTERWARDS}` : null
}

/** Of libsql and postgres-js. */
const CLOSED_CODES: ReadonlySet<unknown> = new Set(['CLIENT_CLOSED', 'CONNECTION_ENDED'])
/** Of better-sqlite3, node:sqlite, bun:sqlite, pg's Pool and Client, PGlite. */
const CLOSED_MESSAGES = [
  /^The database connection is not open$/,
  /^database is not open$/,
  /^Cannot use a closed database$/,
  /^Database has closed$/,
  /^Cannot use a pool after calling end on the pool$/,
  /^Client was closed and is not queryable$/,
  /^PGlite is (closed|closing)$/,
]

/** better-sqlite3, node:sqlite; a Pool of pg, its Client; PGlite, libsql. postgres-js and bun:sqlite do not tell. */
function isClosed(client: unknown): boolean {
  return (
    is(client, 'open', false) ||
    is(client, 'isOpen', false) ||
    ['ended', 'ending', '_ended', '_ending', 'closed'].some((name) => is(client, name, true))
  )
}

function is(client: unknown, name: string, value: unknown): boolean {
  return has(client, name) && Reflect.get(client, name) === value
}

function has(client: unknown, name: string): client is object {
  return typeof client === 'object' && client !== null && name in client
}
