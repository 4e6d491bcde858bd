// Writes what coding assistants read into the built site: llms.txt, llms-full.txt (https://llmstxt.org), and each page as Markdown.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { groups, routeOf } from '../pages.mjs'

const site = join(dirname(fileURLToPath(import.meta.url)), '..')
const root = join(site, '..')
const dist = join(site, '.vitepress', 'dist')
const base = process.env.SITE_BASE || '/'

const rules = readFileSync(join(site, 'llms.md'), 'utf8').trim()
const pages = groups.flatMap(({ pages: all }) => all)

const links = groups
  .map(({ title, pages: all }) => [
    `## ${title}`,
    ...all.map(({ file, title: name, says }) => `- [${name}](${base}${routeOf(file)}.md): ${says}`),
  ])
  .map((lines) =>
    lines
      .join('\n\n')
      .replaceAll(/\n\n(?=- )/g, '\n')
      .replace('\n- ', '\n\n- '),
  )
write('llms.txt', `${rules}\n\n${links.join('\n\n')}\n`)

// Without what no question is about.
const left = new Set(['docs/BENCHMARKS.md', 'CHANGELOG.md'])
const whole = pages.filter(({ file }) => !left.has(file)).map(({ file }) => textOf(file))
write('llms-full.txt', `${rules}\n\n${whole.join('\n\n---\n\n')}\n`)
for (const { file } of pages) write(`${routeOf(file)}.md`, textOf(file))

function textOf(file) {
  return readFileSync(join(root, file), 'utf8').trim()
}

function write(path, text) {
  mkdirSync(dirname(join(dist, path)), { recursive: true })
  writeFileSync(join(dist, path), text)
}
