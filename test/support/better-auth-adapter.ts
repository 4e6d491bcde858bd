/** The encrypting adapter over Better Auth's own one for Drizzle, on a database of its own for each test. */
import type { BetterAuthOptions } from 'better-auth'
import { twoFactor } from 'better-auth/plugins'
import type { EncryptedAdapterOptions } from '../../src/integrations/better-auth.js'
import { type AdapterChoices, betterAuthDatabase, type DrizzleAdapter } from './better-auth-database.js'
import type { Dialect } from './databases.js'
import { ofEachTest } from './each-test.js'

export type Adapter = ReturnType<DrizzleAdapter>
type Row = Record<string, unknown>

const owned = { type: 'string', required: false, references: { model: 'user', field: 'id' } } as const
/** A plugin whose rows may belong to nobody, as those of the SSO plugin. */
const sso = {
  id: 'sso',
  schema: { ssoProvider: { fields: { oidcConfig: { type: 'string', required: false }, userId: owned } } },
} as const
export const OPTIONS = { plugins: [sso, twoFactor()] } satisfies BetterAuthOptions

export const OF_PROVIDER = { accountId: 'subject', providerId: 'p', updatedAt: new Date() }

/** To be called outside of tests. */
export function encryptedAdapters(dialect: Dialect) {
  const database = ofEachTest(() => betterAuthDatabase(dialect))

  async function started(
    encryption: Partial<EncryptedAdapterOptions> = {},
    options: BetterAuthOptions = OPTIONS,
    choices: AdapterChoices = {},
  ): Promise<Adapter> {
    await database.migrate(options)
    return database.encrypted(options, encryption, choices)(options)
  }
  const addUser = (adapter: Adapter, id: string) =>
    adapter.create({
      model: 'user',
      data: { id, name: id, email: `${id}@example.com`, emailVerified: true },
      forceAllowId: true,
    })
  const addAccount = (adapter: Adapter, userId: string, more: Row = {}) =>
    adapter.create<Row, Row & { id: string }>({
      model: 'account',
      data: { ...OF_PROVIDER, userId, accessToken: `access of ${userId}`, ...more },
    })
  const stored = async (table = 'account') => {
    const rows = await database.rows(`select * from "${table}"`)
    return rows.sort((a, b) => String(a.userId).localeCompare(String(b.userId)))
  }
  const decrypt = (userId: string, token: unknown, column = 'account.accessToken') =>
    database.envelope.decrypt(userId, String(token), { column })
  const byId = ({ id }: { id: string }) => [{ field: 'id', value: id }]
  return { database, started, addUser, addAccount, stored, decrypt, byId }
}
