/** Two processes on one storage: when one rotates, shreds or forgets a key, the other follows within 2 s, whatever it has in memory. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { beforeEach, describe, expect, it } from 'vitest'
import { startChild } from '../support/child-process.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { type Dialect, dialects, isChosen } from '../support/databases.js'
import { versionOf } from '../support/tokens.js'

/** The promised bound. A busy machine may stop one of the processes for a while, hence the retries. */
const SOON_MS = 2000
const MEASURED = { retry: 3 }

interface Answer {
  readonly ok: boolean
  readonly value?: unknown
  readonly code?: string
}

interface Service {
  ask(action: string, userId?: string, token?: string): Promise<Answer>
  token(userId: string): Promise<string>
}

const cleanups = cleanUpAfterEach()
let url: string

const env = { API_KEY_MASTER_KEY: randomBytes(32).toString('base64url') }

async function start(storeOptions: object = {}, serviceOptions: object = {}): Promise<Service> {
  const options = [storeOptions, serviceOptions].map((given) => JSON.stringify(given))
  const child = startChild('serve.mjs', [url, ...options], env)
  cleanups.add(async () => {
    child.kill()
    await child.ended()
  })
  expect(await child.line()).toBe('ready')
  const ask = async (action: string, userId?: string, token?: string): Promise<Answer> => {
    child.send(JSON.stringify({ do: action, userId, token }))
    return JSON.parse(await child.line())
  }
  return {
    ask,
    async token(userId) {
      const { ok, value } = await ask('encrypt', userId)
      if (!ok || typeof value !== 'string') throw new Error('not encrypted')
      return value
    },
  }
}

/** Milliseconds until `isDone`; more than {@link SOON_MS} if it takes longer. */
async function timeUntil(isDone: () => Promise<boolean>): Promise<number> {
  const begun = performance.now()
  while (!(await isDone())) {
    if (performance.now() - begun > SOON_MS) break
    await sleep(20)
  }
  return performance.now() - begun
}

const isShredded = ({ code }: Answer) => code === 'ERR_KEY_SHREDDED'

describe.each(dialects)('on %s', (dialect) => {
  let writer: Service
  let other: Service
  beforeEach(async () => {
    url = await cleanups.database(dialect)
    writer = await start()
    other = await start()
  })

  it('a shred reaches encrypt, a cached decrypt, and an unused handle', MEASURED, async () => {
    const token = await writer.token('alice')
    const kept = await writer.token('bob')
    expect(await other.ask('decrypt', 'alice', token)).toEqual({ ok: true, value: 'secret of alice' })
    for (const userId of ['alice', 'bob', 'held']) await other.ask('hold', userId)
    await settled(dialect)

    expect(await writer.ask('shred', 'alice')).toMatchObject({ ok: true })
    expect(await writer.ask('shred', 'held')).toMatchObject({ ok: true })
    const times = [
      await timeUntil(async () => isShredded(await other.ask('decrypt', 'alice', token))),
      await timeUntil(async () => isShredded(await other.ask('encrypt', 'alice'))),
      await timeUntil(async () => isShredded(await other.ask('useHandle', 'held'))),
    ]
    expect(times.reduce((sum, time) => sum + time)).toBeLessThan(SOON_MS)
    expect(isShredded(await other.ask('useHandle', 'alice'))).toBe(true)
    expect(await other.ask('useHandle', 'bob')).toMatchObject({ ok: true })
    expect(await other.ask('decrypt', 'bob', kept)).toEqual({ ok: true, value: 'secret of bob' })
  })

  it(
    'after a rotation the other process writes under the new version; its handle keeps the old one',
    MEASURED,
    async () => {
      const token = await writer.token('alice')
      await other.ask('hold', 'alice')
      expect(versionOf(await other.token('alice'))).toBe(1)
      await settled(dialect)
      expect(await writer.ask('rotate', 'alice')).toMatchObject({ value: { version: 2, rotated: true } })
      const time = await timeUntil(async () => versionOf(await other.token('alice')) === 2)
      expect(time).toBeLessThan(SOON_MS)
      const handled = await other.ask('useHandle', 'alice')
      expect(versionOf(String(handled.value))).toBe(1)
      for (const sealed of [token, String(handled.value), await other.token('alice')])
        expect(await writer.ask('decrypt', 'alice', sealed)).toEqual({ ok: true, value: 'secret of alice' })
    },
  )

  it(
    'after a user was forgotten and minted anew, writes are under the new key, and the old handle has ended',
    MEASURED,
    async () => {
      await writer.token('alice')
      await other.ask('hold', 'alice')
      await other.token('alice')
      await settled(dialect)
      expect(await writer.ask('forget', 'alice')).toMatchObject({ ok: true })
      const fresh = await writer.token('alice')
      const time = await timeUntil(async () => isShredded(await other.ask('useHandle', 'alice')))
      expect(time).toBeLessThan(SOON_MS)
      const written = await other.token('alice')
      expect(await writer.ask('decrypt', 'alice', written)).toMatchObject({ ok: true })
      expect(await other.ask('decrypt', 'alice', fresh)).toMatchObject({ ok: true })
    },
  )

  it('a shred right after the first decrypt counts too', MEASURED, async () => {
    const token = await writer.token('alice')
    expect(await other.ask('decrypt', 'alice', token)).toMatchObject({ ok: true })
    await writer.ask('shred', 'alice')
    const time = await timeUntil(async () => isShredded(await other.ask('decrypt', 'alice', token)))
    expect(time).toBeLessThan(SOON_MS)
  })
})

/** Waits until the first report is over: a new listener is told at once that any row may have changed, which would prove nothing. */
const settled = (dialect: Dialect) => sleep(dialect === 'postgres' ? 500 : 1100)

describe('while notifications are down', () => {
  const ttlMs = 700

  it.runIf(isChosen('postgres'))(
    'a shred counts after ttlMs at the latest, and an event says that changes are not reported',
    async () => {
      url = await cleanups.database('postgres')
      const writer = await start()
      const deaf = await start({ listenUrl: false }, { cache: { ttlMs } })
      const token = await writer.token('alice')
      expect(await deaf.ask('decrypt', 'alice', token)).toMatchObject({ ok: true })
      const begun = performance.now()
      await writer.ask('shred', 'alice')
      // No report comes, so it goes on with the key in memory.
      const first = await deaf.ask('decrypt', 'alice', token)
      if (performance.now() - begun < ttlMs / 2) expect(first).toMatchObject({ ok: true })
      const time = await timeUntil(async () => isShredded(await deaf.ask('decrypt', 'alice', token)))
      expect(time).toBeLessThan(ttlMs + 500)
      const { value } = await deaf.ask('events')
      expect(value).toContainEqual({ type: 'changesSilent', reason: expect.any(String) })
    },
  )

  it.runIf(isChosen('sqlite'))(
    'a shred counts after ttlMs at the latest where SQLite is polled too seldom',
    async () => {
      url = await cleanups.database('sqlite')
      const writer = await start()
      const seldom = await start({ pollMs: 600_000 }, { cache: { ttlMs } })
      const token = await writer.token('alice')
      await seldom.ask('hold', 'alice')
      expect(await seldom.ask('decrypt', 'alice', token)).toMatchObject({ ok: true })
      await writer.ask('shred', 'alice')
      const time = await timeUntil(async () => isShredded(await seldom.ask('decrypt', 'alice', token)))
      expect(time).toBeLessThan(ttlMs + 500)
      // The read that has found the shred ends the handle too.
      expect(isShredded(await seldom.ask('useHandle', 'alice'))).toBe(true)
    },
  )
})
