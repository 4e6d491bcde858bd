import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitepress'
import { groups, repository, routeOf } from '../pages.mjs'
import { tableLabels } from './table-labels.mjs'

/** The folders of typedoc-plugin-markdown. */
const KINDS = ['classes', 'functions', 'interfaces', 'type-aliases', 'variables']
const pages = fileURLToPath(new URL('../pages', import.meta.url))

export default defineConfig({
  title: 'drizzle-keystore',
  description: 'Per-user envelope encryption for TypeScript applications, in the database they already have',
  lang: 'en',
  srcDir: 'pages',
  // Where the site is published below a folder, as on GitHub Pages.
  base: process.env.SITE_BASE || '/',
  cleanUrls: true,
  lastUpdated: false,
  head: [
    ['link', { rel: 'icon', type: 'image/svg+xml', href: `${process.env.SITE_BASE || '/'}icon.svg` }],
    [
      'link',
      {
        rel: 'alternate',
        type: 'text/plain',
        title: 'For assistants',
        href: `${process.env.SITE_BASE || '/'}llms.txt`,
      },
    ],
  ],
  markdown: {
    anchor: { slugify: gitHubAnchor },
    config: tableLabels,
    theme: { light: 'github-light-high-contrast', dark: 'github-dark-high-contrast' },
  },
  vite: { build: { chunkSizeWarningLimit: 4000 } },
  themeConfig: {
    nav: [
      { text: 'Quick start', link: '/quickstart' },
      { text: 'Concepts', link: '/concepts' },
      { text: 'API', link: '/api/', activeMatch: '^/api/' },
      ...(repository === null ? [] : [{ text: 'Repository', link: repository }]),
    ],
    sidebar: {
      ...apiSidebars(),
      '/': [
        ...groups.map(({ title, pages: items }) => ({
          text: title,
          items: items.map(({ file, title: text }) => ({
            text,
            link: `/${routeOf(file).replace(/index$/, '')}`,
          })),
        })),
        {
          text: 'Reference',
          items: [
            { text: 'API', link: '/api/' },
            { text: 'Examples', link: '/examples/' },
          ],
        },
      ],
    },
    outline: { level: [2, 3] },
    search: {
      provider: 'local',
      options: {
        detailedView: true,
        // The index needs no colours, which take half of the time.
        _render: (source, env, markdown) =>
          markdown.render(source.replaceAll(/^( *```)\w+$/gm, '$1text'), env),
      },
    },
    externalLinkIcon: true,
  },
})

/** As GitHub makes the anchors of headings: docs/*.md are read there too, and their links have these. */
function gitHubAnchor(heading) {
  return heading
    .trim()
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
    .replaceAll(' ', '-')
}

/** For the pages of each entry of the package: its members, and the other entries. With all members on each page, pages are mostly side bar. */
function apiSidebars() {
  const core = join(pages, 'api', 'drizzle-keystore')
  const entries = existsSync(core) ? entriesIn(core, 'drizzle-keystore') : []
  const all = { text: 'Entries', items: entries.map(({ name }) => ({ text: name, link: `/api/${name}/` })) }
  const back = { text: 'All pages', link: '/quickstart' }
  return {
    '/api/': [back, all],
    ...Object.fromEntries(
      entries.map(({ folder, name }) => [
        `/api/${name}/`,
        [back, { text: name, link: `/api/${name}/`, items: membersOf(folder, name) }, all],
      ]),
    ),
  }
}

function entriesIn(folder, name) {
  const children = readdirSync(folder, { withFileTypes: true })
    .filter((child) => child.isDirectory() && !KINDS.includes(child.name))
    .map((child) => child.name)
    .sort()
  return [
    ...(existsSync(join(folder, 'index.md')) ? [{ folder, name }] : []),
    ...children.flatMap((child) => entriesIn(join(folder, child), `${name}/${child}`)),
  ]
}

function membersOf(folder, name) {
  return KINDS.filter((kind) => existsSync(join(folder, kind))).flatMap((kind) =>
    readdirSync(join(folder, kind)).map((file) => {
      const member = file.replace(/\.md$/, '')
      return { text: member, link: `/api/${name}/${kind}/${member}` }
    }),
  )
}
