/**
 * The conformance suite of {@link KeyStore}: it tests every sentence of the contract in store.ts. Exported as
 * `drizzle-keystore/testing`. It takes the test functions as parameters, so it depends on no test runner.
 */
import type { KeyStore } from '../store.js'
import { changeTests } from './changing.js'
import { countTests } from './counting.js'
import { endTests } from './ending.js'
import { erasureTests } from './erasing.js'
import type { DefineTest, Fixture } from './fixture.js'
import { insertTests } from './inserting.js'
import { listTests } from './listing.js'
import { maintenanceTests } from './maintaining.js'
import { readingTests } from './reading.js'
import { replaceTests } from './replacing.js'
import { namingRule } from './rules.js'
import type { KeyStoreSubject, OpenedSubject, TestRunner } from './subject.js'
import { tenantTests } from './tenants.js'

export { type FaultSuiteOptions, testKeyStoreFaults } from './fault-suite.js'
export type { TestedLibrary, TestedService } from './fault-world.js'
export {
  type FaultOptions,
  type FaultSchedule,
  type FaultyMethod,
  type FaultyStore,
  type FaultyStoreOptions,
  faultyStore,
  randomFaults,
  STORE_FAULTS,
  type StoreFault,
} from './faulty-store.js'
export {
  type MasterKeyFailures,
  type MasterKeySubject,
  type OpenedMasterKey,
  testMasterKey,
} from './master-key-suite.js'
export type { KeyStoreSubject, OpenedSubject, RawRow, TestRunner } from './subject.js'

/**
 * Defines the tests that a {@link KeyStore} must pass to keep its contract. Optional parts are tested if the store has them. A failure begins
 * with the rule that is broken, such as `KeyStore.insertIfAbsent: exactly one writer wins a ref, …`.
 *
 * @example
 * import { afterEach, beforeEach, describe, it } from 'vitest'
 *
 * testKeyStore({ describe, it, beforeEach, afterEach }, {
 *   name: 'my store',
 *   async open() {
 *     const database = await freshDatabase()
 *     const store = myKeyStore(database.url)
 *     return {
 *       store,
 *       reopen: async () => myKeyStore(database.url),
 *       async close() {
 *         await store.close()
 *         await database.remove()
 *       },
 *     }
 *   },
 * })
 */
export function testKeyStore(runner: TestRunner, subject: KeyStoreSubject): void {
  const { describe, it, beforeEach, afterEach } = runner
  describe(`KeyStore contract: ${subject.name}`, () => {
    let opened: OpenedSubject
    let others: KeyStore[] = []
    beforeEach(async () => {
      opened = await subject.open()
      others = []
    })
    afterEach(async () => {
      await Promise.all(others.map((other) => other.close()))
      await opened.close()
    })
    const fixture = (): Fixture => ({
      ...opened,
      async severalStores() {
        for (let i = 0; i < 2 && opened.reopen; i++) others.push(await opened.reopen())
        return [opened.store, ...others]
      },
      rowsOf: async (userId) => (await opened.store.getAll([userId])).get(userId) ?? [],
      everyRow: () => opened.store.list({ limit: 10_000 }),
    })
    const group = (name: string, define: (test: DefineTest) => void) =>
      describe(name, () =>
        define((rule, body) => it(rule, () => namingRule(name, rule, () => body(fixture())))),
      )
    group('reading', readingTests)
    group('insertIfAbsent', insertTests)
    group('replaceWrapped', replaceTests)
    group('list', listTests)
    group('shred and remove', erasureTests)
    group('sampleByKek and census', countTests)
    group('tenants', tenantTests)
    group('changes', changeTests)
    group('maintenance', maintenanceTests)
    group('closing and failing', endTests)
  })
}
