// Checks the built site: links and their anchors; in Chromium, at a phone's and a desktop's width, light and dark: accessibility by axe-core, no
// sideways scrolling, no request to another host, and a search that finds.
//
//   node scripts/check.mjs [--shots FOLDER]
//
// Without Chromium it says so and checks the links alone. --shots keeps a picture of each page.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { chromium } from 'playwright-core'
import { checkLinks } from './links.mjs'
import { serve } from './serve.mjs'

const dist = fileURLToPath(new URL('../.vitepress/dist', import.meta.url))
const { values } = parseArgs({ options: { shots: { type: 'string' }, pages: { type: 'string' } } })
const PAGES = values.pages?.split(',') ?? [
  '/',
  '/quickstart',
  '/concepts',
  '/byok-app',
  '/why',
  '/alternatives',
  '/columns',
  '/errors',
  '/master-keys',
  '/operations',
  '/benchmarks',
  '/api/drizzle-keystore/',
  '/api/drizzle-keystore/classes/EnvelopeCrypto',
]
const WIDTHS = { phone: { width: 390, height: 844 }, desktop: { width: 1280, height: 800 } }
const SCHEMES = ['light', 'dark']

const problems = []
const { pages, links, broken } = checkLinks(dist)
problems.push(...broken.map((link) => `a link that leads nowhere: ${link}`))
console.log(`${links} links of ${pages} pages`)

const executablePath = ['chromium', 'chromium-browser', 'google-chrome']
  .map((name) => spawnSync('which', [name], { encoding: 'utf8' }).stdout.trim())
  .find((path) => path !== '')
if (executablePath === undefined)
  console.log(
    'Skipped, as there is no Chromium: how pages look at a phone’s and a desktop’s width (apt-get install chromium)',
  )
else await lookAtPages(executablePath)

if (problems.length > 0) {
  console.error(problems.join('\n'))
  process.exitCode = 1
}

async function lookAtPages(path) {
  const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
  const site = await serve(dist)
  const browser = await chromium.launch({ executablePath: path, args: ['--no-sandbox'] })
  try {
    for (const colorScheme of SCHEMES)
      for (const [name, viewport] of Object.entries(WIDTHS)) {
        const context = await browser.newContext({ viewport, colorScheme, reducedMotion: 'reduce' })
        const page = await context.newPage()
        page.on('request', (request) => {
          if (!request.url().startsWith(site.url) && !request.url().startsWith('data:'))
            problems.push(`a request to another host: ${request.url()}`)
        })
        page.on('pageerror', (error) => problems.push(`an error in a page: ${error.message}`))
        for (const address of PAGES) await lookAt(page, site.url, address, `${name}, ${colorScheme}`, axe)
        await context.close()
      }
    await search(browser, site.url)
  } finally {
    await browser.close()
    site.close()
  }
  console.log(`${PAGES.length} pages at ${Object.keys(WIDTHS).length} widths, light and dark`)
}

async function lookAt(page, url, address, how, axe) {
  const response = await page.goto(url + address, { waitUntil: 'load' })
  if (response.status() !== 200) problems.push(`${address}: ${response.status()}`)
  await page.waitForSelector('.VPContent, .VPHome')
  const overflow = await page.evaluate(() => {
    const width = document.documentElement.clientWidth
    if (document.documentElement.scrollWidth <= width) return null
    const wide = [...document.querySelectorAll('.VPContent *')].filter(
      (element) => element.getBoundingClientRect().right > width + 1,
    )
    return wide
      .slice(0, 3)
      .map((element) => `${element.tagName.toLowerCase()}.${element.className}`)
      .join(', ')
  })
  if (overflow !== null) problems.push(`${address} (${how}): wider than the screen: ${overflow}`)
  await page.evaluate(axe)
  const violations = await page.evaluate(() =>
    window.axe
      .run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'] })
      .then(({ violations: found }) =>
        found.map(({ id, nodes }) => ({
          id,
          count: nodes.length,
          first: nodes[0].target.join(' '),
          why: nodes[0].failureSummary,
        })),
      ),
  )
  for (const { id, count, first, why } of violations)
    problems.push(
      `${address} (${how}): ${id}, ${count} times, first at ${first}: ${why.replaceAll(/\s+/g, ' ')}`,
    )
  if (values.shots !== undefined) {
    mkdirSync(values.shots, { recursive: true })
    const name = `${address.replaceAll('/', '_')}-${how.replace(', ', '-')}.png`
    await page.screenshot({ path: join(values.shots, name), fullPage: false })
    await page.evaluate(() => window.scrollTo(0, 1400))
    await page.screenshot({ path: join(values.shots, name.replace('.png', '-below.png')) })
  }
}

/** Finds a word by the search, whose index is a file of the site. */
async function search(browser, url) {
  const page = await browser.newPage()
  await page.goto(`${url}/quickstart`)
  await page.keyboard.press('Control+k')
  await page.fill('#localsearch-input', 'tombstone')
  await page
    .waitForSelector('#localsearch-list li', { timeout: 10_000 })
    .catch(() => problems.push('the search finds nothing'))
  await page.close()
}
