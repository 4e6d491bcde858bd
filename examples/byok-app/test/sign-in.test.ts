/** Signing up and in, confirming an address and choosing a new password, as an attacker and a failing database see them. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startApplication, type TestApplication } from './support/application.js'
import { Client, PASSWORD } from './support/client.js'
import { dialects } from './support/databases.js'

let counter = 0
const newEmail = () => `visitor${++counter}@example.com`

describe.each(dialects)('signing in on %s', (dialect) => {
  let app: TestApplication
  const client = () => new Client(app.origin)
  const resetTokenOf = (email: string) =>
    new URL(app.linksTo(email).at(-1) ?? '').searchParams.get('token') ?? ''

  /** Does the work while a table is away, as in a database that fails. */
  async function without<Result>(table: string, work: () => Promise<Result>): Promise<Result> {
    await app.database.run(`alter table ${table} rename to gone`)
    try {
      return await work()
    } finally {
      await app.database.run(`alter table gone rename to ${table}`)
    }
  }

  beforeAll(async () => {
    app = await startApplication(dialect)
  })
  afterAll(async () => {
    await app?.remove()
  })

  it('asks to try again when the database fails, and puts no token, password or hash of one into the log', async () => {
    const email = newEmail()
    await client().signUp(email)
    expect((await client().send('/forgot-password', { email })).status).toBe(200)
    const token = resetTokenOf(email)
    expect(token.length).toBeGreaterThan(20)
    const stranger = newEmail()
    const newPassword = 'a new and long password'
    const failing = {
      verification: () => client().send('/new-password', { token, password: newPassword }),
      account: () => client().send('/new-password', { token, password: newPassword }),
      session: () => client().send('/sign-in', { email, password: PASSWORD }),
      '"user"': () => client().send('/sign-up', { name: 'Stranger', email: stranger, password: newPassword }),
      rate_limit: () => client().send('/forgot-password', { email }),
    }
    for (const [table, send] of Object.entries(failing)) {
      const { status, text } = await without(table, send)
      expect([table, status, text]).toEqual([table, 503, expect.stringContaining('Try again in a minute')])
    }
    // The account itself, which is made after the user.
    const { status } = await without('account', () =>
      client().send('/sign-up', { name: 'Stranger', email: stranger, password: newPassword }),
    )
    expect(status).toBe(503)

    const [row] = await app.database.run('select password from account where password is not null')
    const log = app.log()
    expect(log).toContain('auth.failed error=')
    for (const secret of [token, PASSWORD, newPassword, String(row?.password), stranger])
      expect([secret, log.includes(secret)]).toEqual([secret, false])
    expect(log).not.toMatch(/params:|SERVER_ERROR/)
  })

  it('stores the token that chooses a new password as a hash alone, and takes it once', async () => {
    const email = newEmail()
    await client().signUp(email)
    await client().send('/forgot-password', { email })
    const token = resetTokenOf(email)
    const rows = await app.database.run('select * from verification')
    expect(rows.length).toBeGreaterThan(0)
    expect(JSON.stringify(rows)).not.toContain(token)
    const password = 'a new and long password'
    const statuses = []
    for (let attempt = 0; attempt < 2; attempt++)
      statuses.push((await client().send('/new-password', { token, password })).status)
    expect(statuses).toEqual([303, 422])
    expect((await client().send('/sign-in', { email, password })).status).toBe(303)
  })

  it('limits the attempts on one account from many addresses, and lets in others', async () => {
    const [email, other] = [newEmail(), newEmail()]
    await client().signUp(email)
    await client().signUp(other)
    const statuses = []
    for (let attempt = 0; attempt < 22; attempt++) {
      const typed = attempt % 2 === 0 ? email : ` ${email.toUpperCase()}`
      statuses.push((await client().send('/sign-in', { email: typed, password: 'a wrong guess' })).status)
    }
    expect(statuses).toEqual([...Array(20).fill(401), 429, 429])
    const limited = await client().send('/sign-in', { email, password: PASSWORD })
    expect(limited.status).toBe(429)
    expect(Number(limited.headers.get('retry-after'))).toBeGreaterThan(800)
    expect(limited.text).toContain('Try again in 15 minutes')
    expect((await client().send('/sign-in', { email: other, password: PASSWORD })).status).toBe(303)
    // Whose account is tried is not told by the table.
    expect(JSON.stringify(await app.database.run('select * from rate_limit'))).not.toContain(email)
  })

  it('sends no more than three mails in a minute to confirm an address', async () => {
    const email = newEmail()
    const alice = await client().signUp(email)
    const before = app.linksTo(email).length
    const statuses = []
    for (let attempt = 0; attempt < 5; attempt++) statuses.push((await alice.post('/account/confirm')).status)
    expect(statuses).toEqual([303, 303, 303, 429, 429])
    expect(app.linksTo(email).length).toBe(before + 3)
  })

  it('counts by the address that a proxy tells, with a port or without, and by the peer’s if it tells none', async () => {
    const attempt = async (forwarded: string, count: number) => {
      const statuses = []
      for (let at = 0; at < count; at++) {
        const fields = { email: newEmail(), password: 'a wrong guess' }
        const { status } = await client().send('/sign-in', fields, { 'x-forwarded-for': forwarded })
        statuses.push(status)
      }
      return statuses
    }
    // A port of each connection, of one client.
    expect(await attempt('192.0.2.1:5678', 3)).toEqual([401, 401, 401])
    expect(await attempt('198.51.100.7, 192.0.2.1:91', 2)).toEqual([401, 401])
    expect(await attempt('192.0.2.1', 1)).toEqual([429])
    expect(await attempt('192.0.2.2:5678', 1)).toEqual([401])
    expect(await attempt('[2001:db8::1]:443', 5)).toEqual([401, 401, 401, 401, 401])
    expect(await attempt('2001:db8::1', 1)).toEqual([429])
    expect(await attempt('unknown', 1)).toEqual([401])
    const keys = (await app.database.run('select key from rate_limit')).map(({ key }) => String(key))
    expect(keys.filter((key) => key.startsWith('127.0.0.1|') && key.includes('sign-in'))).toHaveLength(1)
    // Those with a bar name an address; the others are random.
    expect(keys.filter((key) => key.includes('|')).join()).not.toMatch(/no-|unknown/i)
  })

  it('says once that a proxy is not trusted', async () => {
    await app.restart({ TRUST_PROXY: 'false' })
    const begins = app.log().length
    for (let at = 0; at < 3; at++) await client().send('/forgot-password', { email: newEmail() })
    expect(
      app
        .log()
        .slice(begins)
        .match(/proxy\.notTrusted.*TRUST_PROXY=true/g),
    ).toHaveLength(1)
    await app.restart()
  })

  it('takes no name and no address that is too long, empty, or has control characters', async () => {
    const email = newEmail()
    const wrong = [
      [{ email, name: 'x'.repeat(81) }, 'at most 80'],
      [{ email, name: 'Nul\0' }, 'control characters'],
      [{ email, name: ' ' }, 'Say your name'],
      [{ email: `${'x'.repeat(250)}@example.com`, name: 'Long' }, 'at most 254'],
      [{ email: 'nobody', name: 'No address' }, 'not an e-mail address'],
    ] as const
    for (const [fields, message] of wrong) {
      const { status, text } = await client().send('/sign-up', { ...fields, password: PASSWORD })
      expect([fields.name, status, text]).toEqual([fields.name, 422, expect.stringContaining(message)])
    }
    await client().signUp(email, 'x'.repeat(80))
  })

  it('leads from a link that does not work to a page, and shows no JSON', async () => {
    for (const path of ['/api/auth/verify-email', '/api/auth/verify-email?token=x']) {
      const { status, headers } = await client().get(path)
      expect([path, status, headers.get('location')]).toEqual([path, 303, '/sign-in?error=link'])
    }
    expect((await client().get('/sign-in?error=link')).text).toContain('This link does not work any more')
  })
})
