/** docs/QUICKSTART.md from an empty folder to the first encrypted column, on each dialect, as the page says it. */

import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { delimiter, join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { cleanEnvironment } from '../support/command.js'
import { type Dialect, dialects, type FreshDatabase, freshDatabase } from '../support/databases.js'
import { type HostProject, hostProject } from '../support/host-project.js'
import { blocksOfPage, type PageBlock, pageFiles, runPageFile, saidOutput } from '../support/page-projects.js'

const page = readFileSync('docs/QUICKSTART.md', 'utf8')
const blocks = blocksOfPage('docs/QUICKSTART.md')
const of = (language: string) => blocks.filter((block) => block.language === language).map(({ text }) => text)
const [install = '', init = '', migrate = '', ...furtherShell] = of('sh')

/** What the page says of Postgres beside each block, in the words of the page. */
const ON_POSTGRES: readonly [said: string, from: string | RegExp, to: string][] = [
  ['import `pgTable` from `drizzle-orm/pg-core`', 'drizzle-orm/sqlite-core', 'drizzle-orm/pg-core'],
  [
    '`drizzle-keystore/drizzle/postgres`',
    'drizzle-keystore/drizzle/sqlite',
    'drizzle-keystore/drizzle/postgres',
  ],
  ['`pgTable`', /sqliteTable/g, 'pgTable'],
  ["the dialect is `'postgresql'`", "dialect: 'sqlite'", "dialect: 'postgresql'"],
  ['of `drizzle-orm/node-postgres`', 'drizzle-orm/better-sqlite3', 'drizzle-orm/node-postgres'],
  [
    "`drizzle(process.env.DATABASE_URL ?? '')`",
    "drizzle(process.env.DATABASE_URL ?? 'app.db')",
    "drizzle(process.env.DATABASE_URL ?? '')",
  ],
  ['// on Postgres: await db.$client.end()', 'db.$client.close()', 'await db.$client.end()'],
]

function forDialect(dialect: Dialect, block: PageBlock): PageBlock {
  if (dialect === 'sqlite') return block
  return { ...block, text: ON_POSTGRES.reduce((text, [, from, to]) => text.replace(from, to), block.text) }
}

describe('docs/QUICKSTART.md', () => {
  let project: HostProject
  beforeAll(() => {
    const files = dialects.map((dialect) =>
      pageFiles(
        blocks.map((block) => forDialect(dialect, block)),
        dialect,
      ),
    )
    project = hostProject(Object.assign({}, ...files), {
      drivers: ['better-sqlite3', 'pg', 'drizzle-kit'],
    })
    // What npm would have put there.
    const bin = join(project.path, 'bin')
    mkdirSync(bin)
    const commands = { keystore: 'dist/cli/main.js', 'drizzle-kit': 'node_modules/drizzle-kit/bin.cjs' }
    const cases = Object.entries(commands).map(
      ([name, file]) => `${name}) shift; exec '${process.execPath}' '${resolve(file)}' "$@";;`,
    )
    writeFileSync(join(bin, 'npx'), `#!/bin/sh\ncase "$1" in\n${cases.join('\n')}\nesac\nexit 1\n`, {
      mode: 0o755,
    })
  })
  afterAll(() => project?.remove())

  it('says of Postgres what is done for it here', () => {
    for (const [said] of ON_POSTGRES) expect(page).toContain(said)
  })

  it('installs what its code imports', () => {
    const code = blocks.filter(({ file }) => file !== '').map(({ text }) => text)
    const imported = code.flatMap((text) =>
      [...text.matchAll(/from '([a-z][a-z-]*)/g)].map(([, name = '']) => name),
    )
    for (const name of new Set(imported)) expect(install).toMatch(new RegExp(` ${name}\\b`))
    expect(furtherShell).toEqual([])
  })

  describe.each(dialects)('on %s', (dialect) => {
    let database: FreshDatabase
    beforeAll(async () => {
      database = await freshDatabase(dialect)
    })
    afterAll(() => database?.remove())

    it('makes key and table, migrates, and runs what it says it runs', () => {
      const folder = join(project.path, dialect)
      const url = dialect === 'sqlite' ? 'app.db' : database.url
      const said = init.replace('DATABASE_URL=app.db', `DATABASE_URL='${url}'`)
      expect(said).toContain(url)
      const script = `${said}\n${migrate}\necho\nenv | grep -E '^(DATABASE_URL|KEYSTORE_URL|API_KEY_MASTER_KEY_FILE)='`
      const { status, stdout, stderr } = spawnSync('bash', ['-eu', '-c', script], {
        cwd: folder,
        env: cleanEnvironment({ PATH: `${join(project.path, 'bin')}${delimiter}${process.env.PATH}` }),
        encoding: 'utf8',
        input: '',
      })
      expect(status, stdout + stderr).toBe(0)
      // The variables that the page puts into .env are those that its commands export.
      const variables = stdout
        .split('\n')
        .filter((line) => /^(DATABASE_URL|KEYSTORE_URL|API_KEY_MASTER_KEY_FILE)=/.test(line))
      if (dialect === 'sqlite') expect(of('ini').join('').trim().split('\n').sort()).toEqual(variables.sort())
      for (const file of dialect === 'sqlite' ? ['data/master.key', 'app.db'] : ['data/master.key'])
        expect(existsSync(join(folder, file))).toBe(true)
      expect(readFileSync(join(folder, 'data/.gitignore'), 'utf8')).toContain('master.key')

      const env = Object.fromEntries(
        variables.map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
      )
      const run = blocks.filter(({ isRun }) => isRun)
      expect(run.map(({ file }) => file)).toEqual(['src/first.ts', 'src/demo.ts'])
      for (const block of run)
        expect(runPageFile(folder, block.file, env), block.file).toEqual(saidOutput(block))
    })
  })

  it('has a compose file that gives each container what the library reads', () => {
    const [compose = '', ...others] = of('yaml')
    expect(others).toEqual([])
    // A secret of compose is a file in /run/secrets, by its name.
    const [, secret = ''] = /API_KEY_MASTER_KEY_FILE: \/run\/secrets\/(\w+)$/m.exec(compose) ?? []
    expect(compose).toMatch(new RegExp(`^ {4}secrets:\\n {6}- ${secret}$`, 'm'))
    expect(compose).toMatch(new RegExp(`^secrets:\\n {2}${secret}:\\n {4}file: \\./data/master\\.key$`, 'm'))
    expect(compose).toContain('command: ["npx", "keystore", "migrate"]')
    const urls = compose.match(/postgres:\/\/\S+/g) ?? []
    expect(urls).toHaveLength(2)
    for (const url of urls) expect(url).toMatch(/^postgres:\/\/app:\$\{POSTGRES_PASSWORD\}@db:5432\/app$/)
    for (const line of ['POSTGRES_USER: app', 'POSTGRES_DB: app']) expect(compose).toContain(line)
    const [dockerfile = ''] = of('dockerfile')
    expect(dockerfile).toContain('USER node')
    expect(dockerfile).not.toMatch(/master|\.env|COPY .*data/)
    expect(
      blocks
        .map(({ language }) => language)
        .filter((language) => !['ts', 'sh', 'ini', 'yaml', 'dockerfile'].includes(language)),
    ).toEqual([])
  })
})
