// The links of the built site: each leads to a page, and to an id on it. VitePress looks at pages alone.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join, posix } from 'node:path'

/** @returns {{ pages: number, links: number, broken: string[] }} */
export function checkLinks(dist) {
  const pages = readdirSync(dist, { recursive: true, encoding: 'utf8' }).filter((name) =>
    name.endsWith('.html'),
  )
  const texts = new Map(
    pages.map((page) => [page.replaceAll('\\', '/'), readFileSync(join(dist, page), 'utf8')]),
  )
  const ids = new Map(
    [...texts].map(([page, text]) => [
      page,
      new Set([...text.matchAll(/ id="([^"]+)"/g)].map(([, id]) => id)),
    ]),
  )
  const broken = []
  let links = 0
  for (const [page, text] of texts) {
    if (page === '404.html') continue
    for (const [, href] of text.matchAll(/<a [^>]*?href="([^"]+)"/g)) {
      if (/^[a-z]+:/.test(href)) continue
      links++
      const [path, hash = ''] = href.replaceAll('&amp;', '&').split('#')
      const target =
        path === ''
          ? page
          : posix.join(path.startsWith('/') ? '' : posix.dirname(page), path).replace(/^\//, '')
      const found = [target, `${target}.html`, posix.join(target, 'index.html')].find((candidate) =>
        texts.has(candidate),
      )
      if (
        found === undefined
          ? !existsSync(join(dist, target))
          : hash !== '' && !ids.get(found).has(decodeURIComponent(hash))
      )
        broken.push(`${page}: ${href}`)
    }
  }
  return { pages: texts.size, links, broken: [...new Set(broken)] }
}
