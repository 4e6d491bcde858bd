/** Real Chromium: Debian's, or the one that CHROMIUM names. */

import { randomInt } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import {
  type Browser,
  type BrowserContext,
  type BrowserContextOptions,
  chromium,
  type Page,
} from 'playwright-core'

const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium'
export const hasChromium = existsSync(executablePath)
export const NO_CHROMIUM = `there is no Chromium at ${executablePath}: apt-get install chromium, or set CHROMIUM`

export const PHONE = { width: 390, height: 844 }
export const DESKTOP = { width: 1280, height: 860 }

/** Its sandbox does not work for root, as in a container of CI. */
export const startBrowser = (): Promise<Browser> =>
  chromium.launch({ executablePath, args: process.getuid?.() === 0 ? ['--no-sandbox'] : [] })

export interface Visitor {
  readonly page: Page
  readonly context: BrowserContext
  /** The bodies of all responses of the application so far. */
  bodies(): Promise<string>
  /** What the console complained about, such as a blocked script. */
  readonly complaints: readonly string[]
}

/** Somebody with a browser of their own: cookies, and an address. */
export async function visitor(
  browser: Browser,
  origin: string,
  options: BrowserContextOptions = {},
): Promise<Visitor> {
  const context = await browser.newContext({ baseURL: origin, ...options })
  const address = `10.${randomInt(256)}.${randomInt(256)}.${randomInt(1, 255)}`
  // To the application only: a provider would refuse it.
  await context.route(`${origin}/**`, (route, request) =>
    route.continue({ headers: { ...request.headers(), 'x-forwarded-for': address } }),
  )
  const bodies: Promise<string>[] = []
  const complaints: string[] = []
  const page = await context.newPage()
  page.on('response', (response) => {
    if (response.url().startsWith(origin)) bodies.push(response.text().catch(() => ''))
  })
  page.on('console', (message) => {
    if (message.type() === 'error') complaints.push(message.text())
  })
  page.on('pageerror', (error) => complaints.push(error.message))
  return { page, context, complaints, bodies: async () => (await Promise.all(bodies)).join('\n') }
}

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

/**
 * What axe finds on the page as it is shown now, in words. Needs a context with `bypassCSP`, since axe is a script from outside.
 *
 * @param rules null: all
 */
export async function axeFindings(page: Page, rules: readonly string[] | null): Promise<string[]> {
  if (!(await page.evaluate('"axe" in globalThis'))) await page.evaluate(AXE)
  const { violations } = await page.evaluate(
    (runOnly) => (globalThis as unknown as { axe: Axe }).axe.run(runOnly === null ? {} : { runOnly }),
    rules,
  )
  return violations.flatMap(({ id, nodes }) =>
    nodes.map(({ html, failureSummary }) => `${id}: ${html} ${failureSummary}`),
  )
}

/** The elements that make the page wider than the window, if any do. */
export function tooWide(page: Page): Promise<string[]> {
  return page.evaluate<string[]>(`(() => {
    const { clientWidth, scrollWidth } = document.documentElement
    if (scrollWidth <= clientWidth) return []
    const wide = [...document.querySelectorAll('main *')].filter((one) => one.getBoundingClientRect().right > clientWidth)
    return ['by ' + (scrollWidth - clientWidth), ...wide.map((one) => one.outerHTML.slice(0, 120))]
  })()`)
}

interface Axe {
  run(options: { runOnly?: readonly string[] }): Promise<{ violations: readonly AxeViolation[] }>
}

interface AxeViolation {
  readonly id: string
  readonly nodes: readonly { readonly html: string; readonly failureSummary: string }[]
}
