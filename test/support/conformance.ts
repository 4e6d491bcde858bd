/** What the conformance suites of stores are run on, and a runner for them that says what passed and what failed. */
import { memoryKeyStore } from '../../src/adapters/memory.js'
import type { KeyStore } from '../../src/index.js'
import type { KeyStoreSubject, TestRunner } from '../../src/testing/index.js'
import type { Break } from './broken-stores.js'

/** A memory store with some methods replaced, as a subject of the suite. `breakDown` replaces them by those of `outage` instead. */
export function memorySubject(name: string, change: Break, outage?: Partial<KeyStore>): KeyStoreSubject {
  return {
    name,
    async open() {
      const intact = memoryKeyStore()
      let overrides = change(intact)
      const store = new Proxy(intact, {
        get(target, property) {
          const override: unknown = Reflect.get(overrides, property)
          if (override !== undefined) return override
          const value: unknown = Reflect.get(target, property)
          return typeof value === 'function' ? value.bind(target) : value
        },
      })
      const breakDown = async () => {
        overrides = { ...outage }
      }
      return { store, close: () => intact.close(), ...(outage === undefined ? {} : { breakDown }) }
    },
  }
}

/** Runs a suite as a test runner would. `bail` ends it at the first failure, and runs slow tests last. */
export async function runSuite(
  define: (runner: TestRunner) => void,
  { bail = false } = {},
): Promise<{ passed: string[]; failed: string[] }> {
  const tests: { name: string; body: () => Promise<void> }[] = []
  const before: (() => Promise<void>)[] = []
  const after: (() => Promise<void>)[] = []
  define({
    describe: (_, body) => body(),
    it: (name, body) => tests.push({ name, body }),
    beforeEach: (hook) => before.push(hook),
    afterEach: (hook) => after.push(hook),
  })
  if (bail) tests.sort((a, b) => Number(a.name.includes('2,000')) - Number(b.name.includes('2,000')))
  const result = { passed: [] as string[], failed: [] as string[] }
  for (const { name, body } of tests) {
    for (const hook of before) await hook()
    const outcome = await body().then(
      () => result.passed,
      () => result.failed,
    )
    outcome.push(name)
    for (const hook of after) await hook()
    if (bail && result.failed.length > 0) break
  }
  return result
}
