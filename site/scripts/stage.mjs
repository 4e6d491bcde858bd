// Stages the pages: copies the Markdown files of the repository into pages/, where VitePress builds them.
//
// docs/*.md are the source, and what the npm package has: plain Markdown whose links lead to files. Here each gets its address, its links are
// turned into addresses, and its pictures stand in the page itself, so that they follow the page's colours.
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join, posix } from 'node:path'
import { fileURLToPath } from 'node:url'
import { examples, folders, groups, repository, routeOf } from '../pages.mjs'

const site = join(dirname(fileURLToPath(import.meta.url)), '..')
const root = join(site, '..')
const target = join(site, 'pages')

/** A picture of ours. Others stay files. */
const PICTURE = /!\[([^\]]*)\]\((pictures\/[^)]+\.svg)\)/g
const picture = (_, alt, path) => pictureOf(alt, readFileSync(join(root, 'docs', path), 'utf8'))

/** A picture of a screen, light and dark. The package has none of them, so that the pages name them by their addresses at the repository. */
const SCREEN =
  /<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="\S+\/main\/docs(\/images\/[^"]+)">\s*<img alt="([^"]+)" src="\S+\/main\/docs(\/images\/[^"]+)">\s*<\/picture>/g
/** From the site itself, and both, since the colours of a page are chosen on it. */
const screen = (_, dark, alt, light) =>
  `<p><img class="on-light" alt="${alt}" src="${light}" loading="lazy"><img class="on-dark" alt="${alt}" src="${dark}" loading="lazy"></p>`

const described = new Map(groups.flatMap(({ pages }) => pages.map((page) => [page.file, page])))
const files = [
  ...described.keys(),
  ...folders.flatMap((folder) =>
    readdirSync(join(root, folder))
      .filter((name) => name.endsWith('.md'))
      .map((name) => posix.join(folder, name)),
  ),
].filter((file, index, all) => all.indexOf(file) === index)

/** The folders in which a change of a page or a picture is one of the site. */
export const sources = [
  root,
  join(root, 'docs'),
  join(root, 'docs/decisions'),
  join(root, 'docs/pictures'),
  site,
]

export function stage() {
  for (const file of files) write(`${routeOf(file)}.md`, frontmatter(described.get(file)) + pageOf(file))
  write('index.md', readFileSync(join(site, 'home.md'), 'utf8').replaceAll(PICTURE, picture))
  write('examples/index.md', examplesPage())
  for (const folder of ['benchmarks'])
    cpSync(join(root, 'docs', folder), join(target, folder), { recursive: true })
  cpSync(join(site, 'public'), join(target, 'public'), { recursive: true })
  cpSync(join(root, 'docs/images'), join(target, 'public/images'), { recursive: true })
}

function write(path, text) {
  const file = join(target, path)
  mkdirSync(dirname(file), { recursive: true })
  // VitePress builds a page anew whenever its file is written.
  if (!existsSync(file) || readFileSync(file, 'utf8') !== text) writeFileSync(file, text)
}

function frontmatter(page) {
  if (page === undefined) return ''
  return `---\ntitle: ${JSON.stringify(page.title)}\ndescription: ${JSON.stringify(page.says)}\n---\n\n`
}

function pageOf(file) {
  const text = readFileSync(join(root, file), 'utf8').replaceAll(SCREEN, screen)
  if (text.includes('<picture>'))
    throw new Error(`${file}: a picture of a screen is not written as SCREEN has it`)
  let fence = null
  const lines = text.split('\n').map((line) => {
    const [, indent = '', info] = /^( *)```(.*)$/.exec(line) ?? []
    if (info === undefined) return fence === null ? proseOf(file, line) : line
    if (fence !== null) {
      fence = null
      return line
    }
    fence = info
    const [language = '', name] = info.split(' ')
    // `ts app/keystore.ts` names the file that the block is; single words are for the tests.
    const title = name?.includes('.') ? `${indent}<p class="file-name">${name}</p>\n\n` : ''
    return `${title}${indent}\`\`\`${language || 'text'}`
  })
  return lines.join('\n')
}

function proseOf(file, line) {
  return line
    .replaceAll(PICTURE, picture)
    .replaceAll(
      /(?<!!)\[((?:[^[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)/g,
      (link, text, to) => linkOf(file, text, to) ?? link,
    )
}

/** The picture in the page: its own colours are for where it stands alone. */
function pictureOf(alt, svg) {
  const inner = svg
    .replace(/<\?xml.*?\?>/, '')
    .replaceAll(/<!--.*?-->/gs, '')
    .replace(/<style>.*?<\/style>/s, '')
    .replaceAll(/\s*\n\s*/g, ' ')
    .trim()
  return `<figure class="picture" role="img" tabindex="0" aria-label="${alt.replaceAll('"', '&quot;')}">${inner}</figure>`
}

function linkOf(file, text, to) {
  if (/^([a-z]+:|#)/.test(to)) return null
  const [path, anchor] = to.split('#')
  const linked = posix.normalize(posix.join(posix.dirname(file), path)).replace(/\/$/, '')
  const hash = anchor === undefined ? '' : `#${anchor}`
  // A file's name says nothing to a reader of the site.
  if (/^(?:[\w-]+\/)*[\w-]+\.md$/.test(text) && described.has(linked))
    return linkOf(file, described.get(linked).title, to)
  if (files.includes(linked)) return `[${text}](/${routeOf(linked).replace(/(^|\/)index$/, '$1')}${hash})`
  if (files.includes(`${linked}/README.md`))
    return `[${text}](/${routeOf(`${linked}/README.md`).replace(/index$/, '')})`
  if (examples.some((example) => example === linked || example.startsWith(`${linked}/`)))
    return `[${text}](/examples/#${linked.replace(/^examples\//, '').replaceAll(/[^\w-]/g, '')})`
  if (linked === 'README.md') return `[${text}](/)`
  if (!existsSync(join(root, linked))) throw new Error(`${file}: ${to} is not there`)
  return repository === null ? text : `[${text}](${repository}/blob/main/${linked}${hash})`
}

function examplesPage() {
  const parts = examples.map((file) => {
    const name = file.replace(/^examples\//, '')
    const folder = posix.dirname(name)
    const anchor = folder === '.' ? '' : `<a id="${folder}"></a>\n\n`
    const first = examples.find((other) => other.startsWith(`examples/${folder}/`)) === file
    return `${first ? anchor : ''}## ${name}\n\n\`\`\`${posix.extname(file).slice(1)}\n${readFileSync(join(root, file), 'utf8')}\`\`\`\n`
  })
  return `---\ntitle: Examples\n---\n\n# Examples\n\nWhole files, which the tests run. They are in the folder \`examples\` of the package too.\n\n${parts.join('\n')}`
}
