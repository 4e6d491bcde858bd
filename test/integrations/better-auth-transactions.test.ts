/** A sign-up in a real transaction on SQLite, as Better Auth's Kysely adapter begins it: it writes while the key of the new user is minted. */
import { join } from 'node:path'
import type { BetterAuthOptions } from 'better-auth'
import { drizzleAdapter } from 'better-auth/adapters/drizzle'
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { describe, expect, it } from 'vitest'
import { sqliteKeyStore } from '../../src/adapters/sqlite/store.js'
import { encryptedAdapter } from '../../src/integrations/better-auth.js'
import { betterAuthTables } from '../support/better-auth-tables.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { freshService } from '../support/fresh-store.js'

describe('a transaction of Better Auth on SQLite', () => {
  const cleanups = cleanUpAfterEach()

  async function signingUp(keyStoreFile: string) {
    const folder = cleanups.folder()
    const client = cleanups.closing(new Database(join(folder, 'app.db')))
    const { schema, sql } = betterAuthTables('sqlite', {})
    for (const statement of sql) client.exec(statement)
    const store = sqliteKeyStore({ path: join(folder, keyStoreFile), deadlineMs: 500 })
    const envelope = cleanups.closing(await freshService(store))
    const plain = drizzleAdapter(drizzle({ client, schema }), { provider: 'sqlite', schema })
    const withTransactions = (options: BetterAuthOptions) => {
      const transaction: ReturnType<typeof plain>['transaction'] = async (work) => {
        client.exec('begin')
        try {
          const result = await work(plain(options))
          client.exec('commit')
          return result
        } catch (error) {
          client.exec('rollback')
          throw error
        }
      }
      return { ...plain(options), transaction }
    }
    const adapter = encryptedAdapter(withTransactions, { envelope, plaintext: 'reject' })({})
    const signUp = (id: string, after: () => void = () => undefined) =>
      adapter.transaction(async (trx) => {
        const user = { id, name: id, email: `${id}@example.com`, emailVerified: true }
        await trx.create({ model: 'user', data: user, forceAllowId: true })
        const account = { userId: id, accountId: id, providerId: 'p', updatedAt: new Date() }
        await trx.create({ model: 'account', data: { ...account, accessToken: `access of ${id}` } })
        after()
      })
    return { adapter, envelope, signUp }
  }

  it('works with the key store in a file of its own, and leaves no row when it is rolled back', async () => {
    const { adapter, envelope, signUp } = await signingUp('keystore.db')
    await signUp('alice')
    const undone = signUp('bob', () => {
      throw new Error('undone')
    })
    await expect(undone).rejects.toThrow('undone')
    expect(await adapter.findMany({ model: 'account' })).toMatchObject([{ accessToken: 'access of alice' }])
    // Bob's key stays, which does no harm: it opens nothing.
    expect(await envelope.user('bob', { mint: false })).toBeDefined()
  })

  it('fails at the deadline with the key store in the same file, where there is one writer, and writes nothing', async () => {
    const { adapter, signUp } = await signingUp('app.db')
    await expect(signUp('alice')).rejects.toMatchObject({ code: 'ERR_STORE', retryable: true })
    expect(await adapter.findMany({ model: 'user' })).toEqual([])
  })
})
