/** A proxy in front of a Postgres server, which can do to connections what networks do to them. */
import { once } from 'node:events'
import { connect as connectTo, createServer, type Socket } from 'node:net'

export interface PostgresProxy {
  /** The same database through the proxy. */
  readonly url: string
  /** How many connections it has been asked for. */
  readonly connections: number
  /** The connections that are open now go silent for good: nothing is forwarded, and neither end is closed. New ones work. */
  silence(): void
  /** {@link silence}, and while it is frozen, new connections are silent too. */
  freeze(frozen: boolean): void
  /** Resets one of the connections that are open now. @param which from 0 up to 1: the oldest to the newest @returns whether there was one */
  cutOne(which: number): boolean
  /**
   * Cuts the answer to the next statement whose text matches: the server has executed it when the connection is reset.
   *
   * @param times how many answers are cut
   */
  cutAnswers(statement: RegExp, times?: number): void
  /** How many answers were cut. */
  readonly answersCut: number
  close(): Promise<void>
}

export async function postgresProxy(databaseUrl: string): Promise<PostgresProxy> {
  const target = new URL(databaseUrl)
  const sockets = new Set<Socket>()
  /** By the client's end. */
  const silent = new WeakSet<Socket>()
  const open = new Set<Socket>()
  let isFrozen = false
  let connections = 0
  let statement: RegExp | null = null
  let left = 0
  let cut = 0

  const server = createServer({ allowHalfOpen: true }, (near) => {
    connections += 1
    const far = connectTo(Number(target.port), target.hostname)
    let isAnswerCut = false
    for (const socket of [near, far]) sockets.add(socket)
    open.add(near)
    if (isFrozen) silent.add(near)
    const forwards = () => !silent.has(near)
    const end = () => {
      if (!forwards()) return
      open.delete(near)
      near.destroy()
      far.destroy()
    }
    for (const socket of [near, far]) {
      socket.on('error', end)
      socket.on('close', end)
      socket.on('end', end)
    }
    near.on('data', (chunk) => {
      if (!forwards()) return
      if (left > 0 && statement?.test(chunk.toString('latin1'))) {
        left -= 1
        isAnswerCut = true
      }
      far.write(chunk)
    })
    far.on('data', (chunk) => {
      if (!forwards()) return
      if (!isAnswerCut) near.write(chunk)
      // ReadyForQuery: the transaction is over, and what it wrote is committed.
      else if (chunk.subarray(-6, -1).equals(READY_FOR_QUERY)) {
        cut += 1
        near.resetAndDestroy()
        far.destroy()
      }
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  const url = new URL(databaseUrl)
  url.hostname = '127.0.0.1'
  url.port = String(typeof address === 'object' && address !== null ? address.port : 0)
  const silence = () => {
    for (const near of open) silent.add(near)
  }
  return {
    url: url.href,
    get connections() {
      return connections
    },
    get answersCut() {
      return cut
    },
    silence,
    freeze(frozen) {
      isFrozen = frozen
      if (frozen) silence()
    },
    cutOne(which) {
      const near = [...open][Math.floor(which * open.size)]
      near?.resetAndDestroy()
      return near !== undefined
    },
    cutAnswers(matching, times = 1) {
      statement = matching
      left = times
    },
    async close() {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}

/** Its type and length, which the transaction's status follows. */
const READY_FOR_QUERY = Buffer.from([0x5a, 0, 0, 0, 5])
