/** A Redis server of a test's own, where one is installed: on loopback, in a fresh folder, without persistence. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { createClient } from 'redis'
import { temporaryFolder } from './databases.js'
import { freePort } from './postgres-server.js'

export const hasRedis = spawnSync('redis-server', ['--version']).status === 0

export interface RedisServer {
  readonly port: number
  readonly url: string
  stop(): Promise<void>
}

/** @param settings more of them, as they stand in a command line: `--cluster-enabled`, `yes` */
export async function startRedis(...settings: readonly string[]): Promise<RedisServer> {
  const folder = temporaryFolder()
  const port = await freePort()
  const own = ['--port', `${port}`, '--bind', '127.0.0.1', '--dir', folder.path, '--save', '']
  const child = spawn('redis-server', [...own, ...settings], { stdio: ['ignore', 'pipe', 'pipe'] })
  let log = ''
  for (const output of [child.stdout, child.stderr])
    output.on('data', (chunk) => {
      log += String(chunk)
    })
  const ended = once(child, 'close')
  const stop = async () => {
    child.kill('SIGKILL')
    await ended
    folder.remove()
  }
  const url = `redis://127.0.0.1:${port}`
  for (let tries = 0; !(await answers(url, child)); tries += 1) {
    if (tries < 100 && child.exitCode === null) await sleep(50)
    else {
      await stop()
      throw new Error(`redis-server did not start:\n${log}`)
    }
  }
  return { port, url, stop }
}

/** Whether it is this very server that answers there, and not one that took the port first. */
async function answers(url: string, { pid }: ChildProcess): Promise<boolean> {
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
