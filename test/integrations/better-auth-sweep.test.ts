/** An application with Better Auth that has secrets already, from plaintext to tokens only, as docs/AUTH.md says it. */
import { readFileSync } from 'node:fs'
import type { BetterAuthOptions } from 'better-auth'
import { betterAuth } from 'better-auth'
import { drizzleAdapter } from 'better-auth/adapters/drizzle'
import { symmetricEncrypt } from 'better-auth/crypto'
import { is, Table } from 'drizzle-orm'
import { describe, expect, it } from 'vitest'
import { betterAuthColumns, encryptedAdapter } from '../../src/integrations/better-auth.js'
import { defineEncrypted, type EncryptedRegistry, reencrypt } from '../../src/reencrypt/index.js'
import { betterAuthDatabase } from '../support/better-auth-database.js'
import { dialects } from '../support/databases.js'
import { codeBlocks } from '../support/documents.js'
import { ofEachTest } from '../support/each-test.js'

const blocks = codeBlocks(readFileSync('docs/AUTH.md', 'utf8'), 'ts')
const NAMES = {
  betterAuth,
  drizzleAdapter,
  encryptedAdapter,
  betterAuthColumns,
  is,
  Table,
  reencrypt,
  defineEncrypted,
}

/** Runs the block of the document that has some words, and returns the value of an expression after it. */
function run(words: string, given: object, result: string): Promise<unknown> {
  const found = blocks.filter((block) => block.includes(words))
  expect([words, found.length]).toEqual([words, 1])
  const code = found[0]
    ?.replaceAll(/^import .*\n/gm, '')
    .replaceAll(/^export /gm, '')
    .replace(/ satisfies \w+/, '')
  const all = { ...NAMES, ...given }
  const AsyncFunction = (async () => undefined).constructor as FunctionConstructor
  return AsyncFunction(...Object.keys(all), `${code}\nreturn ${result}`)(...Object.values(all))
}

const SECRET = 'a secret of thirty-two characters'
const options = { secret: SECRET, baseURL: 'http://localhost:3000' } satisfies BetterAuthOptions

describe.each(dialects)('docs/AUTH.md on %s', (dialect) => {
  const database = ofEachTest(() => betterAuthDatabase(dialect))

  it('brings plaintext and ciphertext of Better Auth to tokens, which it reads all the while', async () => {
    await database.migrate(options)
    const encrypted = await symmetricEncrypt({ key: SECRET, data: 'a refresh token' })
    const plain = database.adapter(options)(options)
    for (const id of ['alice', 'bob']) {
      await plain.create({
        model: 'user',
        data: { id, name: id, email: `${id}@example.com`, emailVerified: true },
        forceAllowId: true,
      })
      const tokens = { accessToken: `access of ${id}`, refreshToken: encrypted, idToken: null }
      await plain.create({
        model: 'account',
        data: { userId: id, accountId: id, providerId: 'p', updatedAt: new Date(), ...tokens },
      })
    }
    await plain.create({
      model: 'verification',
      data: { identifier: 'state', value: 'a code verifier', expiresAt: new Date(Date.now() + 1e6) },
    })

    const { envelope } = database
    const { db, schema } = database.drizzle(options)
    const provider = dialect === 'sqlite' ? 'sqlite' : 'pg'
    const given = { db, schema, provider, envelope, options }
    const auth = (await run('export const auth', given, 'auth')) as ReturnType<typeof betterAuth>
    const strict = database.encrypted(options, {})(options)
    const context = await auth.$context
    const read = () =>
      context.adapter.findMany({ model: 'account', sortBy: { field: 'userId', direction: 'asc' } })
    const expected = [
      { userId: 'alice', accessToken: 'access of alice', refreshToken: encrypted, idToken: null },
      { userId: 'bob', accessToken: 'access of bob', refreshToken: encrypted, idToken: null },
    ]
    expect(await read()).toMatchObject(expected)
    await expect(strict.findMany({ model: 'account' })).rejects.toMatchObject({ code: 'ERR_NOT_ENCRYPTED' })

    const registry = (await run('defineEncrypted(', { ...given, auth }, 'encrypted')) as EncryptedRegistry
    const [accounts] = registry.sources(db).values()
    const dryRun = await reencrypt({ envelope, source: accounts as never, plaintext: true, dryRun: true })
    expect(dryRun.before).toMatchObject({ plaintext: 4 })
    expect(await run('let left = 0', { ...given, encrypted: registry }, 'left')).toBe(0)
    const rows = await database.rows('select "accessToken", "refreshToken", "idToken" from account')
    for (const { accessToken, refreshToken, idToken } of rows) {
      expect([accessToken, refreshToken]).toEqual([
        expect.stringMatching(/^v3:/),
        expect.stringMatching(/^v3:/),
      ])
      expect(idToken).toBeNull()
    }
    expect(await read()).toMatchObject(expected)
    expect(await strict.findMany({ model: 'account' })).toHaveLength(2)
    expect(await strict.findMany({ model: 'verification' })).toMatchObject([{ value: 'a code verifier' }])
  })

  it('has a list of fields that Better Auth starts with', async () => {
    const integration = {
      fields: {
        apiKey: { type: 'string', required: true },
        createdBy: { type: 'string', required: true, references: { model: 'user', field: 'id' } },
      },
    } as const
    const withPlugin = { ...options, plugins: [{ id: 'integrations', schema: { integration } }] }
    const fields = (await run('const fields =', {}, 'fields')) as never
    const tables = betterAuthColumns(withPlugin, { fields })
    expect(tables.map(({ model, columns }) => [model, Object.keys(columns)])).toEqual([
      ['account', ['accessToken', 'refreshToken', 'idToken', 'password']],
      ['integration', ['apiKey']],
    ])
    await database.migrate(withPlugin)
    const auth = betterAuth({ ...withPlugin, database: database.encrypted(withPlugin, { fields }) })
    const { adapter } = await auth.$context
    await adapter.create({
      model: 'user',
      data: { id: 'alice', name: 'a', email: 'a@example.com', emailVerified: true },
      forceAllowId: true,
    })
    await adapter.create({ model: 'integration', data: { apiKey: 'sk-1', createdBy: 'alice' } })
    const [row] = await database.rows('select "apiKey" from integration')
    const context = { column: 'integration.apiKey' }
    expect(await database.envelope.decrypt('alice', String(row?.apiKey), context)).toBe('sk-1')
  })
})
