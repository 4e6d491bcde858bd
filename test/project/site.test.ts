/** The documentation site has every page, and its checks find what is wrong. (`npm run docs:check` builds it and looks at it.) */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, it } from 'vitest'
import { temporaryFolder } from '../support/databases.js'
import { root } from '../support/root.js'

interface Pages {
  readonly groups: readonly { readonly pages: readonly { readonly file: string; readonly says: string }[] }[]
  readonly examples: readonly string[]
  routeOf(file: string): string
}
interface Links {
  checkLinks(dist: string): { readonly links: number; readonly broken: readonly string[] }
}

const load = <Module>(path: string): Promise<Module> => import(pathToFileURL(join(root, 'site', path)).href)

describe('the menu of the site', () => {
  it('has each page of docs once, and says what it is about', async () => {
    const { groups } = await load<Pages>('pages.mjs')
    const pages = groups.flatMap((group) => group.pages)
    const files = pages.map(({ file }) => file)
    expect(new Set(files).size).toBe(files.length)
    const documents = readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md'))
    expect(files).toEqual(expect.arrayContaining(documents.map((name) => `docs/${name}`)))
    for (const { file, says } of pages) {
      expect(readFileSync(join(root, file), 'utf8')).toMatch(/^# \S/)
      expect(says.length, file).toBeGreaterThan(10)
    }
  })

  it('gives each page an address of its own', async () => {
    const { groups, routeOf } = await load<Pages>('pages.mjs')
    const routes = groups.flatMap(({ pages }) => pages.map(({ file }) => routeOf(file)))
    expect(new Set(routes).size).toBe(routes.length)
    expect(routes).toEqual(
      expect.arrayContaining(['quickstart', 'master-keys', 'decisions/index', 'security']),
    )
  })

  it('names examples that are there', async () => {
    const { examples } = await load<Pages>('pages.mjs')
    for (const file of examples) expect(readFileSync(join(root, file), 'utf8')).not.toBe('')
  })
})

describe('the pictures', () => {
  it.each(readdirSync(join(root, 'docs/pictures')))(
    '%s says what it shows, and has colours for light and dark',
    (name) => {
      const picture = readFileSync(join(root, 'docs/pictures', name), 'utf8')
      expect(picture).toMatch(/<title>[^<]{10,}<\/title>/)
      expect(picture).toContain('@media (prefers-color-scheme: dark)')
      // The rest follows the page's colours.
      const drawn = picture.replace(/<style>.*?<\/style>/s, '')
      expect(drawn.match(/(?:fill|stroke)="(?!none|currentColor|var\(--picture-)[^"]*"/g) ?? []).toEqual([])
    },
  )
})

describe('the check of links', () => {
  it('finds a page and an anchor that are not there', async () => {
    const folder = temporaryFolder()
    try {
      mkdirSync(join(folder.path, 'api'))
      writeFileSync(
        join(folder.path, 'a.html'),
        '<h2 id="one">1</h2><a href="#one">x</a><a href="#two">x</a><a class="y" href="/api/b#c">x</a><a href="/api/b#d">x</a><a href="/gone">x</a><a href="https://x.y">x</a><a href="/llms.txt">x</a>',
      )
      writeFileSync(join(folder.path, 'api/b.html'), '<h2 id="c">c</h2><a href="../a#one">x</a>')
      writeFileSync(join(folder.path, 'llms.txt'), '')
      const { checkLinks } = await load<Links>('scripts/links.mjs')
      const { broken, links } = checkLinks(folder.path)
      expect(broken).toEqual(['a.html: #two', 'a.html: /api/b#d', 'a.html: /gone'])
      expect(links).toBe(7)
    } finally {
      folder.remove()
    }
  })
})
