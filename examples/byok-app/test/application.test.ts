/** What people and the operator do, in a real browser, on both databases. */
import { randomBytes } from 'node:crypto'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startOAuthProvider } from '../../../test/support/oauth-provider.js'
import { startApplication, type TestApplication } from './support/application.js'
import {
  axeFindings,
  DESKTOP,
  hasChromium,
  NO_CHROMIUM,
  PHONE,
  startBrowser,
  tooWide,
  type Visitor,
  visitor,
} from './support/browser.js'
import { type Dialect, dialects } from './support/databases.js'
import {
  addKey,
  becomeOperator,
  deleteAccount,
  focused,
  PASSWORD,
  receiptOf,
  signIn,
  signUp,
} from './support/flows.js'
import { startProvider, type TestProvider } from './support/provider.js'
import { Secrets } from './support/secrets.js'
import { seedKeys } from './support/seeds.js'

const OWNER_EMAIL = 'owner@example.com'

if (!hasChromium) console.warn(`Skipped: ${NO_CHROMIUM}`)

describe.skipIf(!hasChromium).each(dialects)('the application on %s', (dialect: Dialect) => {
  let app: TestApplication
  let provider: TestProvider
  let browser: Browser
  let oauth: Awaited<ReturnType<typeof startOAuthProvider>>
  const secrets = new Secrets()
  const visitors: Visitor[] = []

  const newKey = (name: string, known = true) => {
    const key = secrets.plant(name, `sk-${randomBytes(24).toString('base64url')}`)
    if (known) provider.known.add(key)
    return key
  }
  async function visit(options: Parameters<typeof visitor>[2] = {}): Promise<Page> {
    const one = await visitor(browser, app.origin, options)
    visitors.push(one)
    return one.page
  }

  beforeAll(async () => {
    secrets.plant('the password', PASSWORD)
    provider = await startProvider()
    oauth = await startOAuthProvider()
    browser = await startBrowser()
    app = await startApplication(dialect, {
      PROVIDER_OPENAI_URL: provider.url,
      PROVIDER_ANTHROPIC_URL: provider.url,
      PROVIDER_GOOGLE_URL: provider.url,
      OAUTH_NAME: 'Example ID',
      OAUTH_DISCOVERY_URL: oauth.discoveryUrl,
      OAUTH_CLIENT_ID: 'byok-app',
      OAUTH_CLIENT_SECRET: secrets.plant('the client secret', randomBytes(24).toString('hex')),
      REWRAP_BATCH_SIZE: '10',
    })
    await seedKeys(app, dialect, 1500)
  })
  afterAll(async () => {
    await browser?.close()
    await app?.remove()
    await oauth?.remove()
    await provider?.remove()
  })

  it('lets somebody sign up, add a key, test, replace and delete it', async () => {
    const page = await visit()
    await signUp(page, 'Ada Lovelace', 'ada@example.com')
    await page.getByText('Welcome. Add your first key.').waitFor()
    const first = newKey('the first key')
    await addKey(page, 'OpenAI', 'Side project', first)
    await page.getByText('The key was encrypted and added.').waitFor()
    const card = page.getByRole('listitem').filter({ hasText: 'Side project' })
    expect(await card.locator('.masked').innerText()).toContain(first.slice(-4))
    expect(await card.innerText()).toMatch(/Not tested.*Never used/s)

    await page.getByRole('button', { name: 'Test Side project' }).click()
    await page.getByText('The provider takes the key.').waitFor()
    expect(provider.requests.at(-1)).toMatchObject({ path: '/v1/models', key: first })
    expect(await card.innerText()).toMatch(/Works.*Last used just now/s)

    await addKey(page, 'Anthropic', 'The same once more', first)
    await page.getByText('You have this key here already.').waitFor()
    expect(await page.getByLabel('API key').inputValue()).toBe('')
    expect(await page.getByLabel('Name').inputValue()).toBe('The same once more')

    await page.getByRole('link', { name: 'Manage Side project' }).click()
    const second = newKey('the second key', false)
    await page.getByLabel('New API key').fill(second)
    await page.getByRole('button', { name: 'Replace key' }).click()
    await page.getByText('The key was replaced.').waitFor()
    await app.database.run('delete from rate_limit') // in place of a few seconds between two tests
    expect(await card.locator('.masked').innerText()).toContain(second.slice(-4))
    await page.getByRole('button', { name: 'Test Side project' }).click()
    await page.getByText('The provider refuses the key.').waitFor()
    expect(provider.requests.at(-1)?.key).toBe(second)

    await page.getByRole('link', { name: 'Manage Side project' }).click()
    await page.getByRole('button', { name: 'Delete key' }).click()
    await page.getByText('The key was deleted.').waitFor()
    await page.getByText('You have no keys here yet.').waitFor()
    await page.getByRole('button', { name: 'Sign out' }).click()
    await page.getByRole('heading', { name: 'Sign in' }).waitFor()
  })

  it('lets somebody in through an OpenID provider, whose tokens are in the database as ciphertext alone', async () => {
    oauth.becomes('grace')
    const page = await visit()
    await page.goto('/sign-in')
    await page.getByRole('button', { name: 'Continue with Example ID' }).click()
    await page.getByRole('heading', { name: 'Your API keys' }).waitFor()
    await addKey(page, 'Google Gemini', 'Notebook', newKey('a key of Grace'))
    await page.getByText('The key was encrypted and added.').waitFor()
    const [row] = await app.database.run(
      "select access_token, refresh_token, id_token from account where provider_id = 'oauth'",
    )
    for (const token of Object.values(row ?? {})) expect(token).toMatch(/^v3:[\w-]{102,}$/)
    expect(oauth.issued.length).toBeGreaterThan(0)
    for (const [at, token] of oauth.issued.entries()) secrets.plant(`token ${at} of the provider`, token)

    // An account with a password is not taken over by the same address at the provider.
    oauth.becomes('ada')
    const other = await visit()
    await other.goto('/sign-in')
    await other.getByRole('button', { name: 'Continue with Example ID' }).click()
    await other.getByText('Signing in did not work.').waitFor()

    // Who has no password to type must have signed in a short time ago.
    const hour = dialect === 'sqlite' ? '3600000' : "interval '1 hour'"
    await app.database.run(`update session set created_at = created_at - ${hour}`)
    await deleteAccount(page, 'grace@example.com')
    await page.getByText('You signed in too long ago.').waitFor()
    await app.database.run(`update session set created_at = created_at + ${hour}`)
    await deleteAccount(page, 'grace@example.com')
    expect(await receiptOf(page)).toMatch(/Versions of the data key\s+1\s/)
  })

  it('gives somebody what is stored about them, and erases their key with the account', async () => {
    const page = await visit()
    await signUp(page, 'Alan Turing', 'alan@example.com')
    const key = newKey('a key of Alan')
    await addKey(page, 'OpenAI', 'Research', key)
    await page.getByText('The key was encrypted and added.').waitFor()
    await page.getByRole('link', { name: 'Account' }).click()
    const download = page.waitForEvent('download')
    await page.getByRole('link', { name: 'Download your data' }).click()
    const chunks = []
    for await (const chunk of await (await download).createReadStream()) chunks.push(chunk)
    const text = Buffer.concat(chunks).toString()
    secrets.expectNoneIn('the export', text)
    expect(JSON.parse(text)).toMatchObject({
      person: { name: 'Alan Turing', email: 'alan@example.com' },
      signInMethods: [{ provider: 'credential' }],
      sessions: [{ ipAddress: expect.stringMatching(/^10\./) }],
      apiKeys: [{ provider: 'openai', label: 'Research', endsIn: key.slice(-4), lastUsedAt: null }],
    })

    const [row] = await app.database.run('select id from "user" where email = \'alan@example.com\'')
    const userId = String(row?.id)
    await deleteAccount(page, 'somebody@else.example', PASSWORD)
    await page.getByText('This is not your address.').waitFor()
    await deleteAccount(page, 'alan@example.com', 'a wrong password')
    await page.getByText('The password is not right.').waitFor()
    await deleteAccount(page, 'alan@example.com', PASSWORD)
    const receipt = await receiptOf(page)
    expect(receipt).toContain(userId)
    expect(receipt).toMatch(/local:[\w-]{16}/)
    if (dialect === 'sqlite') expect(receipt).toContain('No file of the live database has the key any more.')
    const left = async (sql: string) => (await app.database.run(sql, userId)).length
    expect(await left('select 1 from "user" where id = $1')).toBe(0)
    expect(await left('select 1 from api_key where user_id = $1')).toBe(0)
    expect(await left('select 1 from session where user_id = $1')).toBe(0)
    expect(await left('select 1 from encryption_keys where user_id = $1 and shredded_at is null')).toBe(0)
    expect(await left('select 1 from encryption_keys where user_id = $1 and length(encrypted_key) = 0')).toBe(
      1,
    )
    await page.goto('/keys')
    await page.getByRole('heading', { name: 'Sign in' }).waitFor()
  })

  it('works without JavaScript, by keyboard, and lets somebody choose a new password', async () => {
    const page = await visit({ javaScriptEnabled: false })
    await page.goto('/sign-up')
    await page.keyboard.press('Tab')
    expect(await focused(page)).toBe('Skip to the content')
    await page.getByLabel('Name').focus()
    await page.keyboard.type('Katherine Johnson')
    await page.keyboard.press('Tab')
    await page.keyboard.type('katherine@example.com')
    await page.keyboard.press('Tab')
    await page.keyboard.type(PASSWORD)
    await page.keyboard.press('Enter')
    await page.getByText('Welcome. Add your first key.').waitFor()
    await addKey(page, 'OpenAI', 'Trajectories', newKey('a key of Katherine'))
    await page.getByRole('button', { name: 'Test Trajectories' }).focus()
    await page.keyboard.press('Enter')
    await page.getByText('The provider takes the key.').waitFor()

    await page.getByRole('button', { name: 'Sign out' }).click()
    await page.getByRole('link', { name: 'Forgot password?' }).click()
    await page.getByLabel('E-mail address').fill('katherine@example.com')
    await page.getByRole('button', { name: 'Send the link' }).click()
    await page.getByText('Look into your mail').first().waitFor()
    await page.goto(app.linksTo('katherine@example.com').at(-1) ?? '')
    const changed = secrets.plant('a new password', `another one ${randomBytes(8).toString('hex')}`)
    await page.getByLabel('Password').fill(changed)
    await page.getByRole('button', { name: 'Change password' }).click()
    await page.getByText('Your password was changed.').waitFor()
    await signIn(page, 'katherine@example.com', PASSWORD)
    await page.getByText('The e-mail address or the password is not right.').waitFor()
    await signIn(page, 'katherine@example.com', changed)
    await page.getByRole('heading', { name: 'Your API keys' }).waitFor()
  })

  it('lets the operator watch a rewrap, read the findings, and shred a user by their id', async () => {
    const page = await visit()
    await signUp(page, 'The Owner', OWNER_EMAIL)
    await page.goto(app.linksTo(OWNER_EMAIL).at(-1) ?? '')
    await page.getByText('Your address is confirmed.').waitFor()
    expect((await page.goto('/operator'))?.status()).toBe(404)
    await becomeOperator(page, app)
    await page.goto('/keys')
    await page.getByRole('link', { name: 'Operator' }).click()

    const figures = page.getByRole('list', { name: 'Figures' })
    expect(await figures.innerText()).toContain('1,200')
    const chart = page.locator('svg[aria-labelledby="count-title"]')
    expect(await chart.locator('title').textContent()).toMatch(/1,200 keys under local:/)

    // Nobody can write for a while, so that the rewrap is not over before anybody has looked.
    const storageState = await page.context().storageState()
    const withoutScript = await visit({ javaScriptEnabled: false, storageState })
    const letWrite = await app.database.holdWrites()
    await page.getByRole('button', { name: 'Rewrap' }).click()
    await page.getByText('Rewrap is running').waitFor()
    expect(await page.getByRole('button', { name: 'Check all keys' }).isDisabled()).toBe(true)
    await withoutScript.goto('/operator')
    await withoutScript.getByText('Rewrap is running').waitFor()
    await letWrite()
    for (const watched of [page, withoutScript]) {
      await watched.getByText('1,200 keys were rewrapped.').waitFor()
      await watched.getByText('No row needs the master key').waitFor()
      expect(await watched.locator('label[for="progress"]').innerText()).toMatch(/[\d,]+ of [\d,]+$/)
    }
    expect(await figures.innerText()).toMatch(/\b0\s+under an earlier master key/)

    await page.getByRole('button', { name: 'Rewrap' }).click()
    await page.getByText('Nothing to do: every key is wrapped').waitFor()
    expect(await page.locator('.job').innerText()).not.toContain('0 of 0')

    await page.getByRole('button', { name: 'Check all keys' }).click()
    await page.getByText('Every key opens.').waitFor()
    await app.database.run("update encryption_keys set kek_id = 'local:of-nobody' where user_id = 'later-7'")
    await page.getByRole('button', { name: 'Check all keys' }).click()
    await page.getByText('Some keys need your attention').waitFor()
    expect(await page.locator('.findings').innerText()).toMatch(/error.*unknownMasterKey.*later-7/s)

    const victim = await visit()
    await signUp(victim, 'Edsger', 'edsger@example.com')
    await addKey(victim, 'OpenAI', 'Structured', newKey('a key of Edsger'))
    await victim.getByText('The key was encrypted and added.').waitFor()
    await page.getByLabel('Address or id').fill('edsger')
    await page.getByRole('button', { name: 'Search' }).click()
    await page.getByRole('link', { name: 'Shred edsger@example.com' }).click()
    const userId = await page.locator('dd code').first().innerText()
    await page.getByLabel('To confirm, type the user id').fill('edsger@example.com')
    await page.getByRole('button', { name: 'Erase the data key' }).click()
    await page.getByText('This is not the id. Nothing was erased.').waitFor()
    await page.getByLabel('To confirm, type the user id').fill(userId)
    await page.getByRole('button', { name: 'Erase the data key' }).click()
    await page.getByRole('heading', { name: 'The data key was erased' }).waitFor()
    const receipt = await receiptOf(page)
    expect(receipt).toContain(userId)
    // The next step, where the files of the database may still hold the key.
    if (receipt.includes('Pending')) expect(receipt).toContain('choose “Finish erasures”')
    else
      expect([dialect, receipt]).toEqual(['sqlite', expect.stringContaining('No file of the live database')])

    await page.goto('/operator')
    await page.getByRole('button', { name: 'Finish erasures' }).click()
    await page.getByText('No erased key is left in the live database.').waitFor()

    await victim.goto('/keys')
    await victim.getByRole('heading', { name: 'Sign in' }).waitFor()
    await signIn(victim, 'edsger@example.com', PASSWORD)
    await victim.getByRole('heading', { name: 'Your data was erased' }).waitFor()
    await deleteAccount(victim, 'edsger@example.com', PASSWORD)
    await victim.getByRole('heading', { name: 'Your account was deleted' }).waitFor()
  })

  // The pages are the same on both databases.
  it.skipIf(dialect === 'postgres')(
    'has nothing for axe to find, on any page, on a phone and a desktop, in light and in dark',
    async () => {
      const found: string[] = []
      const page = await visit({ bypassCSP: true })
      const look = async (path: string) => {
        await page.goto(path)
        for (const viewport of [PHONE, DESKTOP]) {
          await page.setViewportSize(viewport)
          for (const colorScheme of ['light', 'dark'] as const) {
            await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
            const where = `${path} ${viewport.width} ${colorScheme}`
            // What is not about colours is the same in both.
            const findings = await axeFindings(page, colorScheme === 'dark' ? ['color-contrast'] : null)
            found.push(...findings.map((finding) => `${where}: ${finding}`))
            for (const element of await tooWide(page)) found.push(`${where}: it is too wide: ${element}`)
          }
        }
      }
      for (const path of ['/sign-in?error=x', '/sign-up', '/forgot-password', '/new-password', '/nothing'])
        await look(path)
      // Makes the table of people wider than a phone.
      await signUp(await visit(), 'Somebody', 'somebody.with.a.rather.long.address@mail.example.com')
      await page.goto('/sign-in')
      await signIn(page, OWNER_EMAIL, PASSWORD)
      await page.getByRole('heading', { name: 'Your API keys' }).waitFor()
      await addKey(page, 'OpenAI', 'Axe', newKey('a key for axe'))
      await page.getByText('The key was encrypted and added.').waitFor()
      const manage = await page.getByRole('link', { name: 'Manage' }).first().getAttribute('href')
      const [row] = await app.database.run(`select id from "user" where email like 'somebody.with%'`)
      expect(row).toBeDefined()
      const ofPerson = `/operator/people/${row?.id}`
      for (const path of [
        '/keys?done=refused',
        String(manage),
        '/account',
        '/account/delete',
        '/operator',
        ofPerson,
      ])
        await look(path)
      expect(found).toEqual([])
    },
    180_000,
  )

  it('has no secret in a response, in the log or in the database, and no script that was blocked', async () => {
    for (const [at, one] of visitors.entries()) {
      secrets.expectNoneIn(`responses to visitor ${at}`, await one.bodies())
      expect(one.complaints.filter((text) => /policy|script/i.test(text))).toEqual([])
    }
    secrets.expectNoneIn('the log', app.log())
    const content = await app.database.content()
    expect(content.includes('katherine@example.com')).toBe(true) // and so what is stored was looked at
    secrets.expectNoneIn('the database', content)
  })
})
