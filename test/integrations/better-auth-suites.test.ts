/** Better Auth's own tests of adapters, over its drizzle adapter wrapped, on both dialects, and over one without Drizzle. None is left out. */
import {
  authFlowTestSuite,
  caseInsensitiveTestSuite,
  joinsTestSuite,
  normalTestSuite,
  numberIdTestSuite,
  testAdapter,
  transactionsTestSuite,
  uuidTestSuite,
} from '@better-auth/test-utils/adapter'
import { memoryAdapter } from 'better-auth/adapters/memory'
import { getAuthTables } from 'better-auth/db'
import { afterAll, beforeAll, type MockInstance, vi } from 'vitest'
import { encryptedAdapter } from '../../src/integrations/better-auth.js'
import { betterAuthDatabase } from '../support/better-auth-database.js'
import { dialects } from '../support/databases.js'
import { freshService } from '../support/fresh-store.js'
import { slow } from '../support/slow.js'

// They print each migration, and Better Auth warns of options that they leave out.
const printers: MockInstance[] = []
beforeAll(() => {
  for (const name of ['log', 'warn'] as const)
    printers.push(vi.spyOn(console, name).mockImplementation(() => undefined))
})
afterAll(() => {
  for (const printer of printers) printer.mockRestore()
})

for (const dialect of dialects) {
  // better-sqlite3 has synchronous transactions only: Better Auth uses none there.
  const transaction = dialect === 'postgres'
  const database = await betterAuthDatabase(dialect)
  const { execute } = await testAdapter({
    prefixTests: dialect,
    adapter: (options) =>
      // The suites make the tables anew, and numbers of users who were deleted come again.
      database.encrypted(options, { shredOnDelete: 'forget' }, { transaction }),
    runMigrations: (options) => database.migrate(options),
    tests: [
      normalTestSuite(),
      joinsTestSuite(),
      authFlowTestSuite(),
      ...(transaction ? [transactionsTestSuite()] : []),
      // The same tests with other ids.
      ...(slow ? [numberIdTestSuite(), uuidTestSuite(), caseInsensitiveTestSuite()] : []),
    ],
    onFinish: () => database.remove(),
  })
  execute()
}

const envelope = await freshService()
const rows: Record<string, never[]> = {}
const inMemory = await testAdapter({
  prefixTests: 'memory',
  adapter: (options) => {
    for (const { modelName } of Object.values(getAuthTables(options))) rows[modelName] ??= []
    return encryptedAdapter(memoryAdapter(rows), { envelope, plaintext: 'reject' })
  },
  runMigrations: () => {
    for (const table of Object.values(rows)) table.length = 0
  },
  tests: [normalTestSuite(), transactionsTestSuite(), ...(slow ? [joinsTestSuite()] : [])],
  onFinish: () => envelope.close(),
})
inMemory.execute()
