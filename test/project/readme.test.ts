/** The README's examples are run as they stand there, and its commands are those of package.json and CI. */
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { EnvelopeCrypto, generateMasterKey, localMasterKey } from '../../src/index.js'
import { cleanEnvironment, runKeystore } from '../support/command.js'
import { dialects, type FreshDatabase, freshDatabase, temporaryFolder } from '../support/databases.js'
import { codeBlocks } from '../support/documents.js'
import { keystoreErrorOf } from '../support/errors.js'
import { hostProject, linkPackages } from '../support/host-project.js'
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
    const [advice = ''] = readme.match(/^- \*\*In production\*\*.*?(?=^- )/ms) ?? []
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

/** What the reader of the README has, in the words of its blocks. */
const READERS_OWN = `
  declare const [url, context]: [string, Record<string, string>]
  declare const work: (alice: import('drizzle-keystore').UserHandle) => Promise<void>
  declare const [from, to]: [import('drizzle-keystore').KeyStore, import('drizzle-keystore').KeyStore]
  declare const pool: import('pg').Pool
  declare const sqliteDb: import('drizzle-orm/better-sqlite3').BetterSQLite3Database
  declare const postgresDb: import('drizzle-orm/node-postgres').NodePgDatabase
  declare const tx: typeof postgresDb
`

/** The same for docs/POSTGRES.md. */
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

it('all blocks of code compile in one file, as a reader may put them there', () => {
  const close = 'await envelope.close()'
  const [first = '', stores, calls, tables, keys, ...others] = blocks('ts')
  expect(others).toEqual([])
  expect(first).toContain(close)
  // The tables declare a user, whom the calls take from the reader.
  const joined = [first.replace(close, ''), tables, calls, stores, keys, close].join('\n')
  hostProject({
    'all.ts': `${joined}\n${READERS_OWN}`,
    'postgres.ts': forPostgres(first),
    'guide.ts': `${READERS_OF_POSTGRES}\n${codeBlocks(readFileSync('docs/POSTGRES.md', 'utf8'), 'ts').join('\n')}`,
  }).remove()
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
    .filter((file) => file.endsWith('.ts'))
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
      console.log(rows[0].apiKey === plaintext && again.length === 1 && tokens === 2 ? 'ok' : { rows, again, tokens })`,
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
