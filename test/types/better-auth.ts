/** Better Auth's own types fit those of the adapter, and the list of columns fits the sweep. Compiled, never run. */
import type { BetterAuthOptions } from 'better-auth'
import { betterAuth } from 'better-auth'
import { drizzleAdapter } from 'better-auth/adapters/drizzle'
import { bearer, twoFactor } from 'better-auth/plugins'
import type { Table } from 'drizzle-orm'
import { pgTable, text } from 'drizzle-orm/pg-core'
import { sqliteTable, text as sqliteText } from 'drizzle-orm/sqlite-core'
import type { EnvelopeCrypto } from '../../src/index.js'
import { betterAuthColumns, encryptedAdapter } from '../../src/integrations/better-auth.js'
import { drizzleSource } from '../../src/reencrypt/index.js'

declare const envelope: EnvelopeCrypto
declare const db: { $client: object }

const account = pgTable('account', { id: text().primaryKey(), userId: text(), accessToken: text() })
const schema = { account, twoFactor: sqliteTable('twoFactor', { id: sqliteText().primaryKey() }) }

const adapter = drizzleAdapter(db as never, { provider: 'pg', schema })
export const auth = betterAuth({ database: encryptedAdapter(adapter, { envelope }) })
export const sameType: typeof adapter = encryptedAdapter(adapter, {
  envelope,
  fields: { account: ['idToken'] },
})
declare const options: BetterAuthOptions
betterAuthColumns(options)

const tables: Record<string, Table> = schema
for (const { table, model: _, ...columns } of betterAuthColumns(auth.options)) {
  const found = tables[table]
  if (found !== undefined) drizzleSource(db, found, columns)
}

// Options that say nothing of the data model, each alone.
const database = encryptedAdapter(adapter, { envelope })
for (const { options } of [
  betterAuth({ database, user: { deleteUser: { enabled: true } } }),
  betterAuth({ database, user: { changeEmail: { enabled: true } }, session: { expiresIn: 60 } }),
  betterAuth({ database, session: { cookieCache: { enabled: true } } }),
  betterAuth({ database, account: { accountLinking: { enabled: true } } }),
  betterAuth({ database, account: { encryptOAuthTokens: true } }),
  betterAuth({ database, verification: { storeIdentifier: 'hashed' } }),
  betterAuth({ database, plugins: [bearer()] }),
])
  betterAuthColumns(options)
betterAuthColumns(
  betterAuth({ database, user: { deleteUser: { enabled: true } }, plugins: [bearer(), twoFactor()] }).options,
)
// @ts-expect-error an option of another type
betterAuthColumns({ user: { modelName: 1 } })

// @ts-expect-error what was called already is no adapter
encryptedAdapter(adapter(options), { envelope })
// @ts-expect-error an option that there is not
encryptedAdapter(adapter, { envelope, field: {} })
// @ts-expect-error a list is of names
encryptedAdapter(adapter, { envelope, fields: { account: [1] } })
