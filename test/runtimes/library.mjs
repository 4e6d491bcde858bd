/** What the tests of the runtimes use of the package: its published files. A Worker has no other way to load them. */
export { memoryKeyStore } from '../../dist/adapters/memory.js'
export { openKeyStore } from '../../dist/adapters/open.js'
export { postgresKeyStore } from '../../dist/adapters/postgres/store.js'
export { sqliteKeyStore } from '../../dist/adapters/sqlite/store.js'
export { encryptedText } from '../../dist/drizzle/sqlite.js'
export * from '../../dist/index.js'
export { drizzleSource, reencrypt } from '../../dist/reencrypt/index.js'
export { testKeyStore } from '../../dist/testing/index.js'
