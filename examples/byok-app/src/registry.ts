/**
 * All encrypted columns of the application, for the commands that go over them: `npx keystore doctor --schema dist/registry.js`, and after a
 * master key has leaked `npx keystore reencrypt --schema dist/registry.js`.
 */
import { betterAuthColumns } from 'drizzle-keystore/better-auth'
import { defineEncrypted } from 'drizzle-keystore/reencrypt'
import { isPostgres } from './config.js'
import type { Tables } from './database.js'
import { contextOf } from './keys.js'
import * as postgres from './schema/postgres.js'
import * as sqlite from './schema/sqlite.js'

const url = process.env.KEYSTORE_URL ?? process.env.DATABASE_URL ?? ''
const { apiKeys, account, verification } = isPostgres(url) ? (postgres as unknown as Tables) : sqlite
const tables = { account, verification }
const ofAuth = betterAuthColumns({}).map(({ model, table: name, ...columns }) => [
  model,
  { table: tables[name as keyof typeof tables], ...columns },
])

export const encrypted = defineEncrypted({
  ...Object.fromEntries(ofAuth),
  apiKeys: { table: apiKeys, columns: { secret: contextOf } },
})
