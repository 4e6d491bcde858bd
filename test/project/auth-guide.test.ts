/**
 * The blocks of docs/AUTH.md, compiled against the published types. Those about Auth.js, Hono, Next.js and tRPC are run here on each dialect;
 * better-auth-sweep.test.ts runs those about Better Auth.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { EnvelopeCrypto } from '../../src/index.js'
import { type AuthJsDatabase, authJsDatabase } from '../support/auth-js.js'
import { type Dialect, dialects } from '../support/databases.js'
import { codeBlocks } from '../support/documents.js'
import { freshService } from '../support/fresh-store.js'
import { type HostProject, hostProject } from '../support/host-project.js'

/** The files that the blocks are, by words in them. */
const FILES = {
  config: 'satisfies AuthConfig',
  'account-tokens': "sqliteTable('account'",
  sweep: 'drizzleSource(db, accountTokens',
  hono: 'keystoreScope(envelope',
  next: 'signedIn(async',
  trpc: 'initTRPC',
}
/** Those about Better Auth, with what they leave to the application. */
const BETTER_AUTH_FILES = {
  'better-auth-config': [
    'export const auth = betterAuth',
    "const provider = 'sqlite'\nconst options = { user: { deleteUser: { enabled: true } }, session: { expiresIn: 60 } }",
  ],
  'better-auth-fields': [
    'const fields =',
    "import { encryptedAdapter } from 'drizzle-keystore/better-auth'\nencryptedAdapter((() => ({})) as (options: never) => object, { envelope, fields: own() })\nfunction own() { return fields }",
  ],
  'better-auth-registry': ['defineEncrypted(', "import { auth } from './better-auth-config.js'"],
  'better-auth-sweep': ['let left = 0', "import { encrypted } from './better-auth-registry.js'"],
} as const
const BETTER_AUTH_OWN = "import * as schema from './schema.js'\nimport { db, envelope } from './database.js'"
const PACKAGES = [
  'better-sqlite3',
  'pg',
  'better-auth',
  'hono',
  '@trpc/server',
  '@auth/core',
  '@auth/drizzle-adapter',
]
const blocks = codeBlocks(readFileSync('docs/AUTH.md', 'utf8'), 'ts')

/** What is in an application beside the blocks. */
const ownFiles = (dialect: Dialect) => ({
  database: `
    import type { EnvelopeCrypto } from 'drizzle-keystore'
    import type { drizzle } from 'drizzle-orm/${dialect === 'sqlite' ? 'better-sqlite3' : 'node-postgres'}'
    export const { db, envelope } = (globalThis as never as { given: { db: ReturnType<typeof drizzle>; envelope: EnvelopeCrypto } }).given`,
  schema: `
    import { encryptedText } from 'drizzle-keystore/drizzle/sqlite'
    import { sqliteTable, text } from 'drizzle-orm/sqlite-core'
    export const credentials = sqliteTable('credentials', {
      userId: text('user_id').notNull(),
      apiKey: encryptedText('api_key', { context: 'credentials.api_key' }).notNull(),
    })`,
  sessions: `
    import { createMiddleware } from 'hono/factory'
    export type SessionEnv = { Variables: { session: { userId: string } | null } }
    export const sessions = createMiddleware<SessionEnv>(async (c, next) => {
      const userId = c.req.header('cookie')
      c.set('session', userId === undefined ? null : { userId })
      await next()
    })`,
  auth: `
    export const signIn: { userId: string | undefined } = { userId: undefined }
    export const auth = async (): Promise<{ user?: { id?: string } } | null> =>
      signIn.userId === undefined ? null : { user: { id: signIn.userId } }`,
})

function blockWith(words: string): string {
  const found = blocks.filter((block) => block.includes(words))
  expect([words, found.length]).toEqual([words, 1])
  return found[0] ?? ''
}

function filesOf(dialect: Dialect): [string, string][] {
  const guide = Object.entries(FILES).map(([name, words]): [string, string] => [name, blockWith(words)])
  const betterAuth = Object.entries(BETTER_AUTH_FILES).map(([name, [words, own]]): [string, string] => [
    name,
    [BETTER_AUTH_OWN, own, blockWith(words)].join('\n'),
  ])
  return [...guide, ...betterAuth, ...Object.entries(ownFiles(dialect))].map(([name, text]) => [
    `${dialect}/${name}.ts`,
    dialect === 'sqlite'
      ? text
      : text
          .replace('drizzle-keystore/drizzle/sqlite', 'drizzle-keystore/drizzle/postgres')
          .replace('drizzle-orm/sqlite-core', 'drizzle-orm/pg-core')
          .replaceAll('sqliteTable', 'pgTable'),
  ])
}

describe('docs/AUTH.md', () => {
  let project: HostProject
  // Compiled once for both dialects: the compiler takes longer than all runs.
  beforeAll(() => {
    project = hostProject(Object.fromEntries(dialects.flatMap(filesOf)), { drivers: PACKAGES })
  })
  afterAll(() => project?.remove())

  it('has no other blocks about these libraries', () => {
    const words = Object.values(FILES)
    const rest = blocks.filter((block) => !words.some((word) => block.includes(word)))
    for (const block of rest) expect(block).not.toMatch(/auth-js|hono|trpc|'\.\/database\.js'/i)
  })

  describe.each(dialects)('on %s', (dialect) => {
    let database: AuthJsDatabase
    let envelope: EnvelopeCrypto
    // The modules keep what they were given first.
    beforeAll(async () => {
      database = await authJsDatabase(dialect)
      envelope = await freshService()
      Object.assign(globalThis, { given: { db: database.db, envelope } })
      await database.query('create table credentials (user_id text not null, api_key text not null)')
      for (const userId of ['alice', 'bob']) {
        const api_key = await envelope.encrypt(userId, `key of ${userId}`, { column: 'credentials.api_key' })
        await database.insert('credentials', [{ user_id: userId, api_key }])
      }
    })
    afterAll(async () => {
      await envelope?.close()
      await database?.remove()
    })
    const load = (name: keyof typeof FILES | 'auth') =>
      import(pathToFileURL(join(project.path, dialect, `${name}.js`)).href)
    const ofAlice = [{ userId: 'alice', apiKey: 'key of alice' }]

    it('wraps the adapter of Auth.js, whose tokens the application reads, writes and sweeps', async () => {
      const plain = database.adapter as Required<typeof database.adapter>
      const user = await plain.createUser({ id: 'ignored', email: 'alice@example.com', emailVerified: null })
      const account = { userId: user.id, type: 'oidc' as const, provider: 'google', providerAccountId: '1' }
      await plain.linkAccount({ ...account, provider: 'old', access_token: 'plain access' })
      const { config } = await load('config')
      await config.adapter.linkAccount({ ...account, access_token: 'a', refresh_token: 'r' })
      expect(await config.adapter.getAccount('1', 'old')).toMatchObject({ access_token: 'plain access' })

      const { tokensOf, saveTokens } = await load('account-tokens')
      expect(await tokensOf(user.id, 'google')).toMatchObject([
        { access_token: 'a', refresh_token: 'r', id_token: null },
      ])
      await saveTokens(user.id, 'google', { access_token: 'newer' })
      expect(await config.adapter.getAccount('1', 'google')).toMatchObject({
        access_token: 'newer',
        refresh_token: 'r',
      })

      const { left, failed } = await load('sweep')
      expect({ left, failed }).toEqual({ left: 0, failed: [] })
      expect(await tokensOf(user.id, 'old')).toMatchObject([{ access_token: 'plain access' }])
      const rows = await database.query('select access_token, refresh_token from account')
      for (const value of rows.flatMap((row) => Object.values(row)).filter((value) => value !== null))
        expect(value).toMatch(/^v3:/)
    })

    it('handles requests of Hono in the scope of their user', async () => {
      const { app } = await load('hono')
      const response = await app.request('/credentials', { headers: { cookie: 'alice' } })
      expect(await response.json()).toEqual(ofAlice)
      expect((await app.request('/credentials')).status).toBe(401)
    })

    it('handles routes of Next.js in the scope of their user', async () => {
      const { GET } = await load('next')
      const { signIn } = await load('auth')
      const request = new Request('http://localhost/credentials')
      expect((await GET(request, {})).status).toBe(401)
      signIn.userId = 'alice'
      expect(await (await GET(request, {})).json()).toEqual(ofAlice)
    })

    it('runs procedures of tRPC in the scope of their user', async () => {
      const { createCaller } = await load('trpc')
      expect(await createCaller({ userId: 'alice' }).credentials()).toEqual(ofAlice)
      await expect(createCaller({ userId: null }).credentials()).rejects.toMatchObject({
        code: 'UNAUTHORIZED',
      })
    })
  })
})
