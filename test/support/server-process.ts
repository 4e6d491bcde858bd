/** Programs that are servers, started for a test: on loopback, with their files in a temporary folder. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'

export interface ServerProcess {
  /** Kills it, waits until it has ended, and removes its folder. */
  stop(): Promise<void>
}

/**
 * Starts a server and waits until it answers, for about five seconds.
 *
 * @param folder with its files, removed when it ends
 * @param answers whether it is this very process that answers, and not one that has taken the port first
 * @throws with the program's output, if it does not answer
 */
export async function startServer(
  program: string,
  args: readonly string[],
  folder: { remove(): void },
  answers: (pid: number | undefined) => Promise<boolean>,
): Promise<ServerProcess> {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] })
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
  for (let tries = 0; !(await answers(child.pid)); tries += 1) {
    if (tries < 100 && child.exitCode === null) await sleep(50)
    else {
      await stop()
      throw new Error(`${program} did not start:\n${log}`)
    }
  }
  return { stop }
}
