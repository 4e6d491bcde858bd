/** What the conformance suite takes: the functions of a test runner, and a store to test. */

import type { KeyStore } from '../store.js'
import type { KeyRef } from '../table.js'

/** The functions of vitest, node:test, Jest, Mocha … that the suite calls. Set the runner's time-out to 30 s or more. */
export interface TestRunner {
  describe(name: string, body: () => void): unknown
  it(name: string, body: () => Promise<void>): unknown
  beforeEach(hook: () => Promise<void>): unknown
  afterEach(hook: () => Promise<void>): unknown
}

/** A row, read from the storage without the store. */
export interface RawRow extends KeyRef {
  /** The stored bytes; empty of a tombstone. */
  readonly encryptedKey: Uint8Array
}

/** An empty store for one test. Each optional member makes the suite stricter: give all that the storage can do. */
export interface OpenedSubject {
  /** The store under test, without rows. */
  readonly store: KeyStore
  /** Opens another store on the same storage, as another process would. The suite closes it. */
  reopen?(): Promise<KeyStore>
  /** Reads all rows from the storage without the store. */
  rawRows?(): Promise<readonly RawRow[]>
  /** Makes every later call of the store fail, for example by stopping the server or dropping the table. */
  breakDown?(): Promise<void>
  /** Closes and removes everything. The store may be closed already. */
  close(): Promise<void>
}

/** A kind of store to test. */
export interface KeyStoreSubject {
  /** Stands in the name of the suite. */
  readonly name: string
  /** Called before each test. */
  open(): Promise<OpenedSubject>
}
