import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    reporters: ['default', './test/support/counts-reporter.ts'],
    // Half of what tests do is waiting: for child processes, the server, a notification.
    maxWorkers: availableParallelism() + 1,
    // A process runs file after file, as each cleans up behind itself: to load Drizzle and the drivers anew for each took 100 s of CPU.
    isolate: false,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
})
