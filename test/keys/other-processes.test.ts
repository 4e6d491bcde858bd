/** Two processes on one storage: what one rotates, shreds or forgets, the other minds within 2 s, whatever it has in memory. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type ChildScript, startChild } from '../support/child-process.js'
import { type Dialect, dialects, type FreshDatabase, freshDatabase, isChosen } from '../support/databases.js'
import { versionOf } from '../support/tokens.js'

/** What the design promises; a busy machine may stop one of the processes for a while. */
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

let database: FreshDatabase
let children: ChildScript[]
beforeEach(() => {
  children = []
})
afterEach(async () => {
  for (const child of children) child.kill()
  await Promise.all(children.map((child) => child.ended()))
  await database.remove()
})

const env = { API_KEY_MASTER_KEY: randomBytes(32).toString('base64url') }

async function start(storeOptions: object = {}, serviceOptions: object = {}): Promise<Service> {
  const options = [storeOptions, serviceOptions].map((given) => JSON.stringify(given))
  const child = startChild('serve.mjs', [database.url, ...options], env)
  children.push(child)
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

/** How long until `isDone`, at most the promise, in milliseconds. */
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
    database = await freshDatabase(dialect)
    writer = await start()
    other = await start()
  })

  it('a shred reaches encrypt, a cached decrypt, and a handle that nobody has used', MEASURED, async () => {
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

  it('a rotation gives the other’s writes the new version; its handle keeps its own', MEASURED, async () => {
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
  })

  it(
    'a user forgotten and minted anew is written to under the new key; the old handle is dead',
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

  it('once it has read anything: a shred right after the first decrypt', MEASURED, async () => {
    const token = await writer.token('alice')
    expect(await other.ask('decrypt', 'alice', token)).toMatchObject({ ok: true })
    await writer.ask('shred', 'alice')
    const time = await timeUntil(async () => isShredded(await other.ask('decrypt', 'alice', token)))
    expect(time).toBeLessThan(SOON_MS)
  })
})

/** Whoever begins to listen is told of everything at once, which would prove nothing: until that is over. */
const settled = (dialect: Dialect) => sleep(dialect === 'postgres' ? 500 : 1100)

describe('while notifications are down', () => {
  const ttlMs = 700

  it.runIf(isChosen('postgres'))(
    'ttlMs bounds how long a shred goes unseen, and an event says so',
    async () => {
      database = await freshDatabase('postgres')
      const writer = await start()
      const deaf = await start({ listenUrl: false }, { cache: { ttlMs } })
      const token = await writer.token('alice')
      expect(await deaf.ask('decrypt', 'alice', token)).toMatchObject({ ok: true })
      const begun = performance.now()
      await writer.ask('shred', 'alice')
      // Nobody tells it: it goes on with what it has.
      const first = await deaf.ask('decrypt', 'alice', token)
      if (performance.now() - begun < ttlMs / 2) expect(first).toMatchObject({ ok: true })
      const time = await timeUntil(async () => isShredded(await deaf.ask('decrypt', 'alice', token)))
      expect(time).toBeLessThan(ttlMs + 500)
      const { value } = await deaf.ask('events')
      expect(value).toContainEqual({ type: 'changesSilent', reason: expect.any(String) })
    },
  )

  it.runIf(isChosen('sqlite'))('the same where SQLite is asked too seldom', async () => {
    database = await freshDatabase('sqlite')
    const writer = await start()
    const seldom = await start({ pollMs: 600_000 }, { cache: { ttlMs } })
    const token = await writer.token('alice')
    await seldom.ask('hold', 'alice')
    expect(await seldom.ask('decrypt', 'alice', token)).toMatchObject({ ok: true })
    await writer.ask('shred', 'alice')
    const time = await timeUntil(async () => isShredded(await seldom.ask('decrypt', 'alice', token)))
    expect(time).toBeLessThan(ttlMs + 500)
    // What the store's rows have shown ends the handle, too.
    expect(isShredded(await seldom.ask('useHandle', 'alice'))).toBe(true)
  })
})
