/** Which ranges processes choose that know nothing of each other: together everything, and little of it twice. */
import { describe, expect, it } from 'vitest'
import { type Stretch, WorkRanges } from '../../src/lifecycle/work-ranges.js'

/** Reproducible numbers from 0 up to 1. */
function randomFrom(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}

/**
 * Several processes, which take turns. Each has read, and not yet written, its last three stretches.
 *
 * @param killed after so many turns the first process is gone
 */
function simulate(
  processes: number,
  count: number,
  most: number,
  seed: number,
  killed = Number.POSITIVE_INFINITY,
) {
  const random = randomFrom(seed)
  const done = Array.from({ length: count }, () => false)
  let work = 0
  const workers = Array.from({ length: processes }, () => ({
    ranges: new WorkRanges(count, { most, random }),
    unwritten: [] as Stretch[],
    isAtWork: true,
  }))
  const write = (stretch: Stretch | undefined) => stretch && done.fill(true, stretch.from, stretch.to)
  for (let turn = 0; workers.some(({ isAtWork }) => isAtWork); turn++) {
    if (turn > 100 * count) throw new Error('it does not end')
    for (const [index, worker] of workers.entries()) {
      if (!worker.isAtWork || random() < 0.2) continue
      if (index === 0 && turn >= killed) worker.isAtWork = false
      else {
        const { ranges, unwritten } = worker
        for (;;) {
          const stretch = ranges.next()
          if (stretch === null) {
            for (const one of unwritten) write(one)
            worker.isAtWork = false
            break
          }
          const left = done.slice(stretch.from, stretch.to).filter((isDone) => !isDone).length
          const isBegun = stretch.isNew && done[stretch.from] === true
          if (left > 0 && isBegun) ranges.leave(stretch)
          else {
            ranges.done(stretch)
            if (left > 0) {
              work += left
              unwritten.push(stretch)
              if (unwritten.length > 3) write(unwritten.shift())
              break
            }
            if (isBegun) ranges.jump()
          }
        }
      }
    }
  }
  return { work, missing: done.filter((isDone) => !isDone).length }
}

describe('WorkRanges', () => {
  it.each([1, 2, 3, 7, 100])('gives one process each of %i ranges once', (count) => {
    for (let seed = 0; seed < 5; seed++)
      for (const most of [1, 4, 50])
        expect(simulate(1, count, most, seed)).toEqual({ work: count, missing: 0 })
  })

  it.each([2, 4])('has %i processes do everything, and little of it twice', (processes) => {
    let [work, total] = [0, 0]
    for (let seed = 0; seed < 10; seed++) {
      const result = simulate(processes, 1000, 4, seed)
      expect(result.missing).toBe(0)
      work += result.work
      total += 1000
    }
    expect(work / total).toBeLessThan(processes === 4 ? 1.12 : 1.05)
  })

  it('does what a process left that was killed', () => {
    for (let seed = 0; seed < 50; seed++) expect(simulate(2, 300, 4, seed, 10 + seed).missing).toBe(0)
  })

  it('gives what was left again, one range at a time, after all others', () => {
    const ranges = new WorkRanges(10, { most: 4, random: () => 0 })
    const first = ranges.next()
    if (first === null) throw new Error('none')
    ranges.leave(first)
    const taken: number[] = []
    const again: number[] = []
    for (let next = ranges.next(); next !== null; next = ranges.next()) {
      for (let i = next.from; i < next.to; i++) (next.isNew ? taken : again).push(i)
      if (again.length > 0) expect(taken).toHaveLength(10 - (first.to - first.from))
      ranges.done(next)
    }
    expect([...taken, ...again].sort((a, b) => a - b)).toEqual(Array.from({ length: 10 }, (_, i) => i))
  })

  it('gives ranges with work first, and each range once', () => {
    for (let seed = 0; seed < 20; seed++) {
      const random = randomFrom(seed)
      const busy = new Set(Array.from({ length: 1 + (seed % 5) }, () => Math.floor(random() * 100)))
      const ranges = new WorkRanges(100, {
        most: 2,
        mostIdle: 30,
        isBusy: (range) => busy.has(range),
        random,
      })
      const taken: number[] = []
      let idleStretches = 0
      for (let next = ranges.next(); next !== null; next = ranges.next()) {
        if (taken.length >= busy.size) idleStretches += 1
        for (let range = next.from; range < next.to; range++) taken.push(range)
        ranges.done(next)
      }
      expect(new Set(taken.slice(0, busy.size))).toEqual(busy)
      expect(taken.sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, range) => range))
      expect(idleStretches).toBeLessThan(15)
    }
  })
})
