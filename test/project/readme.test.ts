/** The README's examples are run as they stand there, and its commands are those of package.json and CI. */
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { EnvelopeCrypto, generateMasterKey, localMasterKey } from '../../src/index.js'
import { cleanEnvironment, runKeystore } from '../support/command.js'
import { dialects, type FreshDatabase, freshDatabase, temporaryFolder } from '../support/databases.js'
import { codeBlocks } from '../support/documents.js'
import { keystoreErrorOf } from '../support/errors.js'
import { hostProject, linkPackages } from '../support/host-project.js'
import { blocksOfPage, runPageFile } from '../support/page-projects.js'
import { runSql } from '../support/raw-database.js'

const readme = readFileSync('README.md', 'utf8')
const blocks = (language: string) => codeBlocks(readme, language)

/** What the page says of the other dialect. */
const ON_POSTGRES = "postgresKeyStore({ url: process.env.DATABASE_URL ?? '' })"

function forPostgres(example: string): string {
  return example
    .replace(/sqliteKeyStore\(.*\)/, ON_POSTGRES)
    .replace(/sqliteKeyStore(.*)sqlite/, 'postgresKeyStore$1postgres')
}

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
    expect(readme).toContain(`\`${ON_POSTGRES}\` from \`drizzle-keystore/postgres\``)
    const example = dialect === 'sqlite' ? onSqlite : forPostgres(onSqlite)
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

  it('makes nothing while there is no master key', async () => {
    linkPackages(folder.path)
    writeFileSync(join(folder.path, 'example.mjs'), blocks('ts')[0] ?? '')
    const { status, stderr } = spawnSync(process.execPath, ['example.mjs'], {
      cwd: folder.path,
      env: cleanEnvironment({ KEYSTORE_URL: database.url }),
      encoding: 'utf8',
    })
    expect(status).toBe(1)
    expect(stderr).toContain('ERR_MASTER_KEY')
    const check = openKeyStore(database.url, { migrate: 'check' })
    expect(await keystoreErrorOf(check)).toMatchObject({ code: 'ERR_SCHEMA' })
    expect(dialect === 'sqlite' && existsSync(database.url)).toBe(false)
  })

  it('and the advice for production: a mistyped URL is an error, and makes nothing', async () => {
    const page = readFileSync('docs/DATABASES.md', 'utf8')
    const [advice = ''] = page.match(/^- \*\*In production\*\*.*?(?=^- )/ms) ?? []
    for (const words of ["`migrate: 'check'`", '(`keyLog`)', '`ERR_SCHEMA`', '`ERR_KEYS_LOST`'])
      expect(advice).toContain(words)
    const keyLog = join(folder.path, 'keys.jsonl')
    const masterKeys = localMasterKey(generateMasterKey())
    const open = async (url: string, migrate: 'auto' | 'check') => {
      const store = await openKeyStore(url, { migrate })
      return EnvelopeCrypto.open({ store, masterKeys, keyLog }).finally(() => store.close())
    }
    const mistyped = await freshDatabase(dialect)
    try {
      const store = await openKeyStore(database.url)
      const envelope = await EnvelopeCrypto.open({ store, masterKeys, keyLog })
      await envelope.encrypt('alice', 'x')
      await envelope.close()
      expect(await keystoreErrorOf(open(mistyped.url, 'check'))).toMatchObject({ code: 'ERR_SCHEMA' })
      expect(dialect === 'sqlite' && existsSync(mistyped.url)).toBe(false)
      if (dialect === 'postgres')
        await expect(runSql(dialect, mistyped.url, 'table encryption_keys')).rejects.toThrow()
      // Another store, which is there.
      expect(await keystoreErrorOf(open(mistyped.url, 'auto'))).toMatchObject({ code: 'ERR_KEYS_LOST' })
    } finally {
      await mistyped.remove()
    }
  })
})

/** What the reader of docs/POSTGRES.md has, in the words of its blocks. */
const READERS_OF_POSTGRES = `
  import { EnvelopeCrypto, type MasterKey } from 'drizzle-keystore'
  import { postgresKeyStore } from 'drizzle-keystore/postgres'
  import { pgTable, text } from 'drizzle-orm/pg-core'
  declare const [url, id]: [string, string]
  declare const db: import('drizzle-orm/node-postgres').NodePgDatabase
  declare const envelope: EnvelopeCrypto
  declare const masterKeys: MasterKey
  const credentials = pgTable('credentials', { id: text('id').primaryKey(), apiKey: text('api_key').notNull() })
`

it('the first two blocks of code compile in one file, as a reader may put them there, and those of docs/POSTGRES.md', () => {
  const close = 'await envelope.close()'
  const [first = '', columns] = blocks('ts')
  expect(first).toContain(close)
  hostProject({
    'all.ts': [first.replace(close, ''), columns, close].join('\n'),
    'postgres.ts': forPostgres(first),
    'guide.ts': `${READERS_OF_POSTGRES}\n${codeBlocks(readFileSync('docs/POSTGRES.md', 'utf8'), 'ts').join('\n')}`,
  }).remove()
})

it('the five things that go wrong with one key are shown by lines that run, and print what they say', () => {
  const block = blocks('ts').find((text) => text.includes('oldKey')) ?? ''
  const [helper] = blocksOfPage('docs/WHY.md').filter(({ file }) => file === 'one-key.ts')
  const before = `import { randomBytes } from 'node:crypto'
import { open, outcome, seal } from './one-key.js'
const [oldKey, newKey] = [randomBytes(32), randomBytes(32)]\n`
  const project = hostProject({ 'one-key.ts': helper?.text ?? '', 'five.ts': before + block })
  try {
    const said = [...block.matchAll(/\/\/ → (.*)$/gm)].map(([, text]) => text)
    expect(said).toHaveLength(5)
    expect(runPageFile(project.path, 'five.ts')).toEqual(said)
  } finally {
    project.remove()
  }
})

it('is short', () => {
  expect(readme.split('\n').length).toBeLessThanOrEqual(151)
})

/** Where the key is missing, a store that was opened first would be made, and stay empty. */
it.each([
  'README.md',
  'ARCHITECTURE.md',
  'docs/COLUMNS.md',
  'docs/REENCRYPT.md',
  'docs/POSTGRES.md',
  'docs/OPERATIONS.md',
])('the master key comes before the store in %s', (document) => {
  expect(storeBeforeKey(codeBlocks(readFileSync(document, 'utf8'), 'ts'))).toEqual([])
})

it('the master key comes before the store in the examples and in the examples of docstrings', () => {
  const files = ['src', 'examples'].flatMap((folder) =>
    readdirSync(folder, { recursive: true, encoding: 'utf8' }).map((name) => join(folder, name)),
  )
  const examples = files
    // The example application has packages of its own, once it is installed.
    .filter((file) => file.endsWith('.ts') && !file.includes('node_modules'))
    .flatMap((file) => {
      const text = readFileSync(file, 'utf8')
      return file.startsWith('src') ? (text.match(/@example.*?\*\//gs) ?? []) : [text]
    })
  expect(examples.filter((text) => text.includes('masterKeysFromEnv()')).length).toBeGreaterThan(2)
  expect(storeBeforeKey(examples)).toEqual([])
  expect(storeBeforeKey(['await openKeyStore(url)\nmasterKeysFromEnv()'])).toHaveLength(1)
})

function storeBeforeKey(blocks: readonly string[]): string[] {
  return blocks.filter((text) => /\b(openKeyStore|drizzle)\(.*masterKeysFromEnv\(\)/s.test(text))
}

it('the block of columns runs as it stands there, twice', async () => {
  const [first = '', columns = '', , ...others] = blocks('ts')
  expect(others).toEqual([])
  const folder = temporaryFolder()
  try {
    linkPackages(folder.path, 'drizzle-orm', 'better-sqlite3')
    runKeystore(folder.path, ['init'])
    const opened = first.slice(0, first.indexOf('const token'))
    const check = `
      const { tokens } = db.get(sql\`select count(*) as tokens from credentials where api_key like 'v3:%'\`)
      console.log(rows[0].apiKey === 'sk-…' && tokens === 1 ? 'ok' : { rows, tokens })
      db.run(sql\`drop table credentials\`)`
    writeFileSync(join(folder.path, 'block.mjs'), `${opened}\n${columns}\n${check}\nawait envelope.close()\n`)
    const env = cleanEnvironment({ API_KEY_MASTER_KEY_FILE: 'data/master.key' })
    const run = () =>
      execFileSync(process.execPath, ['block.mjs'], { cwd: folder.path, env, encoding: 'utf8' })
    expect([run(), run()]).toEqual(['ok\n', 'ok\n'])
  } finally {
    folder.remove()
  }
})

describe('the commands', () => {
  it('are the two that a newcomer needs, and CI runs the second', () => {
    expect(blocks('sh').map((block) => block.trim())).toEqual(
      expect.arrayContaining(['npm ci && npm start', 'npm ci && npm test']),
    )
    expect(readFileSync('.ci/run', 'utf8')).toContain("grep -m 1 -x 'npm ci && npm test' README.md")
  })
})
