/** A pgbouncer in front of a test's server, where one is installed. */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { temporaryFolder } from './databases.js'
import { freePort } from './postgres-server.js'

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
  const child = spawn('pgbouncer', ['-q', settings], { stdio: ['ignore', 'ignore', 'pipe'] })
  let log = ''
  child.stderr.on('data', (chunk) => {
    log += String(chunk)
  })
  const ended = once(child, 'close')
  url.port = String(port)
  const stop = async () => {
    child.kill('SIGKILL')
    await ended
    folder.remove()
  }
  for (let tries = 0; !(await answers(url.href)); tries += 1) {
    if (tries < 100 && child.exitCode === null) await sleep(50)
    else {
      await stop()
      throw new Error(`pgbouncer did not start:\n${log}`)
    }
  }
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
