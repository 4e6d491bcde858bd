/** What node-postgres does not offer about the connection of a client. */
import { Socket } from 'node:net'

/** CancelRequest of PostgreSQL's protocol 3.0 (postgresql.org/docs/current/protocol-message-formats.html). */
const CANCEL_REQUEST = 80_877_102
/** How long a request to cancel may take. */
const CANCEL_TIMEOUT_MS = 500

/** Closes a client's connection at this end, whatever the other end does. */
export function destroySocket(client: object): void {
  const connection: unknown = Reflect.get(client, 'connection')
  if (typeof connection !== 'object' || connection === null) return
  const stream: unknown = Reflect.get(connection, 'stream')
  if (typeof stream !== 'object' || stream === null) return
  const destroy: unknown = Reflect.get(stream, 'destroy')
  if (typeof destroy === 'function') destroy.call(stream)
}

/**
 * Asks the server, on a connection of its own, to cancel what it executes for a client. Never rejects: the server need not be there, and
 * a proxy may not pass it on. Unencrypted, as libpq's PQcancel: it holds the key of a session that ends now.
 */
export async function cancelExecution(client: object): Promise<void> {
  const [host, port, processID, secretKey] = ['host', 'port', 'processID', 'secretKey'].map((name): unknown =>
    Reflect.get(client, name),
  )
  if (typeof host !== 'string' || typeof port !== 'number') return
  if (typeof processID !== 'number' || typeof secretKey !== 'number') return
  const request = Buffer.alloc(16)
  for (const [index, field] of [request.length, CANCEL_REQUEST, processID, secretKey].entries())
    request.writeInt32BE(field, index * 4)
  const socket = new Socket()
  await new Promise<void>((resolve) => {
    // The server closes the connection once it has passed the request on.
    socket.on('close', () => resolve())
    socket.on('error', () => undefined)
    socket.setTimeout(CANCEL_TIMEOUT_MS, () => socket.destroy())
    const connected = () => socket.write(request)
    if (host.startsWith('/')) socket.connect(`${host}/.s.PGSQL.${port}`, connected)
    else socket.connect(port, host, connected)
  })
}
