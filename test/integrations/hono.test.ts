/** keystoreScope in real Hono applications: whose scope a request is handled in, and what is outside of it. */
import { eq } from 'drizzle-orm'
import { Hono } from 'hono'
import { createMiddleware } from 'hono/factory'
import { stream, streamText } from 'hono/streaming'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { KeystoreError } from '../../src/index.js'
import { keystoreScope } from '../../src/integrations/hono.js'
import { dialects } from '../support/databases.js'
import { ofEachTest } from '../support/each-test.js'
import { freshService } from '../support/fresh-store.js'
import { type HostApp, hostApp } from '../support/host-app.js'

type Env = { Variables: { session: { userId: string } | null } }

/** Stands for the application's own: here a cookie is the user's name. */
const sessions = createMiddleware<Env>(async (c, next) => {
  const userId = /session=(\w+)/.exec(c.req.header('cookie') ?? '')?.[1]
  c.set('session', userId === undefined ? null : { userId })
  await next()
})

describe.each(dialects)('keystoreScope on %s', (dialect) => {
  let host: HostApp
  let app: Hono<Env>
  let later: Promise<string>
  beforeEach(async () => {
    host = await hostApp(dialect)
    const { db, envelope, schema } = host
    const { secrets } = schema
    app = new Hono<Env>()
    app.use(sessions)
    app.use(keystoreScope(envelope, (c) => c.get('session')?.userId))
    const notes = (c: { get(name: 'session'): { userId: string } | null }) =>
      db
        .select({ note: secrets.note })
        .from(secrets)
        .where(eq(secrets.ownerId, c.get('session')?.userId ?? 'alice'))
    app.post('/notes/:id', async (c) => {
      const ownerId = c.get('session')?.userId ?? 'alice'
      await db.insert(secrets).values({ id: Number(c.req.param('id')), ownerId, note: await c.req.text() })
      return c.body(null, 204)
    })
    app.get('/notes', async (c) => c.json((await notes(c)).map(({ note }) => note)))
    app.get('/all', async (c) => c.json(await db.select({ note: secrets.note }).from(secrets)))
    app.get('/stream', (c) =>
      stream(c, async (out) => {
        await new Promise((resolve) => setTimeout(resolve, 20))
        for (const { note } of await notes(c)) await out.write(`${note}\n`)
      }),
    )
    app.get('/text', (c) =>
      streamText(c, async (out) => {
        for (const { note } of await notes(c)) await out.writeln(String(note))
      }),
    )
    app.get('/pull', (c) => {
      const pull = async (controller: ReadableStreamDefaultController<Uint8Array>) => {
        const text = await notes(c).then(
          ([row]) => row?.note,
          (error) => codeOf(error),
        )
        controller.enqueue(new TextEncoder().encode(String(text)))
        controller.close()
      }
      return c.body(new ReadableStream({ pull }, { highWaterMark: 0 }))
    })
    app.get('/later', (c) => {
      const read = new Promise((resolve) => setTimeout(resolve, 20)).then(() => notes(c))
      later = read.then(JSON.stringify, codeOf)
      return c.text('ok')
    })
    app.onError((error, c) => c.text(codeOf(error), 500))
  })
  afterEach(() => host.close())

  const as = async (user: string | null, path: string, init: RequestInit = {}) => {
    const headers: Record<string, string> = user === null ? {} : { cookie: `session=${user}` }
    const response = await app.request(path, { ...init, headers })
    return `${response.status} ${await response.text()}`
  }
  const write = (user: string | null, id: number, body: string) =>
    as(user, `/notes/${id}`, { method: 'POST', body })

  it('handles each request in the scope of its user', async () => {
    expect(await write('alice', 1, 'of alice')).toBe('204 ')
    expect(await write('bob', 2, 'of bob')).toBe('204 ')
    for (const { note } of await host.rows('select note from secrets')) expect(note).toMatch(/^v3:/)
    expect(await as('alice', '/notes')).toBe('200 ["of alice"]')
    expect(await as('bob', '/notes')).toBe('200 ["of bob"]')
    // A handler that forgets its condition.
    expect(await as('bob', '/all')).toBe('500 ERR_DECRYPTION_FAILED')
  })

  it('opens no scope if nobody is signed in', async () => {
    await write('alice', 1, 'of alice')
    expect(await write(null, 2, 'x')).toBe('500 ERR_NO_SCOPE')
    expect(await as(null, '/notes')).toBe('500 ERR_NO_SCOPE')
    expect(await host.rows('select id from secrets')).toHaveLength(1)
  })

  it('keeps 40 concurrent requests apart', async () => {
    const users = ['alice', 'bob']
    await Promise.all(
      Array.from({ length: 40 }, (_, id) => write(users[id % 2] ?? '', id, `of ${users[id % 2]}`)),
    )
    for (const user of users) {
      const [, body = ''] = /^200 (.*)$/.exec(await as(user, '/notes')) ?? []
      expect(JSON.parse(body)).toEqual(Array.from({ length: 20 }, () => `of ${user}`))
    }
  })

  it('covers what a handler begins, as streams of Hono’s helpers, and not what a reader pulls later', async () => {
    await write('alice', 1, 'of alice')
    expect(await as('alice', '/stream')).toBe('200 of alice\n')
    expect(await as('alice', '/text')).toBe('200 of alice\n')
    expect(await as('alice', '/pull')).toBe('200 ERR_NO_SCOPE')
    expect(await as('alice', '/later')).toBe('200 ok')
    expect(await later).toBe('[{"note":"of alice"}]')
  })

  it('hands on what becomes of values that cannot be read', async () => {
    await write('alice', 1, 'of alice')
    await host.rows('update secrets set note = made')
    expect(await as('alice', '/notes')).toBe('500 ERR_DECRYPTION_FAILED')
    const lenient = new Hono<Env>()
    lenient.use(
      sessions,
      keystoreScope(host.envelope, (c) => c.get('session')?.userId, { onUnreadable: 'null' }),
    )
    lenient.get('/notes', async (c) =>
      c.json(await host.db.select({ note: host.schema.secrets.note }).from(host.schema.secrets)),
    )
    const response = await lenient.request('/notes', { headers: { cookie: 'session=alice' } })
    expect(await response.json()).toEqual([{ note: null }])
  })
})

describe('keystoreScope', () => {
  const envelope = ofEachTest(async () => {
    const service = await freshService()
    return Object.assign(service, { remove: () => service.close() })
  })

  it('waits for who the user is, and fails as a handler does if that cannot be told', async () => {
    const app = new Hono<{ Variables: { userId: string } }>()
    const session = async (token: string | undefined) => {
      if (token === 'down') throw new Error('the session store is down')
      return token ?? null
    }
    app.use(keystoreScope(envelope, (c) => session(c.req.header('authorization'))))
    app.get('/', (c) => c.text('ok'))
    app.onError((error, c) => c.text((error as KeystoreError).code ?? error.message, 500))
    const as = async (authorization?: string) => {
      const response = await app.request(
        '/',
        authorization === undefined ? {} : { headers: { authorization } },
      )
      return response.text()
    }
    expect([await as('alice'), await as(), await as('down'), await as('')]).toEqual([
      'ok',
      'ok',
      'the session store is down',
      'ERR_INVALID_ARGUMENT',
    ])
  })

  it('refuses arguments that it cannot use', () => {
    const refused = expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' })
    expect(() => keystoreScope({} as never, () => 'alice')).toThrow(refused)
    expect(() => keystoreScope(envelope, 'alice' as never)).toThrow(refused)
  })
})

/** The code of an error, which Drizzle wraps. */
function codeOf(error: unknown): string {
  for (let at = error; at instanceof Error; at = at.cause as Error)
    if ('code' in at && String(at.code).startsWith('ERR_')) return String(at.code)
  return String(error)
}
