/**
 * The conformance suite of {@link KeyStore}: what every sentence of the contract in store.ts means, as tests. Exported as
 * `drizzle-keystore/testing`. It takes the test functions as parameters, so that it depends on no runner.
 */
import type { KeyRef, KeyStore } from './store.js'
import { countTests } from './testing/counting.js'
import { endTests } from './testing/ending.js'
import { erasureTests } from './testing/erasing.js'
import type { DefineTest, Fixture } from './testing/fixture.js'
import { insertTests } from './testing/inserting.js'
import { listTests } from './testing/listing.js'
import { readingTests } from './testing/reading.js'
import { replaceTests } from './testing/replacing.js'

/** Of vitest, node:test, Jest, Mocha …: what the suite uses. Give the runner a time-out of 30 s or more. */
export interface TestRunner {
  describe(name: string, body: () => void): unknown
  it(name: string, body: () => Promise<void>): unknown
  beforeEach(hook: () => Promise<void>): unknown
  afterEach(hook: () => Promise<void>): unknown
}

/** A row as the storage itself holds it. */
export interface RawRow extends KeyRef {
  readonly encryptedKey: Uint8Array
}

/**
 * An empty store, for one test. What is optional here makes tests stricter where it is given: give all that the storage
 * can do.
 */
export interface OpenedSubject {
  readonly store: KeyStore
  /** Another store on the same storage, as another process would have it. The suite closes it. */
  reopen?(): Promise<KeyStore>
  /** All rows, read past the store. */
  rawRows?(): Promise<readonly RawRow[]>
  /** Makes every later call of the store fail: stops the server, drops the table … */
  breakDown?(): Promise<void>
  /** Closes and removes everything. The store may be closed already. */
  close(): Promise<void>
}

export interface KeyStoreSubject {
  readonly name: string
  /** Called before each test. */
  open(): Promise<OpenedSubject>
}

/**
 * Defines the tests that hold a {@link KeyStore} to its contract.
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
    const test: DefineTest = (name, body) => it(name, () => body(fixture()))
    describe('reading', () => readingTests(test))
    describe('insertIfAbsent', () => insertTests(test))
    describe('replaceWrapped', () => replaceTests(test))
    describe('list', () => listTests(test))
    describe('shred and remove', () => erasureTests(test))
    describe('sampleByKek and census', () => countTests(test))
    describe('closing and failing', () => endTests(test))
  })
}
