/** A pgbouncer in front of the test server, if the program is installed. */
import { spawnSync } from 'node:child_process'
import { chmodSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import { temporaryFolder } from './databases.js'
import { freePort } from './postgres-server.js'
import { startServer } from './server-process.js'

export const hasPgbouncer = spawnSync('pgbouncer', ['--version']).status === 0

export interface Pgbouncer {
  /** The same database through the pooler. */
  readonly url: string
  stop(): Promise<void>
}

export async function startPgbouncer(
  databaseUrl: string,
  poolMode: 'transaction' | 'session',
): Promise<Pgbouncer> {
  const folder = temporaryFolder()
  const url = new URL(databaseUrl)
  const port = await freePort()
  const users = join(folder.path, 'users.txt')
  writeFileSync(users, `"${url.username}" "${decodeURIComponent(url.password)}"\n`)
  const settings = join(folder.path, 'pgbouncer.ini')
  // It refuses to run as root.
  const isRoot = process.getuid?.() === 0
  writeFileSync(
    settings,
    `[databases]
* = host=${url.hostname} port=${url.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = trust
auth_file = ${users}
pool_mode = ${poolMode}
default_pool_size = 5
${isRoot ? 'user = nobody' : ''}
`,
  )
  for (const path of [folder.path, users, settings]) chmodSync(path, 0o755)
  url.port = String(port)
  const { stop } = await startServer('pgbouncer', ['-q', settings], folder, () => answers(url.href))
  return { url: url.href, stop }
}

async function answers(url: string): Promise<boolean> {
  const client = new pg.Client(url)
  client.on('error', () => undefined)
  try {
    await client.connect()
    await client.query('select 1')
    return true
  } catch {
    return false
  } finally {
    await client.end().catch(() => undefined)
  }
}
