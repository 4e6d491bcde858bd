/** Better Auth's own tests of adapters, over its drizzle adapter wrapped, on both dialects. None of them is left out. */
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
import { encryptedAdapter } from '../../src/integrations/better-auth.js'
import { betterAuthDatabase } from '../support/better-auth-database.js'
import { dialects } from '../support/databases.js'
import { slow } from '../support/slow.js'

for (const dialect of dialects) {
  // better-sqlite3 has synchronous transactions only: Better Auth uses none there.
  const transaction = dialect === 'postgres'
  const database = await betterAuthDatabase(dialect)
  const { execute } = await testAdapter({
    prefixTests: dialect,
    adapter: (options) =>
      encryptedAdapter(database.adapter(options, { transaction }), {
        envelope: database.envelope,
        plaintext: 'reject',
        // The suites make the tables anew, and numbers of users who were deleted come again.
        shredOnDelete: 'forget',
      }),
    runMigrations: (options) => database.migrate(options),
    tests: [
      normalTestSuite(),
      joinsTestSuite(),
      authFlowTestSuite(),
      ...(transaction ? [transactionsTestSuite()] : []),
      // The same tests with other ids.
      ...(slow ? [numberIdTestSuite(), uuidTestSuite(), caseInsensitiveTestSuite()] : []),
    ],
    onFinish: () => database.close(),
  })
  execute()
}
