/** The blocks of pages that name their files: each is compiled, and what says that it is run prints what it says. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { runKeystore } from '../support/command.js'
import { type HostProject, hostProject } from '../support/host-project.js'
import {
  blocksOfPage,
  pageBlocks,
  pageFiles,
  runPageFile,
  runPageTests,
  saidOutput,
} from '../support/page-projects.js'

/** What a page leaves to its reader. */
const YOURS = `
  import type pg from 'pg'
  export declare const url: string
  export declare const pool: pg.Pool
  export declare const sqliteDb: import('drizzle-orm/better-sqlite3').BetterSQLite3Database
  export declare const postgresDb: import('drizzle-orm/node-postgres').NodePgDatabase
  export declare const tx: typeof postgresDb`

/** The pages. docs/QUICKSTART.md has a test of its own. */
const PAGES = ['CALLS', 'CONCEPTS', 'DATABASES', 'ERRORS', 'EXTENDING', 'MIGRATING', 'TESTING', 'WHY'].map(
  (page) => [page, blocksOfPage(`docs/${page}.md`)] as const,
)

/** Pages that only the site has: their blocks have no names, and follow one another. */
const SITE_PAGES = ['home', 'llms'].map((page) => {
  const blocks = blocksOfPage(`site/${page}.md`).filter(({ language }) => language === 'ts')
  return [page, blocks.map((block, index) => ({ ...block, file: `${index + 1}.ts` }))] as const
})

describe('the pages', () => {
  let project: HostProject
  // Compiled once: the compiler takes longer than most runs.
  beforeAll(() => {
    const files = [...PAGES, ...SITE_PAGES].map(([page, blocks]) => pageFiles(blocks, page))
    project = hostProject(Object.assign({ 'DATABASES/yours.ts': YOURS }, ...files), {
      drivers: ['pg', 'better-sqlite3', '@47ng/cloak'],
    })
  })
  afterAll(() => project?.remove())

  it('of the site alone run, on a store that the command has made', () => {
    expect(SITE_PAGES.map(([page, blocks]) => [page, blocks.length])).toEqual([
      ['home', 1],
      ['llms', 2],
    ])
    for (const [page, blocks] of SITE_PAGES) {
      const folder = join(project.path, page)
      const store = page === 'home' ? 'data/keystore.db' : 'app.db'
      expect(runKeystore(folder, ['init', '--store', store]).status).toBe(0)
      const env = { API_KEY_MASTER_KEY_FILE: 'data/master.key' }
      for (const { file } of blocks) expect(runPageFile(folder, file, env)).toEqual([])
    }
  })

  describe.each(PAGES)('docs/%s.md', (page, blocks) => {
    it('has no block that nothing compiles or runs', () => {
      const left = blocks.filter(
        ({ file, language, text }) => !file.endsWith('.ts') && !isRunElsewhere(language, text),
      )
      expect(left).toEqual([])
      expect(blocks.filter((block) => block.isRun !== saidOutput(block).length > 0)).toEqual([])
    })

    for (const block of blocks.filter(({ isRun }) => isRun)) {
      it(`runs ${block.file}, which prints what it says`, () => {
        expect(runPageFile(join(project.path, page), block.file)).toEqual(saidOutput(block))
      })
    }

    for (const { file } of blocks.filter((block) => block.file.endsWith('.test.ts') && !block.isRun)) {
      it(`passes ${file} with the runner of Node.js`, () => {
        const { status, output } = runPageTests(join(project.path, page), file)
        expect(status, output).toBe(0)
        expect(Number(/^ℹ pass (\d+)$/m.exec(output)?.[1])).toBeGreaterThan(20)
      })
    }
  })
})

/** A command that takes a file which only the Python reference makes: adoption.test.ts and the tests of `migrate` run it. */
function isRunElsewhere(language: string, text: string): boolean {
  return language === 'sh' && /^npx keystore migrate --store keys\.sqlite --adopt\n$/.test(text)
}

function readdirMarkdown(): string[] {
  return readdirSync('docs')
    .filter((name) => name.endsWith('.md'))
    .map((name) => name.replace(/\.md$/, ''))
}

describe('what is checked', () => {
  it('are all pages whose blocks name files', () => {
    const named = ['QUICKSTART', ...PAGES.map(([page]) => page)].sort()
    const found = readdirMarkdown().filter((page) =>
      blocksOfPage(`docs/${page}.md`).some(({ file }) => file !== ''),
    )
    expect(found.sort()).toEqual(named)
  })

  it('would be found wrong', () => {
    const blocks = pageBlocks('```ts a.ts run\nconsole.log(1) // → 2\n```\n')
    expect(blocks).toMatchObject([{ file: 'a.ts', isRun: true }])
    const project = hostProject(pageFiles(blocks, '.'))
    try {
      expect(blocks.flatMap(saidOutput)).toEqual(['2'])
      expect(runPageFile(project.path, 'a.ts')).toEqual(['1'])
    } finally {
      project.remove()
    }
    const wrong = pageFiles(pageBlocks('```ts a.ts\nconst a: number = ""\n```\n'), '.')
    expect(() => hostProject(wrong)).toThrow('the types are wrong')
  })
})

describe('docs/ERRORS.md', () => {
  const page = readFileSync('docs/ERRORS.md', 'utf8')
  const codes = readFileSync('src/errors.ts', 'utf8').match(/(?<=^ {2}\| ')ERR_\w+/gm) ?? []
  const sections = new Map(
    page
      .split(/^## /m)
      .slice(1)
      .map((text) => [text.slice(0, text.indexOf('\n')), text.slice(text.indexOf('\n'))]),
  )

  it('has a section for each code', () => {
    expect(codes.length).toBeGreaterThan(15)
    const titles = [...sections.keys()].filter((title) => title.startsWith('ERR_'))
    expect(titles.sort()).toEqual([...codes].sort())
  })

  it.each(codes)('says the cause of %s, and a way out', (code) => {
    const text = sections.get(code) ?? ''
    expect(text.trim().length).toBeGreaterThan(120)
    expect(text).toMatch(/^(?:- |\| )/m)
  })
})

describe('docs/EVENTS.md', () => {
  it('has every type of event', () => {
    const page = readFileSync('docs/EVENTS.md', 'utf8')
    const events = readFileSync('src/events.ts', 'utf8').match(/(?<=readonly type: ')\w+/g) ?? []
    expect(events.length).toBeGreaterThan(5)
    for (const type of events) expect(page).toContain(`| \`${type}\` |`)
  })
})

describe('docs/COMMANDS.md', () => {
  const page = readFileSync('docs/COMMANDS.md', 'utf8')

  it('lists every command, and no other', () => {
    const { stdout } = runKeystore('.', ['--help'])
    // Commands about commands need no row.
    const wanted = (name: string) => name !== 'help' && name !== 'completion'
    const commands = [...stdout.matchAll(/^ {2}([a-z-]+)(?: \[| {2,})/gm)]
      .map(([, name = '']) => name)
      .filter(wanted)
    expect(commands.length).toBeGreaterThan(10)
    const listed = [...page.matchAll(/^\| `([a-z-]+)` \|/gm)].map(([, name = '']) => name).filter(wanted)
    expect(listed.sort()).toEqual(commands.sort())
  })

  it('runs its blocks', () => {
    const [block, ...others] = blocksOfPage('docs/COMMANDS.md')
    expect(others).toEqual([])
    const { status, stdout } = runKeystore(
      '.',
      (block?.text.replace(/#.*/, '').trim().split(/ +/) ?? []).slice(2),
    )
    expect(status).toBe(0)
    expect(Buffer.from(stdout, 'base64')).toHaveLength(32)
  })
})
