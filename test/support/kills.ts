/** Kills child processes with -9 at random moments of their work. */
import { randomInt } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'better-sqlite3'
import fc from 'fast-check'
import { expect } from 'vitest'
import type { LineChild } from './line-child.js'
import { slow } from './slow.js'

export const KILLS = slow ? 20 : 3
export const KEYS = slow ? 20_000 : 2_000
/** Rows a page of what is killed: many pages, so that there are many moments. */
export const BATCH_SIZE = slow ? 100 : 50
export const TIMEOUT_MS = slow ? 3_600_000 : 300_000

export interface KillMoment {
  /** Lines of progress that it has printed. */
  readonly lines: number
  /** Milliseconds after the last of them. */
  readonly ms: number
}

/** Where the kills of this run come from: `KILL_SEED=… npx vitest run …` repeats them. */
export const seed = Number(process.env.KILL_SEED ?? randomInt(2 ** 31))

/**
 * @param lines of progress between one kill and the next, at most: so few that all of them come before the work is done
 * @param startsOver whether a child that is started again prints lines for what is done already
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
 * @throws what it wrote to stderr, if it failed
 */
export async function killAt(child: LineChild, moment: KillMoment): Promise<boolean> {
  const printed: string[] = []
  while (printed.length < moment.lines && !printed.some(isReport)) printed.push(await child.line())
  await sleep(moment.ms)
  child.kill()
  printed.push(...(await child.rest()))
  const { code, stderr } = await child.ended()
  // Killed it has none.
  if (code !== null && code !== 0) throw new Error(stderr)
  return !printed.some(isReport)
}

/** Reads on to the end of such a child. @returns its report */
export async function reportOf<T>(child: LineChild): Promise<T> {
  const printed = await child.rest()
  expect(await child.ended()).toEqual({ code: 0, stderr: '' })
  return JSON.parse(printed.at(-1) ?? '') as T
}

function isReport(line: string): boolean {
  return line.startsWith('{')
}

/** A SQLite file opens, and SQLite finds nothing wrong with it; what a Postgres server keeps is no file of ours. */
export function expectSound(url: string): void {
  if (url.startsWith('postgres')) return
  const client = new Database(url, { fileMustExist: true, timeout: 60_000 })
  try {
    expect(client.pragma('integrity_check', { simple: true })).toBe('ok')
  } finally {
    client.close()
  }
}
