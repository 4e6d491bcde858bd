/** ARCHITECTURE.md names every wing, exactly the arrows of scripts/check-layers.mjs, and only files that exist. */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, it } from 'vitest'
import { codeBlocks } from '../support/documents.js'

const root = join(import.meta.dirname, '..', '..')
const page = readFileSync(join(root, 'ARCHITECTURE.md'), 'utf8')
const { WINGS }: { WINGS: Readonly<Record<string, readonly string[]>> } = await import(
  pathToFileURL(join(root, 'scripts', 'check-layers.mjs')).href
)
const TOP = WINGS['*'] ?? []

/** The script's name of the wing in a row's first cell. */
function wingName(cell: string): string {
  if (cell === 'the top of `src/`') return '*'
  return cell
    .replaceAll('`', '')
    .replace(/^src\//, '')
    .replace(/\/$/, '')
    .replace(/\.ts$/, '')
}

/** Which files of the top each wing may import, as the table of the wings says. */
function topOfWings(text: string): Map<string, readonly string[]> {
  const section = text.slice(text.indexOf('## The wings'), text.indexOf('```mermaid'))
  const rows = section
    .split('\n')
    .filter((line) => line.startsWith('| '))
    .slice(2)
  return new Map(
    rows.map((row) => {
      const cells = row.split(' | ')
      const uses = cells.at(-1)?.replace(/ \|$/, '') ?? ''
      const files = uses === 'all' ? TOP : [...uses.matchAll(/`([a-z-]+)`/g)].map(([, name = '']) => name)
      return [wingName(cells[0]?.slice(2) ?? ''), files]
    }),
  )
}

/** What each wing may import of the other wings, as the picture says: an arrow to a box goes to all that is in it. */
function arrowsOf(text: string): Map<string, Set<string>> {
  const [picture = ''] = codeBlocks(text, 'mermaid')
  const labels = new Map<string, string>()
  const boxes = new Map<string, Set<string>>()
  const arrows: { readonly from: string; readonly to: string; readonly file: string | undefined }[] = []
  let box: Set<string> | undefined
  for (const line of picture.split('\n').map((line) => line.trim())) {
    const [, boxName] = /^subgraph (\w+)$/.exec(line) ?? []
    if (boxName !== undefined) {
      box = new Set()
      boxes.set(boxName, box)
    } else if (line === 'end') {
      box = undefined
    } else if (line !== '' && !line.startsWith('flowchart ')) {
      const [, left = line, file, right = ''] = /^(.+?) -->(?:\|"(.+?)"\|)? (.+)$/.exec(line) ?? []
      const [sources, targets] = [left, right].map((side) =>
        [...side.matchAll(/(\w+)(?:\["(.+?)"\])?/g)].map(([, id = '', label]) => {
          if (label !== undefined) labels.set(id, label)
          box?.add(id)
          return id
        }),
      )
      for (const from of sources ?? []) for (const to of targets ?? []) arrows.push({ from, to, file })
      for (const id of [...(sources ?? []), ...(targets ?? [])]) labels.set(id, labels.get(id) ?? id)
    }
  }
  const nameOf = (id: string) => labels.get(id) ?? id
  const found = new Map(
    [...labels.keys()].filter((id) => !boxes.has(id)).map((id) => [nameOf(id), new Set<string>()]),
  )
  for (const { from, to, file } of arrows)
    for (const target of boxes.get(to) ?? [to]) {
      if (file !== undefined) expect(file).toContain(`${nameOf(target)}/`)
      found.get(nameOf(from))?.add(file ?? nameOf(target))
    }
  return found
}

/** The rules of scripts/check-layers.mjs, as the page has them. */
function rulesOf(text: string): Record<string, string[]> {
  const arrows = arrowsOf(text)
  const rules = Array.from(topOfWings(text), ([wing, files]) => [
    wing,
    [...files, ...(arrows.get(wing) ?? [])].sort(),
  ])
  return Object.fromEntries(rules)
}

const rules = Object.fromEntries(Object.entries(WINGS).map(([wing, allowed]) => [wing, [...allowed].sort()]))

/** Files and folders that the page names and that do not exist. */
function missingIn(text: string): string[] {
  const links = [...text.matchAll(/\]\(([^)#:]+)(?:#[^)]*)?\)/g)].map(([, path = '']) => path)
  const inText = text.replaceAll(/^```.*?^```/gms, '')
  const quoted = [...inText.matchAll(/`([\w.-]+(?:\/[\w.-]+)*\/?)`/g)].map(([, path = '']) => path)
  const paths = quoted.filter((path) => path.endsWith('/') || /\.(ts|mjs|md|json)$/.test(path))
  return [...new Set([...links, ...paths])].filter((path) => {
    const file = join(root, path)
    return !existsSync(file) || (path.endsWith('/') && !statSync(file).isDirectory())
  })
}

/** The page with one text replaced, which must be there. */
function edited(from: string, to: string): string {
  expect(page).toContain(from)
  return page.replace(from, to)
}

describe('ARCHITECTURE.md', () => {
  it('has every wing in its table and in its picture', () => {
    expect([...topOfWings(page).keys()].sort()).toEqual(Object.keys(WINGS).sort())
    expect([...arrowsOf(page).keys(), '*'].sort()).toEqual(Object.keys(WINGS).sort())
  })

  it('allows what scripts/check-layers.mjs allows, and no more', () => {
    expect(rulesOf(page)).toEqual(rules)
  })

  it.each([
    [
      'an arrow that is missing',
      '  drizzle --> sources & envelope & format\n',
      '  drizzle --> sources & envelope\n',
    ],
    ['an arrow too many', 'keys --> masterKeys & format', 'keys --> masterKeys & format & drivers'],
    ['an arrow to a whole wing', '-->|"format/aead"| format', '--> format'],
    [
      'another use of the top',
      '| where the application keeps values: its tables and files | keys and stores | `errors`, ',
      '| x | y | ',
    ],
    ['a wing that is missing', '| `src/drivers/` ', '| `src/driver/` '],
  ])('would be found out by %s', (_what, from, to) => {
    expect(rulesOf(edited(from, to))).not.toEqual(rules)
  })

  it('names every file of src/cli, and beside each command the file that is loaded for it', () => {
    const files = readdirSync(join(root, 'src', 'cli'))
    expect(
      files.filter((name) => !page.includes(`\`src/cli/${name}\``) && !page.includes(`(src/cli/${name})`)),
    ).toEqual([])
    const entries = readFileSync(join(root, 'src', 'cli', 'commands.ts'), 'utf8')
    const commands = [
      ...entries.matchAll(/^ {4}'([a-z-]+)',(?:(?!^ {2}\[).)*?await import\('\.\/([a-z-]+)\.js'\)/gms),
    ]
    expect(commands.length).toBeGreaterThan(10)
    const rows = page.split('\n').filter((line) => line.includes('](src/cli/'))
    for (const [, command, file] of commands) {
      const [row] = rows.filter((line) => line.split(' | ')[0]?.includes(`\`${command}\``))
      expect([command, row?.split(' | ')[1]]).toEqual([
        command,
        expect.stringContaining(`(src/cli/${file}.ts)`),
      ])
    }
  })

  it('names only files that exist', () => {
    expect(missingIn(page)).toEqual([])
    expect(missingIn(edited('(src/keys/cache.ts)', '(src/keys/gone.ts)'))).toEqual(['src/keys/gone.ts'])
    expect(missingIn(edited('`src/drivers/url.ts`', '`src/drivers/gone.ts`'))).toEqual([
      'src/drivers/gone.ts',
    ])
    expect(missingIn(edited('`test/no-leak/`', '`test/gone/`'))).toEqual(['test/gone/'])
  })
})
