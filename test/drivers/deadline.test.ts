/** Deadlines: when waiting ends, with which error, and what still counts. */
import { describe, expect, it, vi } from 'vitest'
import { Deadline, DeadlineError } from '../../src/drivers/deadline.js'
import { errorOf } from '../support/errors.js'

const forever = new Promise<never>(() => undefined)
const what = () => 'a bus'

describe('a deadline', () => {
  it('passes on what the operation resolves or rejects with', async () => {
    const deadline = new Deadline(60_000)
    expect(await deadline.wait(Promise.resolve(7), what)).toBe(7)
    const error = new Error('no')
    await expect(deadline.wait(Promise.reject(error), what)).rejects.toBe(error)
    expect(deadline.isOver).toBe(false)
  })

  it('says at its end what was waited for, asked only then', async () => {
    const asked = vi.fn(what)
    const deadline = new Deadline(30)
    const waiting = errorOf(deadline.wait(forever, asked))
    expect(asked).not.toHaveBeenCalled()
    const error = await waiting
    expect(error).toBeInstanceOf(DeadlineError)
    expect(error.message).toBe('waited 30 ms for a bus')
    expect([deadline.isOver, deadline.remainingMs <= 0]).toEqual([true, true])
  })

  it('is shared by all that a call waits for', async () => {
    const deadline = new Deadline(50)
    await errorOf(deadline.wait(forever, what))
    const begun = performance.now()
    await expect(deadline.wait(forever, what)).rejects.toThrow('waited 50 ms for a bus')
    expect(performance.now() - begun).toBeLessThan(5000)
  })

  it('counts an answer that arrived while the process was busy beyond the end', async () => {
    const deadline = new Deadline(20)
    const answered = deadline.wait(new Promise((resolve) => setImmediate(() => resolve('there'))), what)
    const end = performance.now() + 60
    while (performance.now() < end);
    // Timers come before the rest of a turn of the event loop.
    await expect(Promise.race([answered, forever])).resolves.toBe('there')
  })

  it('goes on when it is extended', async () => {
    const deadline = new Deadline(80)
    let over = false
    const waiting = errorOf(deadline.wait(forever, what)).then(() => {
      over = true
    })
    await new Promise((resolve) => setTimeout(resolve, 40))
    deadline.extend()
    const remaining = deadline.remainingMs
    expect(remaining).toBeGreaterThan(40)
    await waiting
    expect(over).toBe(true)
    expect(deadline.isOver).toBe(true)
  })

  it('can be aborted: what waits and what will wait ends with that error', async () => {
    const deadline = new Deadline(60_000)
    const closed = new Error('closed')
    const waiting = [deadline.wait(forever, what), deadline.wait(forever, what)]
    deadline.abort(closed)
    for (const each of waiting) await expect(each).rejects.toBe(closed)
    await expect(deadline.wait(Promise.reject(new Error('unheard')), what)).rejects.toBe(closed)
    expect(deadline.isOver).toBe(true)
  })

  it('may be longer than the longest timer', async () => {
    for (const ms of [2 ** 40, Number.POSITIVE_INFINITY]) {
      const deadline = new Deadline(ms)
      expect(await deadline.wait(new Promise((resolve) => setTimeout(resolve, 20, 'kept')), what)).toBe(
        'kept',
      )
      expect(deadline.isOver).toBe(false)
    }
  })
})
