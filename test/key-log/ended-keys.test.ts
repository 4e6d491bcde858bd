/** Which keys that are gone a key log says to have ended. */
import { execFileSync } from 'node:child_process'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it, vi } from 'vitest'
import { endedKeysIn } from '../../src/key-log/ended-keys.js'
import { ofEachTest } from '../support/each-test.js'
import { errorOf } from '../support/errors.js'
import { freshKeyLog, madeLine, shredLine } from '../support/key-log-file.js'
import { userIds } from '../support/users.js'

const at = new Date('2026-01-02T03:04:05.678Z')
const later = new Date('2026-02-02T03:04:05.678Z')
const keyOf = (userId: string, createdAt = at) => ({ userId, version: 1, createdAt })

describe('endedKeysIn', () => {
  const log = ofEachTest(freshKeyLog)

  it('reads the log once for all keys that are asked for together', async () => {
    const users = userIds(300)
    log.write(
      users
        .map((userId, i) => madeLine(userId, at) + (i % 2 === 0 ? shredLine(userId, later, true) : ''))
        .join(''),
    )
    const handle = await open(log.path)
    const reading = vi.spyOn(Object.getPrototypeOf(handle), 'read')
    await handle.close()
    const hasEnded = endedKeysIn(log.path)
    const ended = await Promise.all(users.map((userId) => hasEnded(keyOf(userId))))
    const reads = reading.mock.calls.length
    reading.mockRestore()
    expect(ended).toEqual(users.map((_, i) => i % 2 === 0))
    expect(reads).toBeLessThan(10)
    expect(await hasEnded(keyOf(users[1] as string))).toBe(false)
  })

  it('tells a key from those that its user had before and after', async () => {
    const given = { event: 'lost', userId: 'eve', version: 1, kekId: null, createdAt: at, at: later }
    log.write(
      madeLine('alice', at) +
        shredLine('alice', later, true) +
        madeLine('alice', later) +
        madeLine('bob', at) +
        shredLine('bob', later, false) +
        madeLine('carol', at) +
        shredLine('carol', later, true, 'shredding') +
        madeLine('frank', at) +
        shredLine('frank', new Date(), true, 'shredding') +
        madeLine('eve', at) +
        `${JSON.stringify(given)}\n` +
        madeLine('', at) +
        shredLine('', later, true),
    )
    const hasEnded = endedKeysIn(log.path)
    const asked = ['alice', 'bob', 'carol', 'dave', 'eve', '', 'frank'].map((userId) => keyOf(userId))
    expect(await Promise.all([...asked, keyOf('alice', later)].map(hasEnded))).toEqual([
      true,
      false,
      // Begun long ago, and not finished: it has failed.
      false,
      false,
      true,
      true,
      // Under way.
      true,
      false,
    ])
  })

  it('fails for all who ask if the log cannot be read', async () => {
    log.write('no line\n')
    const hasEnded = endedKeysIn(log.path)
    const errors = await Promise.all(['alice', 'bob'].map((userId) => errorOf(hasEnded(keyOf(userId)))))
    for (const error of errors) expect(error).toMatchObject({ code: 'ERR_STORE' })
    log.write(madeLine('alice', at) + shredLine('alice', later, true))
    expect(await hasEnded(keyOf('alice'))).toBe(true)
  })

  /** Lets the time of all timers pass, but for what else happens in between. */
  async function errorInTime(work: Promise<unknown>): Promise<Error> {
    let isOver = false
    const failing = errorOf(work).finally(() => {
      isOver = true
    })
    for (let tries = 0; tries < 1000 && !isOver; tries++) {
      await vi.advanceTimersByTimeAsync(100)
      await new Promise((resolve) => setImmediate(resolve))
    }
    return failing
  }

  const TOO_LATE = { code: 'ERR_STORE', retryable: true, message: expect.stringContaining('ETIMEDOUT') }

  it('a log that cannot be opened in time is ERR_STORE', async () => {
    const pipe = join(log.folder, 'pipe.jsonl')
    execFileSync('mkfifo', [pipe])
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const error = await errorInTime(endedKeysIn(pipe)(keyOf('alice')))
    vi.useRealTimers()
    expect(error).toMatchObject(TOO_LATE)
    // Lets the thread go that waits for a writer.
    await (await open(pipe, 'w')).close()
  })

  it('a log that cannot be read in time is ERR_STORE', async () => {
    log.write(madeLine('alice', at))
    const handle = await open(log.path)
    const reading = vi.spyOn(Object.getPrototypeOf(handle), 'read')
    await handle.close()
    reading.mockReturnValue(new Promise(() => undefined))
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const error = await errorInTime(endedKeysIn(log.path)(keyOf('alice')))
    vi.useRealTimers()
    reading.mockRestore()
    expect(error).toMatchObject(TOO_LATE)
  })
})
