/** The README's examples are run as they stand there, and its commands are those of package.json and CI. */
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { cleanEnvironment, runKeystore } from '../support/command.js'
import { dialects, type FreshDatabase, freshDatabase, temporaryFolder } from '../support/databases.js'
import { codeBlocks } from '../support/documents.js'
import { linkPackages } from '../support/host-project.js'

const readme = readFileSync('README.md', 'utf8')
const blocks = (language: string) => codeBlocks(readme, language)

describe.each(dialects)('the example on %s', (dialect) => {
  let folder: ReturnType<typeof temporaryFolder>
  let database: FreshDatabase
  beforeEach(async () => {
    folder = temporaryFolder()
    database = await freshDatabase(dialect)
  })
  afterEach(async () => {
    await database.remove()
    folder.remove()
  })

  it('runs as it stands there and gives the secret back', () => {
    const [onSqlite = ''] = blocks('ts')
    // What the page says of the other dialect.
    const onPostgres = 'postgresKeyStore({ url: process.env.DATABASE_URL })'
    expect(readme).toContain(`\`${onPostgres}\` from \`drizzle-keystore/postgres\``)
    const example =
      dialect === 'sqlite'
        ? onSqlite
        : onSqlite
            .replace(/sqliteKeyStore\(.*\)/, onPostgres)
            .replace(/sqliteKeyStore(.*)sqlite/, 'postgresKeyStore$1postgres')
    expect(example.split('\n').filter((line) => line.trim() !== '').length).toBeLessThanOrEqual(10)
    linkPackages(folder.path)
    writeFileSync(
      join(folder.path, 'example.mjs'),
      `${example}\nconsole.log(JSON.stringify({ token, apiKey }))\n`,
    )
    // As a newcomer does it: init, and the line that it prints, which stands in the README too.
    const DATABASE_URL = database.url
    const atStore = dialect === 'sqlite' ? [] : ['--store', DATABASE_URL]
    const said = runKeystore(folder.path, ['init', ...atStore]).stdout
    const [, line = '', API_KEY_MASTER_KEY_FILE] =
      /^ {2}(export API_KEY_MASTER_KEY_FILE=(.+))$/m.exec(said) ?? []
    expect(blocks('sh').join('')).toMatch(new RegExp(`^${line} `, 'm'))
    const env = cleanEnvironment({ DATABASE_URL, API_KEY_MASTER_KEY_FILE })
    const output = execFileSync(process.execPath, ['example.mjs'], {
      cwd: folder.path,
      env,
      encoding: 'utf8',
    })
    const { token, apiKey } = JSON.parse(output)
    expect(token).toMatch(/^v3:/)
    expect(apiKey).toBe('sk-proj-…')
  })
})

/** What stands around each further block, found by words in it: what it takes from the page or from the reader, and what must come out. */
const BLOCKS: Record<string, { readonly before: string; readonly after: string }> = {
  'sqliteKeyStore({ path': {
    before: `
      import Database from 'better-sqlite3'
      import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
      import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
      import pg from 'pg'
      const url = process.env.POSTGRES_URL
      const pool = new pg.Pool({ connectionString: url })
      const sqliteDb = drizzleSqlite({ client: new Database(':memory:') })
      const postgresDb = drizzlePostgres({ client: pool })
      const tx = postgresDb`,
    after: `console.log('ok'); await pool.end()`,
  },
  'decryptMany([': {
    before: `
      const [userId, context, work] = ['alice', { a: 'b' }, async (alice) => alice.encrypt('x')]
      const token = await envelope.encrypt(userId, 'ok', context)`,
    after: 'console.log(results[0].value === secret.reveal() ? Buffer.from(bytes).toString() : results)',
  },
  'tokenCheck(table': {
    before: '',
    after: `
      const bob = 'bob'
      await envelope.scope(bob, () => db.insert(credentials).values({ id: 'b', userId: bob, apiKey: 'of bob' }))
      const again = await envelope.scope(userId, () => ofAlice)
      const { tokens } = db.get(sql\`select count(*) as tokens from credentials where api_key like 'v3:%'\`)
      console.log(rows[0].apiKey === apiKey && again.length === 1 && tokens === 2 ? 'ok' : { rows, again, tokens })`,
  },
  'rewrapAll({': {
    before: `
      import { memoryKeyStore } from 'drizzle-keystore/memory'
      const [from, to] = [store, memoryKeyStore()]
      await envelope.encrypt('alice', 'x')`,
    after:
      'console.log(receipt.versions.length === 2 && report.complete && ok && equal ? "ok" : { findings, report })',
  },
}

describe('every further block of code', () => {
  const [first = '', ...others] = blocks('ts')
  const opened = first.slice(0, first.indexOf('const token'))
  let folder: ReturnType<typeof temporaryFolder>
  let postgres: FreshDatabase
  beforeAll(async () => {
    folder = temporaryFolder()
    postgres = await freshDatabase('postgres')
    linkPackages(folder.path, 'drizzle-orm', 'better-sqlite3', 'pg')
    runKeystore(folder.path, ['init'])
  })
  afterAll(async () => {
    await postgres.remove()
    folder.remove()
  })

  it('is run', () => {
    const words = Object.keys(BLOCKS)
    expect(others.map((block) => words.filter((word) => block.includes(word)).length)).toEqual(
      others.map(() => 1),
    )
    expect(others).toHaveLength(words.length)
  })

  it.each(Object.entries(BLOCKS))('runs as it stands there: %s', (words, { before, after }) => {
    const block = others.find((text) => text.includes(words)) ?? ''
    // It may import again what the first block imports.
    const lines = opened.split('\n').filter((line) => !line.startsWith('import') || !block.includes(line))
    const script = `${lines.join('\n')}\n${before}\n${block}\n${after}\nawait envelope.close()\n`
    writeFileSync(join(folder.path, 'block.mjs'), script)
    const env = cleanEnvironment({ POSTGRES_URL: postgres.url, API_KEY_MASTER_KEY_FILE: 'data/master.key' })
    const output = execFileSync(process.execPath, ['block.mjs'], { cwd: folder.path, env, encoding: 'utf8' })
    expect(output).toBe('ok\n')
  })
})

describe('the commands', () => {
  it('are the two that a newcomer needs, and CI runs the second', () => {
    expect(blocks('sh').map((block) => block.trim())).toEqual(
      expect.arrayContaining(['npm ci && npm start', 'npm ci && npm test']),
    )
    expect(readFileSync('.ci/run', 'utf8')).toContain("grep -m 1 -x 'npm ci && npm test' README.md")
  })

  it('are all listed', () => {
    const { stdout } = runKeystore('.', ['--help'])
    const commands = [...stdout.matchAll(/^ {2}([a-z-]+) \[?(?:options|file)/gm)].map((match) => match[1])
    expect(commands.length).toBeGreaterThan(10)
    for (const command of commands) expect(readme).toMatch(new RegExp(`^npx keystore ${command} `, 'm'))
  })

  it('names every type of event', () => {
    const events = readFileSync('src/events.ts', 'utf8').match(/(?<=readonly type: ')\w+/g) ?? []
    expect(events.length).toBeGreaterThan(5)
    for (const type of events) expect(readme).toContain(`\`${type}\``)
  })

  it('names every error code of the library', () => {
    const codes = readFileSync('src/errors.ts', 'utf8').match(/(?<=\| ')ERR_\w+/g) ?? []
    expect(codes.length).toBeGreaterThan(10)
    for (const code of codes) expect(readme).toContain(`\`${code}\``)
  })
})
