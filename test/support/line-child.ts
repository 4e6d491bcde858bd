/** A child process of test/children/ that speaks in lines: it prints some, and is told some. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

export interface LineChild {
  /** The next line that it prints. @throws what it wrote to stderr, if it ends before it prints one */
  line(): Promise<string>
  /** All lines that it prints from now on, once it has ended. */
  rest(): Promise<string[]>
  send(line: string): void
  /** Waits until it has ended. */
  ended(): Promise<{ readonly code: number | null; readonly stderr: string }>
  kill(): void
}

/** Starts plain JavaScript: a TypeScript loader would take six times as long. */
export function startChild(script: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): LineChild {
  const path = fileURLToPath(new URL(`../children/${script}`, import.meta.url))
  const child = spawn(process.execPath, [path, ...args], { env: { ...process.env, ...env } })
  let stderr = ''
  child.stderr.on('data', (chunk) => {
    stderr += String(chunk)
  })
  // A child that has died is reported by line() and ended(), not by a broken pipe.
  child.stdin.on('error', () => undefined)
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const closed = once(child, 'close')
  return {
    async line() {
      const { value, done } = await lines.next()
      if (done !== true) return value
      await closed
      throw new Error(`${script} ended with ${child.exitCode}: ${stderr}`)
    },
    async rest() {
      const all: string[] = []
      for await (const line of lines) all.push(line)
      return all
    },
    send(line) {
      child.stdin.write(`${line}\n`)
    },
    async ended() {
      child.stdin.end()
      await closed
      return { code: child.exitCode, stderr }
    },
    kill() {
      child.kill('SIGKILL')
    },
  }
}
