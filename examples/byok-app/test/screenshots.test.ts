/** The screenshots of the documentation. Made only when they are asked for: `npm run screenshots`. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startApplication, type TestApplication } from './support/application.js'
import { DESKTOP, PHONE, startBrowser, visitor } from './support/browser.js'
import { addKey, becomeOperator, deleteAccount, PASSWORD, signUp } from './support/flows.js'
import { startProvider, type TestProvider } from './support/provider.js'
import { seedKeys } from './support/seeds.js'

const FOLDER = join(import.meta.dirname, '..', '..', '..', 'docs', 'images', 'byok-app')
const ago = (minutes: number) => Date.now() - minutes * 60_000

describe.runIf(process.env.SCREENSHOTS)('the screenshots', () => {
  let app: TestApplication
  let provider: TestProvider
  let browser: Browser

  beforeAll(async () => {
    mkdirSync(FOLDER, { recursive: true })
    provider = await startProvider()
    browser = await startBrowser()
    app = await startApplication('sqlite', {
      OAUTH_NAME: 'Example ID',
      OAUTH_DISCOVERY_URL: `${provider.url}/none`,
      OAUTH_CLIENT_ID: 'byok-app',
      OAUTH_CLIENT_SECRET: 'not used here',
    })
    await seedKeys(app, 'sqlite', 1500)
  })
  afterAll(async () => {
    await browser?.close()
    await app?.remove()
    await provider?.remove()
  })

  const page = async () => (await visitor(browser, app.origin)).page

  /** On a phone and on a desktop, in light and in dark. */
  async function shoot(name: string, shown: Page): Promise<void> {
    for (const [device, viewport] of Object.entries({ phone: PHONE, desktop: DESKTOP }))
      for (const colorScheme of ['light', 'dark'] as const) {
        await shown.setViewportSize(viewport)
        await shown.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
        const { length } = await shown.screenshot({
          path: join(FOLDER, `${name}-${device}-${colorScheme}.png`),
        })
        expect([name, device, length < 150 * 1024]).toEqual([name, device, true])
      }
  }

  it('shows signing in, the keys of a person, a receipt, and the operator’s page', {
    timeout: 180_000,
  }, async () => {
    const visit = await page()
    await visit.goto('/sign-in')
    await shoot('sign-in', visit)

    const ada = await page()
    await signUp(ada, 'Ada Lovelace', 'ada@example.com')
    const keys = [
      ['OpenAI', 'Analytical engine', 'Yt4Q', 'works', 3],
      ['Anthropic', 'Notes for Charles', 'k9Zw', 'limited', 190],
      ['Mistral', 'Side project', 'P2xE', null, null],
      ['Google Gemini', 'Old notebook', 'c7Rd', 'refused', 60 * 24 * 40],
    ] as const
    for (const [name, label, lastFour, result, usedMinutesAgo] of keys) {
      await addKey(ada, name, label, `an-example-and-no-key-${lastFour}`)
      await ada.getByText('The key was encrypted and added.').waitFor()
      await app.database.run(
        'update api_key set last_result = $1, last_used_at = $2 where last_used_at is null and created_at > $3',
        result,
        usedMinutesAgo === null ? null : ago(usedMinutesAgo),
        ago(5),
      )
      await app.database.run('update api_key set created_at = created_at - 600000')
    }
    await ada.goto('/keys')
    await shoot('keys', ada)

    const owner = await page()
    await signUp(owner, 'The Owner', 'owner@example.com')
    await becomeOperator(owner, app)
    await owner.goto('/operator')
    await shoot('operator', owner)
    await owner.getByRole('button', { name: 'Check all keys' }).click()
    await owner.getByText('Every key opens.').waitFor()
    await owner.evaluate('document.querySelector("#work").closest("section").scrollIntoView()')
    await shoot('operator-work', owner)

    await deleteAccount(ada, 'ada@example.com', PASSWORD)
    await ada.getByRole('heading', { name: 'Your account was deleted' }).waitFor()
    await shoot('receipt', ada)
  })
})
