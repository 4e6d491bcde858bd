/** What the conformance suite takes: a runner, and a store to test. */

import type { KeyStore } from '../store.js'
import type { KeyRef } from '../table.js'

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
