import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'
import { slow } from './test/support/slow.js'
import { slowFiles } from './test/support/slow-files.js'

/** Measures processor time: what runs beside it takes caches and memory from it, and a heap that other files filled costs collections. */
const ALONE = 'test/envelope/fast-path-ratios.test.ts'

export default defineConfig({
  test: {
    reporters: ['./test/support/summary-reporter.ts'],
    silent: 'passed-only',
    testTimeout: 60_000,
    hookTimeout: 60_000,
    projects: [
      {
        extends: true,
        test: {
          name: 'together',
          include: slow ? slowFiles(import.meta.dirname) : ['test/**/*.test.ts'],
          exclude: [ALONE],
          globalSetup: ['test/support/global-setup.ts'],
          // Half of what tests do is waiting: for child processes, the server, a notification.
          // Large counts keep the machine busy by themselves, and some of them wait for processes that must not starve.
          maxWorkers: slow ? 1 : availableParallelism() + 1,
          // A process runs file after file, as each cleans up behind itself: to load Drizzle and the drivers anew for each took 100 s of CPU.
          isolate: false,
        },
      },
      ...(slow
        ? []
        : [
            {
              extends: true as const,
              test: { name: 'alone', include: [ALONE], sequence: { groupOrder: 1 } },
            },
          ]),
    ],
  },
})
