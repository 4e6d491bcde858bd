/** What a careful developer would try against the application, on both databases. */

import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  cleanEnvironment,
  DIST,
  LIBRARY,
  startApplication,
  type TestApplication,
} from './support/application.js'
import { Client, PASSWORD } from './support/client.js'
import { dialects } from './support/databases.js'
import { startProvider, type TestProvider } from './support/provider.js'

const newKey = () => `sk-test-${randomBytes(24).toString('hex')}`
let counter = 0
const newEmail = () => `person${++counter}@example.com`

describe.each(dialects)('the application on %s', (dialect) => {
  let app: TestApplication
  let provider: TestProvider
  const client = () => new Client(app.origin)

  beforeAll(async () => {
    provider = await startProvider()
    app = await startApplication(dialect, {
      PROVIDER_OPENAI_URL: provider.url,
      PROVIDER_ANTHROPIC_URL: provider.url,
    })
  })
  afterAll(async () => {
    await app?.remove()
    await provider?.remove()
  })

  it('sends strict headers with every page, and lets no cache keep them', async () => {
    const alice = await client().signUp(newEmail())
    for (const path of ['/sign-in', '/keys', '/account', '/account/export', '/nothing', '/health']) {
      const { headers, text } = await alice.get(path)
      const policy = headers.get('content-security-policy') ?? ''
      expect(policy).toContain("default-src 'none'")
      expect(policy).toContain("form-action 'self'")
      expect(policy).toContain("frame-ancestors 'none'")
      expect(policy).not.toContain('unsafe')
      expect(headers.get('cache-control')).toBe('no-store')
      expect(headers.get('x-content-type-options')).toBe('nosniff')
      expect(headers.get('x-frame-options')).toBe('DENY')
      expect(headers.get('referrer-policy')).toBe('same-origin')
      expect(headers.get('cross-origin-opener-policy')).toBe('same-origin')
      expect(headers.get('x-powered-by')).toBeNull()
      expect(text).not.toMatch(/<style|\sstyle=|\son\w+=|<script(?! src="\/static\/)/i)
    }
  })

  it('refuses a form of another site, of no site, of another type, without its token and with that of another session', async () => {
    const alice = await client().signUp(newEmail())
    const mallory = await client().signUp(newEmail())
    const csrf = await alice.csrfToken()
    const fields = { provider: 'openai', label: 'Planted', apiKey: newKey() }
    const statuses = [
      await alice.send('/keys', { ...fields, csrf }, { origin: 'https://evil.example' }),
      await alice.send('/keys', { ...fields, csrf }, { origin: 'null' }),
      await alice.send(
        '/keys',
        { ...fields, csrf },
        { origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' },
      ),
      await alice.send(
        '/keys',
        { ...fields, csrf },
        { origin: 'https://evil.example', 'sec-fetch-site': 'same-site' },
      ),
      await alice.request('/keys', {
        method: 'POST',
        body: new URLSearchParams({ ...fields, csrf }),
        headers: { 'content-type': 'application/x-www-form-urlencoded' },
      }),
      await alice.send('/keys', fields),
      await alice.send('/keys', { ...fields, csrf: await mallory.csrfToken() }),
      await alice.send('/sign-out', {}, { origin: 'https://evil.example' }),
      await client().send(
        '/sign-in',
        { email: newEmail(), password: PASSWORD },
        { origin: 'https://evil.example' },
      ),
    ].map(({ status }) => status)
    expect(statuses).toEqual(statuses.map(() => 403))
    const json = { method: 'POST', body: JSON.stringify({ ...fields, csrf }) }
    for (const type of ['application/json', 'text/plain', 'multipart/form-data; boundary=x']) {
      const { status } = await alice.request('/keys', {
        ...json,
        headers: { 'content-type': type, origin: app.origin },
      })
      expect(status).toBe(415)
    }
    expect(await alice.keyIds()).toEqual([])
    expect((await alice.get('/keys')).status).toBe(200)
  })

  it('gives a new session at each sign-in, and takes none that was planted before', async () => {
    const email = newEmail()
    const alice = await client().signUp(email)
    const [name = '', first = ''] = [...alice.cookies][0] ?? []
    expect(name).toContain('session_token')

    const victim = client()
    victim.cookies.set(name, 'planted.by-somebody')
    expect((await victim.send('/sign-in', { email, password: PASSWORD })).status).toBe(303)
    expect(victim.cookies.get(name)).not.toBe('planted.by-somebody')
    expect(victim.cookies.get(name)).not.toBe(first)
    const planted = client()
    planted.cookies.set(name, 'planted.by-somebody')
    expect((await planted.get('/keys')).status).toBe(303)

    // Who signs out is out: the cookie is of no more use to who has copied it.
    const copied = new Map(victim.cookies)
    await victim.post('/sign-out')
    const thief = client()
    for (const [key, value] of copied) thief.cookies.set(key, value)
    expect((await thief.get('/keys')).status).toBe(303)
    expect((await alice.get('/keys')).status).toBe(200)
  })

  it('limits the attempts to sign in from one address, whatever the client says of itself', async () => {
    await app.restart({ TRUST_PROXY: 'false' })
    const email = newEmail()
    const guesser = client()
    const statuses = []
    for (let attempt = 0; attempt < 7; attempt++) {
      const headers = {
        'x-forwarded-for': `192.0.2.${attempt}`,
        'x-byok-client-address': `192.0.2.${attempt}`,
      }
      statuses.push(
        (await guesser.send('/sign-in', { email, password: `guess number ${attempt}` }, headers)).status,
      )
    }
    expect(statuses).toEqual([401, 401, 401, 401, 401, 429, 429])
    // In the database: another process counts on.
    await app.restart({ TRUST_PROXY: 'false' })
    const limited = await guesser.send('/sign-in', { email, password: PASSWORD })
    expect(limited.status).toBe(429)
    expect(Number(limited.headers.get('retry-after'))).toBeGreaterThan(0)
    expect(limited.text).toContain('Too many attempts')
    await app.restart()
  })

  it('has secure cookies and HSTS where it is reached by https, and keeps a key log where one is named', async () => {
    const secure = await startApplication(dialect, {
      PUBLIC_URL: 'https://keys.example.com',
      KEYSTORE_KEY_LOG: 'keys.jsonl',
    })
    try {
      const visitor = new Client(secure.origin)
      const fields = { name: 'Alice', email: newEmail(), password: PASSWORD }
      const { status, headers } = await visitor.send('/sign-up', fields, {
        origin: 'https://keys.example.com',
      })
      expect(status).toBe(303)
      const [cookie = ''] = headers.getSetCookie()
      expect(cookie).toMatch(/^__Secure-/)
      expect(cookie).toMatch(/; Secure/i)
      expect(cookie).toMatch(/; HttpOnly/i)
      expect(cookie).toMatch(/; SameSite=Lax/i)
      expect(headers.get('strict-transport-security')).toContain('max-age=31536000')
      expect((await visitor.get('/keys')).status).toBe(200)
      expect(readFileSync(join(secure.folder, 'keys.jsonl'), 'utf8')).toContain('mint')
    } finally {
      await secure.remove()
    }
  })

  it('shows nobody the keys of another, by whatever id', async () => {
    const alice = await client().signUp(newEmail())
    const mallory = await client().signUp(newEmail())
    const apiKey = newKey()
    provider.known.add(apiKey)
    const id = await alice.addKey(apiKey)
    const asked = provider.requests.length
    const answers = [
      await mallory.get(`/keys/${id}`),
      await mallory.post(`/keys/${id}/check`),
      await mallory.post(`/keys/${id}/replace`, { apiKey: newKey() }),
      await mallory.post(`/keys/${id}/delete`),
      await mallory.get("/keys/' or 1=1 --"),
      await mallory.post(`/keys/${encodeURIComponent("' or 1=1 --")}/delete`),
    ]
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 404))
    expect(provider.requests.length).toBe(asked)
    expect(answers.map(({ text }) => text).join()).not.toContain(apiKey.slice(-4))
    expect(await alice.keyIds()).toEqual([id])
    expect((await alice.post(`/keys/${id}/check`)).headers.get('location')).toBe('/keys?done=works')
    for (const path of ['/keys', `/keys/${id}`, '/account', '/account/export', '/account/delete']) {
      const { status, headers } = await client().get(path)
      expect([path, status, headers.get('location')]).toEqual([path, 303, '/sign-in'])
    }
  })

  it('opens nothing that was moved to another person, another row or another provider in the database', async () => {
    const [alice, mallory] = [await client().signUp(newEmail()), await client().signUp(newEmail())]
    const [first, second, own] = [newKey(), newKey(), newKey()]
    for (const key of [first, second, own]) provider.known.add(key)
    const id = await alice.addKey(first, { label: 'Of Alice' })
    const other = await alice.addKey(second, { provider: 'anthropic', label: 'Of Alice too' })
    const mine = await mallory.addKey(own, { label: 'Of Mallory' })
    const { database } = app
    const [row] = await database.run(
      'select user_id, secret, label, last_four from api_key where id = $1',
      id,
    )
    const [mallorys] = await database.run('select user_id from api_key where id = $1', mine)
    const asked = provider.requests.length

    // Another provider would be sent the key.
    await database.run('update api_key set provider = $1 where id = $2', 'anthropic', id)
    expect((await alice.post(`/keys/${id}/check`)).headers.get('location')).toBe('/keys?done=unreadable')
    await database.run('update api_key set provider = $1 where id = $2', 'openai', id)
    // Another row of the same person.
    await database.run('update api_key set secret = $1 where id = $2', String(row?.secret), other)
    expect((await alice.post(`/keys/${other}/check`)).headers.get('location')).toBe('/keys?done=unreadable')
    // Another person's tokens in one's own row: label, last four and secret.
    await database.run(
      'update api_key set secret = $1, label = $2, last_four = $3 where id = $4',
      String(row?.secret),
      String(row?.label),
      String(row?.last_four),
      mine,
    )
    const list = await mallory.get('/keys')
    expect(list.status).toBe(200)
    expect(list.text).toContain('It cannot be read')
    expect(list.text).not.toContain('Of Alice')
    expect((await mallory.post(`/keys/${mine}/check`)).headers.get('location')).toBe('/keys?done=unreadable')
    // The whole row, taken over.
    await database.run('update api_key set user_id = $1 where id = $2', String(mallorys?.user_id), id)
    const taken = await mallory.get('/keys')
    expect(taken.text).not.toContain('Of Alice')
    expect((await mallory.post(`/keys/${id}/check`)).headers.get('location')).toBe('/keys?done=unreadable')
    expect(provider.requests.length).toBe(asked)
    // What cannot be read can be deleted.
    expect((await mallory.post(`/keys/${id}/delete`)).headers.get('location')).toBe('/keys?done=deleted')
  })

  it('sends keys where it was configured to and nowhere else, and follows no redirect', async () => {
    const alice = await client().signUp(newEmail())
    const apiKey = newKey()
    const fields = { label: 'Mine', apiKey }
    for (const choice of ['http://127.0.0.1/', 'file', '__proto__', '']) {
      expect((await alice.post('/keys', { ...fields, provider: choice })).status).toBe(422)
    }
    const id = await alice.addKey(apiKey)
    const asked = provider.requests.length
    provider.answers = 302
    expect((await alice.post(`/keys/${id}/check`)).headers.get('location')).toBe('/keys?done=unclear')
    provider.answers = null
    expect(provider.requests.slice(asked).map(({ path }) => path)).toEqual(['/v1/models'])
    // A second time at once is not sent at all.
    expect((await alice.post(`/keys/${id}/check`)).headers.get('location')).toBe('/keys?done=soon')
    // What would end a header.
    for (const bad of [
      'short',
      `${newKey()}\r\nx-evil: 1`,
      `${newKey()} and more`,
      `${newKey()}ü`,
      'x'.repeat(600),
    ])
      expect((await alice.post('/keys', { ...fields, provider: 'openai', apiKey: bad })).status).toBe(422)
    expect((await alice.post('/keys', { ...fields, label: 'x'.repeat(20_000) })).status).toBe(413)
  })

  it('shows the operator’s pages to nobody else, and not to who has the operator’s address confirmed', async () => {
    const owner = await client().signUp(newEmail())
    const userId = /<dt>Id<\/dt><dd><code>([^<]+)/.exec((await owner.get('/account')).text)?.[1] ?? ''
    await app.restart({ OPERATOR_USER_ID: userId, OPERATOR_EMAIL: 'owner@example.com' })
    expect((await owner.get('/operator')).status).toBe(200)
    // An attacker signs up with an address of the operator's, who opens the link in the mail.
    const claims = await client().signUp('owner@example.com')
    const link = app.linksTo('owner@example.com').at(-1) ?? ''
    expect((await client().get(link.slice(app.origin.length))).headers.get('location')).toContain('confirmed')
    expect((await claims.get('/account')).text).toContain('>Confirmed<')
    const alice = await client().signUp(newEmail())
    for (const who of [claims, alice, client()])
      for (const path of ['/operator', '/operator/job', '/operator/people/x'])
        expect([path, (await who.get(path)).status]).toEqual([path, 404])
    for (const path of ['/operator/rewrap', '/operator/check', '/operator/stop', '/operator/people/x/shred'])
      expect([path, (await claims.post(path)).status]).toEqual([path, 404])
    expect((await claims.get('/keys')).text).not.toContain('href="/operator"')
    await app.restart()
    expect((await owner.get('/operator')).status).toBe(404)
  })

  it('leaves no more of Better Auth open than a browser has to reach', async () => {
    const alice = await client().signUp(newEmail())
    for (const path of ['get-session', 'list-sessions', 'list-accounts', 'ok', 'error', 'reference'])
      expect([path, (await alice.get(`/api/auth/${path}`)).status]).toEqual([path, 404])
    const json = { 'content-type': 'application/json', origin: app.origin }
    for (const path of ['sign-in/email', 'sign-up/email', 'delete-user', 'update-user', 'get-access-token']) {
      const { status } = await alice.request(`/api/auth/${path}`, {
        method: 'POST',
        body: '{}',
        headers: json,
      })
      expect([path, status]).toEqual([path, 415])
      expect([path, (await alice.send(`/api/auth/${path}`, {})).status]).toEqual([path, 404])
    }
  })

  it('keeps its secrets out of git, with the file that this repository has too', () => {
    const own = readFileSync(join(import.meta.dirname, '..', '.gitignore'), 'utf8')
    expect(readFileSync(join(app.folder, '.gitignore'), 'utf8')).toBe(own)
    for (const name of ['.env', 'keys/', 'data/']) {
      expect(own.split('\n')).toContain(name)
      expect(existsSync(join(app.folder, name))).toBe(true)
    }
  })

  it('is found well by the command `keystore doctor`, which knows its columns by the registry', async () => {
    const alice = await client().signUp(newEmail())
    await alice.addKey(newKey())
    const doctor = () => {
      const args = [
        join(LIBRARY, 'dist/cli/main.js'),
        'doctor',
        '--schema',
        join(DIST, 'registry.js'),
        '--json',
      ]
      const env = {
        ...cleanEnvironment(),
        KEYSTORE_URL: app.database.url,
        DATABASE_URL: app.database.url,
        API_KEY_MASTER_KEY_FILE: join(app.folder, 'keys', 'master.key'),
      }
      const { status, stdout } = spawnSync(process.execPath, args, { cwd: app.folder, env, encoding: 'utf8' })
      return { status, report: stdout }
    }
    expect(doctor().status).toBe(0)
    const [row] = await app.database.run('select id, label from api_key order by created_at desc limit 1')
    await app.database.run(
      'update api_key set fingerprint = $1 where id = $2',
      String(row?.label),
      String(row?.id),
    )
    expect(doctor().report).toContain('fingerprint')
  })

  it('logs no query, no body, no cookie, and of a failing database no parameter', async () => {
    const alice = await client().signUp(newEmail())
    const token = String([...alice.cookies.values()][0]).split('.')[0] ?? ''
    expect(token.length).toBeGreaterThan(20)
    await alice.get('/keys?done=added&secret=in-the-query')
    await app.database.run('alter table session rename to gone')
    const failed = await alice.get('/keys')
    await app.database.run('alter table gone rename to session')
    expect(failed.status).toBe(500)
    expect(failed.text).toContain('Something went wrong')
    expect((await alice.get('/keys')).status).toBe(200)
    const planted = newKey()
    await app.database.run('alter table api_key rename to gone')
    expect(
      (await alice.post('/keys', { provider: 'openai', label: 'In a query', apiKey: planted })).status,
    ).toBe(500)
    await app.database.run('alter table gone rename to api_key')
    const log = app.log()
    expect(log).toContain('path="/keys" status=500')
    expect(log).toMatch(/request\.failed error="(DrizzleQueryError|SqliteError)"/)
    expect(log).not.toMatch(/failed query: \w|params:/i)
    for (const secret of [
      token,
      decodeURIComponent(token),
      'in-the-query',
      PASSWORD,
      planted,
      'In a query',
    ]) {
      expect(log).not.toContain(secret)
      expect(failed.text).not.toContain(secret)
    }
  })
})

describe('without its keys', () => {
  const server = join(import.meta.dirname, '..', 'dist', 'server.js')
  const run = (env: Record<string, string>) => {
    const folder = mkdtempSync(join(tmpdir(), 'byok-bare-'))
    try {
      const { status, stderr } = spawnSync(process.execPath, [server], {
        cwd: folder,
        env: { ...cleanEnvironment(), ...env },
        encoding: 'utf8',
        timeout: 30_000,
      })
      return { status, stderr, madeDatabase: existsSync(join(folder, 'data')) }
    } finally {
      rmSync(folder, { recursive: true })
    }
  }
  const BETTER_AUTH_SECRET = randomBytes(32).toString('hex')

  it('does not start, makes nothing, and says what to do', () => {
    const bare = run({})
    expect(bare).toMatchObject({ status: 1, madeDatabase: false })
    expect(bare.stderr).toContain('npm run setup')
    const withoutMasterKey = run({ BETTER_AUTH_SECRET })
    expect(withoutMasterKey).toMatchObject({ status: 1, madeDatabase: false })
    expect(withoutMasterKey.stderr).toMatch(/API_KEY_MASTER_KEY.*npm run setup/s)
    const API_KEY_MASTER_KEY = randomBytes(32).toString('base64')
    const withoutStore = run({ BETTER_AUTH_SECRET, API_KEY_MASTER_KEY, DATABASE_URL: 'data/mistyped.db' })
    expect(withoutStore).toMatchObject({ status: 1, madeDatabase: false })
    expect(withoutStore.stderr).toContain('npm run setup')
    const weak = run({ BETTER_AUTH_SECRET: 'short-and-guessable', API_KEY_MASTER_KEY })
    expect(weak.status).toBe(1)
    expect(weak.stderr).not.toContain('short-and-guessable')
  })
})
