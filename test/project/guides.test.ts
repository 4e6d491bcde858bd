/** Each block of code of docs/COLUMNS.md and docs/REENCRYPT.md is run as it stands there, in an application on each dialect. */
import { readFileSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type Database from 'better-sqlite3'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
import { getTableConfig as postgresTable } from 'drizzle-orm/pg-core'
import { getTableConfig as sqliteTable } from 'drizzle-orm/sqlite-core'
import type pg from 'pg'
import { createClient } from 'redis'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type EnvelopeCrypto, encryptRows } from '../../src/index.js'
import { type CommandStore, commandStore } from '../support/command-store.js'
import { itIf } from '../support/conditional.js'
import { type Dialect, dialects } from '../support/databases.js'
import { codeBlocks, runShellBlocks } from '../support/documents.js'
import { keystoreErrorOf } from '../support/errors.js'
import { freshService } from '../support/fresh-store.js'
import { type HostProject, hostProject } from '../support/host-project.js'
import { type RawDatabase, rawDatabase } from '../support/raw-database.js'
import { hasRedis, startRedis } from '../support/redis-server.js'

/** Another test runs this section: rollout.test.ts. */
const PATH = /^## From a plaintext table to the check constraint$.*?(?=^## )/ms
const guides = ['COLUMNS', 'REENCRYPT'].map((name) =>
  readFileSync(`docs/${name}.md`, 'utf8').replace(PATH, ''),
)
const blocksIn = (language: string) => guides.flatMap((guide) => codeBlocks(guide, language))
const redisSource = readFileSync('examples/redis-source.ts', 'utf8')

/** Blocks that are whole files, found by words in them. */
const FILES = {
  schema: 'export const credentials = sqliteTable(',
  integrations: 'encryptedFields<Settings>(',
  logins: "fingerprintText('email_fingerprint'",
  registry: 'defineEncrypted({',
  validators: 'createInsertSchema(credentials',
}
/** Blocks that are the body of a function, found by words in them, and the expression that it returns. */
const BODIES = {
  column: ["values({ id: 'c1'", 'rows satisfies { apiKey: string; settings: { model: string } | null }[]'],
  token: ['const contextOf =', 'secret satisfies string | null'],
  pool: ['await envelope.pool.scope(', 'keys satisfies { id: string; privateKey: string }[]'],
  unreadable: ['isUnreadable(apiKey)', 'broken satisfies string[]'],
  fingerprint: [
    'fingerprintMatches(logins',
    'login satisfies { emailFingerprint: string | null } | undefined',
  ],
  validated: ['newCredential.parse(body)', 'credential satisfies { apiKey: string }'],
  fields: ['.from(integrations)', '{ models, rows }'],
  rows: ['await decryptRows(', '{ rows, errors }'],
  sweep: ['drizzleSource(db', '{ left, failed }'],
  redis: ['redisSource(client', 'reports'],
} as const
/** Words of a block that is a part of an example, which has a test of its own. */
const EXCERPT = 'COMPARE_AND_SET ='

const DRIZZLE = {
  sqlite: 'drizzle-orm/better-sqlite3',
  postgres: 'drizzle-orm/node-postgres',
}
const given = (dialect: Dialect) => `
export interface Given {
  envelope: import('drizzle-keystore').EnvelopeCrypto
  db: ReturnType<typeof import('${DRIZZLE[dialect]}').drizzle>
  apiKey: string
  stored: { id: string; userId: string; apiKey: string }[]
  client: ReturnType<typeof import('redis').createClient>
}`

function blockWith(words: string): string {
  const found = blocksIn('ts').filter((block) => block.includes(words))
  expect([words, found.length]).toEqual([words, 1])
  return found[0] ?? ''
}

function moduleOf([words, result]: readonly [string, string]): string {
  const code = blockWith(words)
  return `import type { Given } from './given.js'
${(code.match(/^import .*$/gm) ?? []).join('\n')}
export async function run({ envelope, db, apiKey, stored, client }: Given) {
${code.replaceAll(/^import .*$/gm, '')}
return ${result}
}`
}

/** Makes the changes that the guide names: other imports. */
function forDialect(dialect: Dialect, code: string): string {
  if (dialect === 'sqlite') return code
  return code
    .replace('drizzle-keystore/drizzle/sqlite', 'drizzle-keystore/drizzle/postgres')
    .replace('drizzle-orm/sqlite-core', 'drizzle-orm/pg-core')
    .replaceAll('sqliteTable', 'pgTable')
}

function filesFor(dialect: Dialect): [string, string][] {
  const files = Object.entries(FILES).map(([name, words]) => [name, forDialect(dialect, blockWith(words))])
  const bodies = Object.entries(BODIES).map(([name, body]) => [name, forDialect(dialect, moduleOf(body))])
  const all = [...files, ...bodies, ['given', given(dialect)], ['redis-source', redisSource]]
  return all.map(([name, text = '']) => [`${dialect}/${name}.ts`, text])
}

const itOnRedis = itIf(hasRedis, 'redis-server is not installed')

it('runs all code of the guides', () => {
  const words = [...Object.values(FILES), ...Object.values(BODIES).map(([first]) => first), EXCERPT]
  expect(new Set(words.map(blockWith))).toEqual(new Set(blocksIn('ts')))
  expect(redisSource).toContain(blockWith(EXCERPT))
  expect(blocksIn('sh')).toHaveLength(2)
  const fences = guides.flatMap((guide) => guide.match(/^ *```/gm) ?? [])
  expect(fences).toHaveLength(2 * (blocksIn('ts').length + blocksIn('sh').length))
})

it('says how many others a truncated fingerprint finds', () => {
  const rows = guides.join('').match(/^\| (?:4|8|12|16) \|.*$/gm) ?? []
  expect(rows).toHaveLength(4)
  for (const row of rows) {
    const [bits = 0, ...others] = row.match(/\d[\d.]*/g) ?? []
    const expected = [100, 1000, 10_000].map((n) => (n - 1) / 2 ** Number(bits))
    for (const [index, figure] of expected.entries())
      expect(Math.abs(Number(others[index]) - figure), row).toBeLessThan(figure / 10)
  }
})

describe('in an application', () => {
  let project: HostProject
  // Compiled once for both dialects: the compiler takes longer than all runs.
  beforeAll(() => {
    project = hostProject(Object.fromEntries(dialects.flatMap(filesFor)), {
      drivers: ['better-sqlite3', 'pg', 'drizzle-zod', 'zod'],
    })
  })
  afterAll(() => project?.remove())

  describe.each(dialects)('on %s', (dialect) => {
    let store: CommandStore
    let app: RawDatabase
    let envelope: EnvelopeCrypto
    beforeEach(async () => {
      store = await commandStore(dialect)
      app = await rawDatabase(dialect)
      await app.query(
        'create table credentials (id text primary key, user_id text not null, api_key text not null, settings text, backup text)',
      )
      envelope = await freshService(store.url, { masterKeys: store.keys('a') })
    })
    afterEach(async () => {
      await envelope.close()
      await app.close()
      await store.remove()
    })

    const load = (name: string) => import(pathToFileURL(join(project.path, dialect, `${name}.js`)).href)
    async function run(name: keyof typeof BODIES, more: Record<string, unknown> = {}) {
      const db =
        dialect === 'sqlite'
          ? drizzleSqlite({ client: app.client as Database.Database })
          : drizzlePostgres({ client: app.client as pg.Pool })
      return (await load(name)).run({ envelope, db, ...more })
    }
    const insert = (...rows: readonly [id: string, userId: string, apiKey: string][]) =>
      app.insert(
        'credentials',
        rows.map(([id, user_id, api_key]) => ({ id, user_id, api_key })),
      )
    /** The plaintexts of all rows, which must be tokens under the column's context. */
    async function opened(): Promise<string[]> {
      const rows = await app.query('select * from credentials order by id')
      return Promise.all(
        rows.map(({ user_id, api_key }) =>
          envelope.decrypt(String(user_id), String(api_key), { column: 'credentials.api_key' }),
        ),
      )
    }

    it('makes schemas of the table that check the plaintext', async () => {
      const { newCredential } = await load('validators')
      const row = { id: 'c1', userId: 'alice', apiKey: 'sk-1', settings: { model: 'gpt' } }
      expect(newCredential.parse(row)).toEqual(row)
      for (const wrong of [{ apiKey: 123 }, { apiKey: 'plain' }, { settings: {} }])
        expect(newCredential.safeParse({ ...row, ...wrong }).success).toBe(false)
      const backup = await envelope.encrypt('alice', 'sk-backup')
      expect(newCredential.parse({ ...row, backup })).toEqual({ ...row, backup })
      expect(newCredential.safeParse({ ...row, backup: 'plain' }).success).toBe(false)
      await run('validated')
      expect(await opened()).toEqual(['sk-…'])
    })

    it('declares columns whose values are plaintexts to the application and tokens to the database', async () => {
      const { credentials } = await load('schema')
      const { checks } = dialect === 'sqlite' ? sqliteTable(credentials) : postgresTable(credentials)
      expect(checks).toHaveLength(3)
      expect(await run('column')).toMatchObject([{ id: 'c1', apiKey: 'sk-…', settings: null, backup: null }])
      expect(await opened()).toEqual(['sk-…'])
    })

    it('binds the token of a column of tokens to its row', async () => {
      await insert(['c1', 'alice', 'v3:x'], ['c2', 'alice', 'v3:x'])
      expect(await run('token')).toBe('sk-…')
      await app.query("update credentials set backup = (select backup from credentials where id = 'c1')")
      const [, moved] = await app.query('select user_id, backup from credentials order by id')
      const open = (row: string) =>
        envelope.decrypt(String(moved?.user_id), String(moved?.backup), { column: 'credentials.backup', row })
      expect(await open('c1')).toBe('sk-…')
      expect(await keystoreErrorOf(open('c2'))).toMatchObject({ code: 'ERR_DECRYPTION_FAILED' })
    })

    it('keeps the fields of JSON readable to SQL, but for those that are encrypted', async () => {
      const { integrations } = await load('integrations')
      const { checks } = dialect === 'sqlite' ? sqliteTable(integrations) : postgresTable(integrations)
      expect(checks).toHaveLength(1)
      const type = dialect === 'sqlite' ? 'text' : 'jsonb'
      await app.query(
        `create table integrations (id text primary key, user_id text not null, settings ${type} not null check ((settings ->> 'apiKey') like 'v3:%'))`,
      )
      const { models, rows } = await run('fields')
      expect(models).toEqual([{ model: 'gpt' }])
      expect(rows).toMatchObject([
        { id: 'i1', settings: { apiKey: 'sk-…', providers: { openai: { secret: 'sk-…' } } } },
      ])
      const [{ settings } = { settings: null }] = await app.query('select settings from integrations')
      expect(JSON.stringify(settings)).not.toContain('sk-…')
    })

    it('keeps values of the pool in a table, and names the row of a value that cannot be read', async () => {
      await app.query('create table jwks (id text primary key, private_key text not null)')
      expect(await run('pool')).toEqual([{ id: 'k1', privateKey: '-----BEGIN PRIVATE KEY-----…' }])
      const [{ private_key: token } = {}] = await app.query('select private_key from jwks')
      expect(await envelope.pool.decrypt(String(token), { column: 'jwks.private_key' })).toMatch(
        /^-----BEGIN/,
      )
      await insert(['1', 'alice', await envelope.encrypt('alice', 'x', { column: 'credentials.api_key' })])
      await insert(['2', 'alice', 'plaintext'])
      expect(await run('unreadable')).toEqual(['2: ERR_NOT_ENCRYPTED'])
    })

    it('finds equal values by their fingerprints', async () => {
      await app.query(
        'create table logins (id text primary key, user_id text not null, email text, email_fingerprint text unique)',
      )
      const found = await run('fingerprint')
      expect(found).toMatchObject({ id: 'l1', userId: 'alice', email: ' Alice@Example.org' })
      const options = { name: 'logins.email', normalize: ['trim', 'lowercase'] } as const
      const print = await envelope.fingerprint('alice', 'alice@example.org', options)
      expect(found.emailFingerprint).toBe(print)
      expect(await envelope.scope('alice', (alice) => alice.fingerprint('ALICE@example.org', options))).toBe(
        print,
      )
    })

    it('decrypts rows of many users, and none whose value was exchanged', async () => {
      const plain = ['a', 'b', 'c'].map((id) => ({ id, userId: id === 'c' ? 'carol' : 'alice', apiKey: id }))
      const { rows } = await encryptRows(envelope, plain, {
        owner: 'userId',
        columns: { apiKey: (row) => ({ column: 'credentials.api_key', row: row.id }) },
      })
      expect(await run('rows', { stored: rows })).toEqual({ rows: plain, errors: [] })
      const [a, b, c] = rows
      const exchanged = [{ ...a, apiKey: b?.apiKey }, { ...b, apiKey: a?.apiKey }, c]
      const result = await run('rows', { stored: exchanged })
      expect(result.rows).toEqual([{ id: 'a', userId: 'alice' }, { id: 'b', userId: 'alice' }, plain[2]])
      expect(result.errors).toMatchObject([
        { row: 0, column: 'apiKey', error: { code: 'ERR_DECRYPTION_FAILED' } },
        { row: 1, column: 'apiKey', error: { code: 'ERR_DECRYPTION_FAILED' } },
      ])
    })

    it('sweeps a table', async () => {
      const old = await envelope.encrypt('bob', 'of version 1', { column: 'credentials.api_key' })
      await envelope.rotateUserKey('bob')
      await insert(['1', 'alice', 'sk-1'], ['2', 'bob', old], ['3', 'bob', 'v3:AAAAcut'])
      expect(await run('sweep')).toMatchObject({
        left: 1,
        failed: [{ code: 'ERR_MALFORMED_TOKEN', key: '3' }],
      })
      await app.query(`delete from credentials where id = '3'`)
      expect(await opened()).toEqual(['sk-1', 'of version 1'])
      expect(await run('sweep')).toEqual({ left: 0, failed: [] })
    })

    it('sweeps a table from a shell, then the registry, and doctor finds no error', async () => {
      await insert(['1', 'alice', 'sk-1'], ['2', 'bob', 'sk-2'])
      await app.query(`update credentials set backup = 'b-1' where id = '1'`)
      await envelope.user('alice')
      symlinkSync(join(project.path, dialect), join(store.folder, 'dist'))
      const output = runShellBlocks(store.folder, blocksIn('sh'), { ...store.env, DATABASE_URL: app.url })
      expect(output).toContain('credentials: would re-encrypt 2 values')
      expect(output).toContain('credentials: re-encrypted 3 values')
      expect(output).toContain('No value is left in an old state.')
      expect(await opened()).toEqual(['sk-1', 'sk-2'])
      const [{ backup } = {}] = await app.query(`select backup from credentials where id = '1'`)
      expect(await envelope.decrypt('alice', String(backup), { column: 'credentials.backup' })).toBe('b-1')
    })

    itOnRedis('sweeps Redis', async () => {
      const server = await startRedis()
      const client = createClient({ url: server.url })
      try {
        await client.connect()
        await client.hSet('user:alice:secrets', 'key', 'of alice')
        await client.hSet('pool:secrets', 'key', 'of the pool')
        expect(await run('redis', { client })).toMatchObject([
          { complete: true, changed: 1, left: 0 },
          { complete: true, changed: 1, left: 0 },
        ])
        const context = { column: 'secrets', name: 'key' }
        const [ofAlice, ofPool] = [
          await client.hGet('user:alice:secrets', 'key'),
          await client.hGet('pool:secrets', 'key'),
        ]
        expect(await envelope.decrypt('alice', String(ofAlice), context)).toBe('of alice')
        expect(await envelope.pool.decrypt(String(ofPool), context)).toBe('of the pool')
      } finally {
        if (client.isOpen) client.destroy()
        await server.stop()
      }
    })
  })
})
