/** Processes that encrypt, decrypt and rotate through outages, and what must hold of all that they reported. */
import { expect } from 'vitest'
import { localMasterKey } from '../../src/index.js'
import { startChild } from './child-process.js'
import { type HandedOut, unopened } from './child-traffic.js'
import { withStore } from './fresh-store.js'
import { rowsOf } from './rows.js'

/** A call that failed in a process. */
export interface FailedCall {
  readonly code: string
  readonly retryable: boolean
  readonly message: string
}

export interface Load {
  readonly tokens: readonly HandedOut[]
  readonly failures: readonly FailedCall[]
  /** How long its slowest call of the store took, in milliseconds. */
  readonly slowestMs: number
  /** Waits until it has handed out so many more tokens. @throws what it wrote to stderr, if it ends before */
  moreTokens(count: number): Promise<void>
  /** Waits until so many more of its calls have failed. */
  moreFailures(count: number): Promise<void>
  /** Lets it finish its work in hand, and expects that it ends without a complaint. */
  stop(): Promise<void>
  /** Kills it with SIGKILL, and waits for its end. */
  kill(): Promise<void>
}

export interface LoadOptions {
  readonly url: string
  readonly masterKey: string
  /** Names the users that only this process mints. */
  readonly name: string
  readonly deadlineMs: number
}

/** Starts a process. @returns once it has opened its store */
export async function startLoad({ url, masterKey, name, deadlineMs }: LoadOptions): Promise<Load> {
  const child = startChild('load.mjs', [url, name, String(deadlineMs)], { API_KEY_MASTER_KEY: masterKey })
  const tokens: HandedOut[] = []
  const failures: FailedCall[] = []
  const waiting = new Set<() => void>()
  let slowestMs = 0
  let end: Error | null = null
  const wake = () => {
    for (const check of [...waiting]) check()
  }
  const take = (line: string) => {
    const report = parse(line)
    if (report === null) return
    slowestMs = Math.max(slowestMs, report.storeMs)
    if ('token' in report) tokens.push(report)
    else failures.push(report)
    wake()
  }
  try {
    expect(await child.line()).toBe('ready')
  } catch (error) {
    child.kill()
    throw error
  }
  const reading = (async () => {
    try {
      for (;;) take(await child.line())
    } catch (error) {
      end = error as Error
      wake()
    }
  })()
  const until = (isTrue: () => boolean) =>
    new Promise<void>((resolve, reject) => {
      const check = () => {
        if (!isTrue() && end === null) return
        waiting.delete(check)
        if (isTrue()) resolve()
        else reject(end)
      }
      waiting.add(check)
      check()
    })
  return {
    tokens,
    failures,
    get slowestMs() {
      return slowestMs
    },
    moreTokens(count) {
      const wanted = tokens.length + count
      return until(() => tokens.length >= wanted)
    },
    moreFailures(count) {
      const wanted = failures.length + count
      return until(() => failures.length >= wanted)
    },
    async stop() {
      expect(await child.ended()).toEqual({ code: 0, stderr: '' })
      await reading
    },
    async kill() {
      child.kill()
      await child.ended()
      await reading
    },
  }
}

/** Null of a line that a kill has cut off. */
function parse(line: string): ((HandedOut | FailedCall) & { readonly storeMs: number }) | null {
  try {
    return JSON.parse(line)
  } catch {
    return null
  }
}

/** For the machine on which tests run: its processes get no processor for seconds at times. */
const MARGIN_MS = 10_000

/**
 * Expects of processes that have ended: every token opens to its plaintext, a user's versions are 1 and those that follow, each once, what
 * failed may be called again, and no call of the store took longer than its deadline.
 *
 * @returns counts, for a line of the report
 */
export async function expectConsistent(loads: readonly Load[], options: Omit<LoadOptions, 'name'>) {
  const { url, masterKey, deadlineMs } = options
  const tokens = loads.flatMap((load) => load.tokens)
  const failures = loads.flatMap((load) => load.failures)
  expect(failures.filter(({ code, retryable }) => code !== 'ERR_STORE' || !retryable)).toEqual([])
  const slowestMs = Math.max(...loads.map((load) => load.slowestMs))
  expect(slowestMs).toBeLessThan(deadlineMs + MARGIN_MS)
  expect(await unopened(url, localMasterKey(masterKey), tokens)).toEqual([])
  const versions = new Map<string, number[]>()
  for (const { userId, version } of await withStore(url, rowsOf))
    versions.set(userId, [...(versions.get(userId) ?? []), version])
  for (const [userId, found] of versions) expect(found, userId).toEqual(found.map((_, index) => index + 1))
  for (const { userId } of tokens) expect(versions.has(userId), userId).toBe(true)
  return `${tokens.length} tokens of ${versions.size} users, ${failures.length} refused calls, slowest ${slowestMs} ms`
}
