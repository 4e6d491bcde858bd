/** docs/QUICKSTART.md from an empty folder to the first encrypted column, on each dialect, as the page says it. */

import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { delimiter, join, resolve } from 'node:path'
import { parseEnv } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { cleanEnvironment } from '../support/command.js'
import { type Dialect, dialects, type FreshDatabase, freshDatabase } from '../support/databases.js'
import { type HostProject, hostProject } from '../support/host-project.js'
import { blocksOfPage, type PageBlock, pageFiles, runPageFile, saidOutput } from '../support/page-projects.js'

const allBlocks = blocksOfPage('docs/QUICKSTART.md')

/** The blocks that somebody takes who has this database: the page has those that differ on Postgres behind those of SQLite. */
function blocksOn(dialect: Dialect): PageBlock[] {
  if (dialect === 'sqlite') return allBlocks.filter(({ isForPostgres }) => !isForPostgres)
  return allBlocks.filter((block, at) => block.isForPostgres || allBlocks[at + 1]?.isForPostgres !== true)
}
const textsOf = (blocks: readonly PageBlock[], language: string) =>
  blocks.filter((block) => block.language === language).map(({ text }) => text)
const VARIABLE = /^(DATABASE_URL|KEYSTORE_URL|API_KEY_MASTER_KEY_FILE)=/

describe('docs/QUICKSTART.md', () => {
  let project: HostProject
  beforeAll(() => {
    const files = dialects.map((dialect) => pageFiles(blocksOn(dialect), dialect))
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

  it.each(dialects)(
    'installs what its code imports on %s, and has a step for each block of shell',
    (dialect) => {
      const blocks = blocksOn(dialect)
      const [install = '', init = '', ...furtherShell] = textsOf(blocks, 'sh')
      const code = blocks.filter(({ file }) => file !== '').map(({ text }) => text)
      const imported = code.flatMap((text) =>
        [...text.matchAll(/from '([a-z][a-z-]*)/g)].map(([, name = '']) => name),
      )
      const driver = dialect === 'sqlite' ? 'better-sqlite3' : 'pg'
      for (const name of new Set([...imported, driver])) expect(install).toMatch(new RegExp(` ${name}\\b`))
      expect(init).toContain('npx keystore init')
      expect(furtherShell).toHaveLength(2)
    },
  )

  it('has the same steps on both databases', () => {
    const [onSqlite = [], onPostgres = []] = (['sqlite', 'postgres'] as const).map((dialect) =>
      blocksOn(dialect).map(({ language, file, isRun }) => ({ language, file, isRun })),
    )
    expect(onPostgres).toEqual(onSqlite)
    expect(allBlocks.length).toBeGreaterThan(onSqlite.length)
  })

  describe.each(dialects)('on %s', (dialect) => {
    let database: FreshDatabase
    beforeAll(async () => {
      database = await freshDatabase(dialect)
    })
    afterAll(() => database?.remove())

    it('makes key and table, migrates, and runs what it says it runs', () => {
      const folder = join(project.path, dialect)
      const blocks = blocksOn(dialect)
      const [, init = '', keep = '', migrate = ''] = textsOf(blocks, 'sh')
      const said =
        dialect === 'sqlite'
          ? init
          : init.replace(/^export DATABASE_URL=.*$/m, `export DATABASE_URL='${database.url}'`)
      const script = `${said}\n${keep}\n${migrate}\necho\nenv | grep -E '${VARIABLE.source}'`
      const { status, stdout, stderr } = spawnSync('bash', ['-eu', '-c', script], {
        cwd: folder,
        env: cleanEnvironment({ PATH: `${join(project.path, 'bin')}${delimiter}${process.env.PATH}` }),
        encoding: 'utf8',
        input: '',
      })
      expect(status, stdout + stderr).toBe(0)
      // The file has what the page's commands export, for Node.js and for a shell.
      const variables = stdout.split('\n').filter((line) => VARIABLE.test(line))
      const env = Object.fromEntries(
        variables.map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
      )
      expect(Object.keys(env)).toHaveLength(3)
      expect(parseEnv(readFileSync(join(folder, '.env'), 'utf8'))).toEqual(env)
      const source = `set -a; . ./.env; set +a; env | grep -E '${VARIABLE.source}'`
      const options = { cwd: folder, env: cleanEnvironment({}), encoding: 'utf8' } as const
      const sourced = spawnSync('sh', ['-c', source], options)
      expect(sourced.stdout.trim().split('\n').sort()).toEqual([...variables].sort())
      for (const file of dialect === 'sqlite' ? ['data/master.key', 'app.db'] : ['data/master.key'])
        expect(existsSync(join(folder, file))).toBe(true)
      expect(readFileSync(join(folder, 'data/.gitignore'), 'utf8')).toContain('master.key')
      expect(readFileSync(join(folder, '.gitignore'), 'utf8')).toContain('.env\n')

      const run = blocks.filter(({ isRun }) => isRun)
      expect(run.map(({ file }) => file)).toEqual(['src/first.ts', 'src/demo.ts'])
      for (const block of run)
        expect(runPageFile(folder, block.file, env), block.file).toEqual(saidOutput(block))
    })
  })

  it('has a compose file that gives each container what the library reads', () => {
    const [compose = '', ...others] = textsOf(allBlocks, 'yaml')
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
    const [dockerfile = ''] = textsOf(allBlocks, 'dockerfile')
    expect(dockerfile).toContain('USER node')
    expect(dockerfile).not.toMatch(/master|\.env|COPY .*data/)
    expect(
      allBlocks
        .map(({ language }) => language)
        .filter((language) => !['ts', 'sh', 'yaml', 'dockerfile'].includes(language)),
    ).toEqual([])
  })
})
