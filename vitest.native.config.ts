/** What concerns the native core, for scripts/test-native.mjs: without a database, so that sanitizers can run it. */
import { defineConfig } from 'vitest/config'

const isSanitized = (process.env.ASAN_OPTIONS ?? process.env.UBSAN_OPTIONS) !== undefined

export default defineConfig({
  test: {
    include: ['test/format/**/*.test.ts', 'test/master-keys/key-wrap.test.ts'],
    // There is no server. Of what takes a minute under a sanitizer, native-differential.test.ts has its own count.
    testNamePattern: isSanitized
      ? /^(?!.*(?:through a store: postgres|with a known code))/
      : /^(?!.*through a store: postgres)/,
    testTimeout: 300_000,
    hookTimeout: 60_000,
    reporters: ['./test/support/summary-reporter.ts'],
    maxWorkers: 1,
    isolate: false,
  },
})
