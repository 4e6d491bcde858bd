/** Retries: which failures are tried again, until when, and how long the waits between attempts are. */
import { afterEach, describe, expect, it, vi } from 'vitest'
import { Deadline } from '../../src/drivers/deadline.js'
import { retrying, retryingPostgres } from '../../src/drivers/retry.js'
import { withLongestStall } from '../support/event-loop.js'

class Transient extends Error {}

const policy: Parameters<typeof retrying>[0] = {
  deadlineMs: 10_000,
  backoff: { firstMs: 2, longestMs: 8 },
  isTransient: (error) => error instanceof Transient,
}

/** An attempt that fails with each of these errors in turn, and then succeeds. */
function failing(...errors: unknown[]) {
  const left = [...errors]
  return vi.fn((_failures?: number) => {
    if (left.length > 0) throw left.shift()
    return 'done'
  })
}

describe('retrying', () => {
  afterEach(() => void vi.restoreAllMocks())

  it('returns what the first attempt that succeeds returns', async () => {
    const attempt = failing(new Transient(), new Transient())
    expect(await retrying(policy, attempt)).toBe('done')
    expect(attempt).toHaveBeenCalledTimes(3)
  })

  it('tells each attempt how many have failed', async () => {
    const attempt = failing(new Transient(), new Transient())
    await retrying(policy, attempt)
    expect(attempt.mock.calls).toEqual([[0], [1], [2]])
  })

  it('takes an attempt that returns a promise, whether it resolves or rejects', async () => {
    const sync = failing(new Transient())
    expect(await retrying(policy, async () => sync())).toBe('done')
    expect(sync).toHaveBeenCalledTimes(2)
  })

  it('throws any other error at once, after a transient one too', async () => {
    const error = new Error('not transient')
    for (const attempt of [failing(error), failing(new Transient(), error)]) {
      await expect(retrying(policy, attempt)).rejects.toBe(error)
      expect(await attempt()).toBe('done')
    }
  })

  it('throws the error of the last attempt at the deadline', async () => {
    const errors: Transient[] = []
    const attempt = () => {
      errors.push(new Transient())
      throw errors.at(-1)
    }
    const begun = performance.now()
    const thrown = await retrying({ ...policy, deadlineMs: 100 }, attempt).catch((error: unknown) => error)
    expect(thrown).toBe(errors.at(-1))
    expect(errors.length).toBeGreaterThan(2)
    expect(performance.now() - begun).toBeLessThan(5000)
  })

  it('makes one attempt though the deadline is 0', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(0.5)
    expect(await retrying({ ...policy, deadlineMs: 0 }, failing())).toBe('done')
    const attempt = failing(new Transient())
    await expect(retrying({ ...policy, deadlineMs: 0 }, attempt)).rejects.toBeInstanceOf(Transient)
    expect(attempt).toHaveBeenCalledTimes(1)
  })

  it('does not begin a wait that would end after the deadline', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(1)
    const begun = performance.now()
    const patient = { ...policy, deadlineMs: 1000, backoff: { firstMs: 60_000, longestMs: 60_000 } }
    await expect(retrying(patient, failing(new Transient()))).rejects.toBeInstanceOf(Transient)
    expect(performance.now() - begun).toBeLessThan(900)
  })

  it('doubles the bound of the wait up to the longest, and waits a random part of it', async () => {
    const waits: number[] = []
    vi.doMock('node:timers/promises', () => ({ setTimeout: async (ms: number) => void waits.push(ms) }))
    vi.resetModules()
    const fresh = await import('../../src/drivers/retry.js')
    vi.doUnmock('node:timers/promises')
    vi.resetModules()
    for (const random of [1, 0.25]) {
      vi.spyOn(Math, 'random').mockReturnValue(random)
      expect(await fresh.retrying(policy, failing(...Array.from({ length: 5 }, () => new Transient())))).toBe(
        'done',
      )
      expect(waits.splice(0)).toEqual([2, 4, 8, 8, 8].map((bound) => bound * random))
    }
  })

  it('leaves the event loop free while it waits', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(1)
    const slow = { ...policy, backoff: { firstMs: 300, longestMs: 300 } }
    const { stallMs } = await withLongestStall(() => retrying(slow, failing(new Transient())))
    expect(stallMs).toBeLessThan(200)
  })
})

describe('retryingPostgres', () => {
  const lost = () => new Error('Connection terminated unexpectedly')

  it('is over at the deadline of the call, however many attempts there were', async () => {
    const attempts: number[] = []
    const deadline = new Deadline(150)
    await expect(
      retryingPostgres(deadline, async (failures) => {
        attempts.push(failures)
        throw lost()
      }),
    ).rejects.toThrow('Connection terminated unexpectedly')
    expect(attempts.length).toBeGreaterThan(1)
    expect(attempts).toEqual(attempts.map((_, index) => index))
  })

  it('says why the attempts before the last one failed, if the deadline cut that one off', async () => {
    const deadline = new Deadline(60)
    const attempt = async (failures: number) => {
      if (failures === 0) throw lost()
      // As Drizzle does.
      return deadline
        .wait(new Promise<never>(() => undefined), () => 'an answer')
        .catch((cause) => {
          throw new Error('Failed query', { cause })
        })
    }
    await expect(retryingPostgres(deadline, attempt)).rejects.toThrow(
      'waited 60 ms for an answer; before that: Connection terminated unexpectedly',
    )
  })
})
