/** A Redis server of a test's own, if the program is installed: on loopback, without persistence. */
import { spawnSync } from 'node:child_process'
import { createClient } from 'redis'
import { temporaryFolder } from './databases.js'
import { freePort } from './postgres-server.js'
import { startServer } from './server-process.js'

export const hasRedis = spawnSync('redis-server', ['--version']).status === 0

export interface RedisServer {
  readonly port: number
  readonly url: string
  stop(): Promise<void>
}

/** @param settings further settings as in a command line: `--cluster-enabled`, `yes` */
export async function startRedis(...settings: readonly string[]): Promise<RedisServer> {
  const folder = temporaryFolder()
  const port = await freePort()
  const own = ['--port', `${port}`, '--bind', '127.0.0.1', '--dir', folder.path, '--save', '']
  const url = `redis://127.0.0.1:${port}`
  const { stop } = await startServer('redis-server', [...own, ...settings], folder, (pid) =>
    answers(url, pid),
  )
  return { port, url, stop }
}

async function answers(url: string, pid: number | undefined): Promise<boolean> {
  const client = createClient({ url, socket: { reconnectStrategy: false } })
  client.on('error', () => undefined)
  try {
    await client.connect()
    return (await client.info('server')).includes(`process_id:${pid}\r\n`)
  } catch {
    return false
  } finally {
    if (client.isOpen) client.destroy()
  }
}
