/** Child processes killed with SIGKILL at random moments of their work; how many kills, of how much work. */
import { randomInt } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'better-sqlite3'
import fc from 'fast-check'
import { expect } from 'vitest'
import type { ChildScript } from './child-process.js'
import { slow } from './slow.js'

export const KILLS = slow ? 20 : 3
export const KEYS = slow ? 20_000 : 2_000
/** Rows of a page of the work that is killed: small, so that it has many pages and a kill can meet it anywhere. */
export const BATCH_SIZE = slow ? 100 : 50
export const TIMEOUT_MS = slow ? 3_600_000 : 300_000

export interface KillMoment {
  /** Lines of progress that the child has printed by then. */
  readonly lines: number
  /** Milliseconds after the last of them. */
  readonly ms: number
}

/** The seed of this run's moments: `KILL_SEED=… npx vitest run …` repeats them. */
export const seed = Number(process.env.KILL_SEED ?? randomInt(2 ** 31))

/**
 * Chooses the moments of several kills.
 *
 * @param lines the most lines of progress between two kills: so few that all kills come before the work is done
 * @param startsOver whether a child that is started again prints lines for work that is already done
 */
export function killMoments(count: number, lines: number, startsOver = false): KillMoment[] {
  const moment = fc.record({ lines: fc.integer({ min: 1, max: lines }), ms: fc.nat(10) })
  return fc
    .sample(moment, { numRuns: count, seed })
    .map(({ lines: more, ms }, index) => ({ lines: more + (startsOver ? index * lines : 0), ms }))
}

/**
 * Kills a child that prints lines of progress, and JSON at its end.
 *
 * @returns whether it was still at work
 * @throws what it wrote to stderr, if it failed by itself
 */
export async function killAt(child: ChildScript, moment: KillMoment): Promise<boolean> {
  const printed: string[] = []
  while (printed.length < moment.lines && !printed.some(isReport)) printed.push(await child.line())
  await sleep(moment.ms)
  child.kill()
  printed.push(...(await child.rest()))
  const { code, stderr } = await child.ended()
  // A killed process has no exit code.
  if (code !== null && code !== 0) throw new Error(stderr)
  return !printed.some(isReport)
}

/** Starts rewraps of {@link KEYS} keys one after the other, and kills each. @returns how many were still at work */
export async function killRewraps(url: string, start: () => ChildScript): Promise<number> {
  let hits = 0
  for (const moment of killMoments(KILLS, Math.floor(KEYS / BATCH_SIZE / (KILLS + 1)))) {
    const rewrap = start()
    rewrap.send('go')
    if (await killAt(rewrap, moment)) hits += 1
    expectSound(url)
  }
  return hits
}

function isReport(line: string): boolean {
  return line.startsWith('{')
}

/** Expects that SQLite finds nothing wrong with its file. A Postgres server was not killed, so there is nothing to check. */
export function expectSound(url: string): void {
  if (url.startsWith('postgres')) return
  const client = new Database(url, { fileMustExist: true, timeout: 60_000 })
  try {
    expect(client.pragma('integrity_check', { simple: true })).toBe('ok')
  } finally {
    client.close()
  }
}
