/** What concerns the native core, for scripts/test-native.mjs: without a database, so that sanitizers can run it. */
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/format/**/*.test.ts', 'test/master-keys/key-wrap.test.ts'],
    // There is no server.
    testNamePattern: /^(?!.*through a store: postgres)/,
    testTimeout: 300_000,
    hookTimeout: 60_000,
    reporters: ['./test/support/summary-reporter.ts'],
    maxWorkers: 1,
    isolate: false,
  },
})
