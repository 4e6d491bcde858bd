/** The keys of people: how often they are tested, whose result is written down, and what is left after an erasure. */
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startApplication, type TestApplication } from './support/application.js'
import { Client, PASSWORD } from './support/client.js'
import { dialects } from './support/databases.js'
import { startProvider, type TestProvider } from './support/provider.js'

const newKey = () => `sk-test-${randomBytes(24).toString('hex')}`
let counter = 0
const newEmail = () => `holder${++counter}@example.com`

describe.each(dialects)('the keys of people on %s', (dialect) => {
  let app: TestApplication
  let provider: TestProvider
  const client = () => new Client(app.origin)

  beforeAll(async () => {
    provider = await startProvider()
    app = await startApplication(dialect, { PROVIDER_OPENAI_URL: provider.url })
  })
  afterAll(async () => {
    await app?.remove()
    await provider?.remove()
  })

  it('are sent to a provider once in a few seconds, at the same time and after a replacement too', async () => {
    const [alice, bob] = [await client().signUp(newEmail()), await client().signUp(newEmail())]
    const ids: string[] = []
    for (let at = 0; at < 3; at++) ids.push(await alice.addKey(newKey()))
    const csrf = await alice.csrfToken()
    const asked = provider.requests.length
    const answers = await Promise.all(
      Array.from({ length: 15 }, (_, at) => alice.send(`/keys/${ids[at % 3]}/check`, { csrf })),
    )
    const results = answers.map(({ headers }) => headers.get('location'))
    expect(results.filter((result) => result === '/keys?done=refused').length).toBe(1)
    expect(results.filter((result) => result === '/keys?done=soon').length).toBe(14)
    const [id] = ids
    expect((await alice.send(`/keys/${id}/replace`, { csrf, apiKey: newKey() })).status).toBe(303)
    expect((await alice.send(`/keys/${id}/check`, { csrf })).headers.get('location')).toBe('/keys?done=soon')
    expect(provider.requests.length).toBe(asked + 1)

    const other = await bob.addKey(newKey())
    expect((await bob.post(`/keys/${other}/check`)).headers.get('location')).toBe('/keys?done=refused')
    await new Promise((resolve) => setTimeout(resolve, 3000))
    expect((await alice.post(`/keys/${id}/check`)).headers.get('location')).toBe('/keys?done=refused')
  })

  it('have no result of a test written to them that was of an earlier secret', async () => {
    const alice = await client().signUp(newEmail())
    const known = newKey()
    provider.known.add(known)
    const id = await alice.addKey(known)
    const asked = provider.requests.length
    let release = () => {}
    provider.held = new Promise((resolve) => {
      release = resolve
    })
    const checking = alice.post(`/keys/${id}/check`)
    while (provider.requests.length === asked) await new Promise((resolve) => setTimeout(resolve, 10))
    expect((await alice.post(`/keys/${id}/replace`, { apiKey: newKey() })).status).toBe(303)
    release()
    expect((await checking).headers.get('location')).toBe('/keys?done=works')
    const [row] = await app.database.run('select last_result, last_used_at from api_key where id = $1', id)
    expect(row).toEqual({ last_result: null, last_used_at: null })
  })

  it('are in the export of their owner without labels after the data key was erased', async () => {
    const [owner, email] = [await client().signUp(newEmail()), newEmail()]
    const alice = await client().signUp(email)
    const id = await alice.addKey(newKey())
    const idOf = async (who: Client) =>
      /<dt>Id<\/dt><dd><code>([^<]+)/.exec((await who.get('/account')).text)?.[1] ?? ''
    const userId = await idOf(alice)
    await app.restart({ OPERATOR_USER_ID: await idOf(owner) })
    expect((await owner.post(`/operator/people/${userId}/shred`, { typed: userId })).status).toBe(200)
    const again = client()
    await again.send('/sign-in', { email, password: PASSWORD })
    expect((await again.get('/keys')).status).toBe(410)
    const { status, text } = await again.get('/account/export')
    expect(status).toBe(200)
    expect(JSON.parse(text)).toMatchObject({
      person: { email },
      apiKeys: [{ id, provider: 'openai', label: null, endsIn: null }],
    })
  })
})
