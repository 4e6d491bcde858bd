/** Child processes that run a script of test/children/ and speak with the test in lines. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { expect } from 'vitest'
import type { OpenedKeyStore } from '../../src/adapters/open.js'
import { root } from './root.js'

export interface ChildScript {
  /** The next line that it prints. @throws what it wrote to stderr, if it ends before it prints one */
  line(): Promise<string>
  /** All lines that it prints from now on, once it has ended. */
  rest(): Promise<string[]>
  send(line: string): void
  /** Ends its stdin, and waits until it has ended. The code of one that a signal has killed is null. */
  ended(): Promise<{ readonly code: number | null; readonly stderr: string }>
  /** The signal that has ended it; null if none has. */
  signal(): NodeJS.Signals | null
  /** Kills it with SIGKILL. */
  kill(): void
}

/** Starts plain JavaScript: a TypeScript loader would take six times as long. */
export function startChild(
  script: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): ChildScript {
  const path = join(root, 'test', 'children', script)
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
      throw new Error(`${script} ended with ${child.exitCode ?? child.signalCode}: ${stderr}`)
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
    signal: () => child.signalCode,
    kill() {
      child.kill('SIGKILL')
    },
  }
}

/** Waits for the end of a child that prints JSON last. @returns what it printed */
export async function reportOf<T>(child: ChildScript): Promise<T> {
  const printed = await child.rest()
  expect(await child.ended()).toEqual({ code: 0, stderr: '' })
  return JSON.parse(printed.at(-1) ?? '') as T
}

/** Starts several children, waits until each has printed its first line, and tells all of them to go on at once. @returns their reports */
export async function runAtOnce<T>(children: readonly ChildScript[]): Promise<T[]> {
  try {
    await Promise.all(children.map((child) => child.line()))
    for (const child of children) child.send('go')
    return await Promise.all(children.map((child) => reportOf<T>(child)))
  } finally {
    for (const child of children) child.kill()
  }
}

/** Lets several processes open one database at the same moment. @returns what each of them has migrated */
export function openAtOnce(
  processes: number,
  url: string,
  options: object,
): Promise<Awaited<ReturnType<OpenedKeyStore['ready']>>[]> {
  return runAtOnce(
    Array.from({ length: processes }, (_, index) =>
      startChild('open-store.mjs', [url, JSON.stringify(options), `user-${index}`]),
    ),
  )
}
