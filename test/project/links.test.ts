/** The links in our documents lead to files and headings that exist. */
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, posix } from 'node:path'
import { describe, expect, it } from 'vitest'

const root = join(import.meta.dirname, '..', '..')
/** Every Markdown file of ours. */
const documents = [
  '.',
  '.github',
  'bench',
  'docs',
  'docs/decisions',
  'examples/byok-app',
  'native',
  'test/vectors',
].flatMap((folder) =>
  readdirSync(join(root, folder))
    .filter((name) => name.endsWith('.md'))
    .map((name) => posix.join(folder, name)),
)
const textOf = (document: string) => readFileSync(join(root, document), 'utf8')

/** All links and pictures of a document's text. */
function targetsIn(text: string): string[] {
  const prose = text.replaceAll(/^ *```.*?^ *```/gms, '').replaceAll(/`[^`\n]*`/g, '')
  return [...prose.matchAll(/\]\(([^)\s]+)\)|\bsrc(?:set)?="([^"]+)"/g)].map(
    ([, link, picture]) => link ?? picture ?? '',
  )
}

/** Links of a document's text to other documents, to files and to its own headings, without those to other sites. */
const linksIn = (text: string) => targetsIn(text).filter((link) => !/^[a-z]+:/.test(link))

/** Files of our repository, by the addresses that documents give of them where their folder is not published. */
const OWN_ADDRESS =
  /^https:\/\/(?:github\.com\/drizzle-keystore\/drizzle-keystore\/blob|raw\.githubusercontent\.com\/drizzle-keystore\/drizzle-keystore)\/main\/([^#]+)/
const goneIn = (text: string) =>
  targetsIn(text)
    .flatMap((target) => OWN_ADDRESS.exec(target)?.[1] ?? [])
    .filter((path) => !existsSync(join(root, path)))

/** The anchors of a document's headings, as GitHub makes them. */
function anchorsIn(text: string): string[] {
  return [...text.matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  )
}

function brokenIn(document: string, text: string): string[] {
  return linksIn(text).filter((link) => {
    const [path = '', anchor] = link.split('#')
    const target = path === '' ? document : join(dirname(document), path)
    if (!existsSync(join(root, target))) return true
    if (anchor === undefined || !target.endsWith('.md')) return false
    return !anchorsIn(path === '' ? text : textOf(target)).includes(anchor)
  })
}

describe('the links of our documents', () => {
  it('are found', () => {
    expect(documents).toEqual(expect.arrayContaining(['README.md', 'ARCHITECTURE.md', 'docs/FORMAT.md']))
    expect(linksIn(textOf('README.md')).length).toBeGreaterThan(10)
  })

  it.each(documents)('lead somewhere in %s', (document) => {
    expect(brokenIn(document, textOf(document))).toEqual([])
    expect(goneIn(textOf(document))).toEqual([])
  })

  it('would be found out if they did not', () => {
    const text =
      '# One\n[a](docs/GONE.md) [b](docs/FORMAT.md#gone) [c](#two) [d](#one) [e](docs/FORMAT.md#the-table) [f](https://x.y)'
    expect(brokenIn('README.md', text)).toEqual(['docs/GONE.md', 'docs/FORMAT.md#gone', '#two'])
    expect(brokenIn('README.md', '<img alt="x" src="docs/gone.png">')).toEqual(['docs/gone.png'])
    const own = 'https://github.com/drizzle-keystore/drizzle-keystore/blob/main'
    expect(goneIn(`[a](${own}/docs/GONE.md#x) [b](${own}/docs/FORMAT.md#x)`)).toEqual(['docs/GONE.md'])
  })
})

describe('the links of the documents that are published', () => {
  const [{ files }]: [{ files: { path: string }[] }] = JSON.parse(
    execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
      cwd: root,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }),
  )
  const published = files.map(({ path }) => path)
  /** The package has no other files, and its manifest names no site that has them. */
  const unpublishedIn = (document: string, text: string) =>
    linksIn(text)
      .map((link) => link.replace(/#.*$/, ''))
      .filter((path) => path !== '')
      .map((path) => posix.join(posix.dirname(document), path))
      .filter((path) => !published.some((file) => file === path || file.startsWith(`${path}/`)))

  it.each(published.filter((path) => path.endsWith('.md')))('lead to published files in %s', (document) => {
    expect(unpublishedIn(document, textOf(document))).toEqual([])
  })

  it('are those of README.md and docs, and would be found out', () => {
    expect(published).toEqual(expect.arrayContaining(['README.md', 'docs/OPERATIONS.md']))
    expect(
      unpublishedIn('docs/X.md', '[a](FORMAT.md#x) [b](../src/index.ts) [c](#x) [d](decisions)'),
    ).toEqual(['src/index.ts'])
  })
})
