/** What the groups of the conformance suite share: made-up rows, and how rows are compared. */
import assert from 'node:assert/strict'
import type { KeystoreErrorCode } from '../errors.js'
import type { KeyPage, KeyStore, WrapChange } from '../store.js'
import type { KeyRecord, KeyRef } from '../table.js'
import type { OpenedSubject } from './subject.js'

/** What each test is given. */
export interface Fixture extends OpenedSubject {
  /** The store, and two more on its storage where there can be. */
  severalStores(): Promise<readonly KeyStore[]>
  rowsOf(userId: string): Promise<KeyRecord[]>
  everyRow(): Promise<KeyRecord[]>
}

export type DefineTest = (name: string, body: (fixture: Fixture) => Promise<void>) => void

/** In the order of their UTF-8 bytes. JavaScript's own order has 😀 (a surrogate pair) before ～ (U+FF5E). */
export const ODD_IDS = [
  '',
  ' ',
  ' a',
  '"; --',
  "'",
  'A',
  'a',
  'a ',
  'a%',
  'a_',
  'e\u0301',
  'x'.repeat(512),
  '[1,"\\u0041"]{}',
  '\u00e9',
  '\uff5e',
  '\u{1f600}',
].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))

let made = 0

/** Of the length that a wrapped key has, each another one. */
export function newKey(): Uint8Array {
  made += 1
  const key = new Uint8Array(60).fill(0xa5)
  new DataView(key.buffer).setUint32(0, made)
  return key
}

export function record(userId: string, given: Partial<KeyRecord> = {}): KeyRecord {
  const createdAt = new Date('2026-11-22T20:24:02.735Z')
  const rest = { kekId: 'k', createdAt, wrappedAt: null, shreddedAt: null }
  return { userId, version: 1, encryptedKey: newKey(), ...rest, ...given }
}

export function versions(userId: string, count: number): KeyRecord[] {
  return Array.from({ length: count }, (_, i) => record(userId, { version: i + 1 }))
}

/** In the order of `list`. */
export function manyRecords(count: number, given: Partial<KeyRecord> = {}, prefix = 'user '): KeyRecord[] {
  return Array.from({ length: count }, (_, i) => record(`${prefix}${String(i).padStart(5, '0')}`, given))
}

export function changeOf(row: KeyRecord, given: Partial<WrapChange> = {}): WrapChange {
  const { userId, version } = row
  const wrappedAt = new Date('2026-11-23T04:05:06.007Z')
  const from = new Uint8Array(row.encryptedKey)
  return { userId, version, from, encryptedKey: newKey(), kekId: 'new', wrappedAt, ...given }
}

/** What a change writes into its row. */
export function pick(change: WrapChange | undefined): Partial<KeyRecord> {
  assert.ok(change)
  const { encryptedKey, kekId, wrappedAt } = change
  return { encryptedKey, kekId, wrappedAt }
}

export function copy(row: KeyRecord): KeyRecord {
  return structuredClone(row)
}

/** Overwrites all that can be changed in place. */
export function spoil(rows: readonly (KeyRecord | undefined)[]): void {
  for (const row of rows) {
    assert.ok(row)
    row.encryptedKey.fill(0xff)
    for (const date of [row.createdAt, row.wrappedAt, row.shreddedAt]) date?.setTime(0)
  }
}

/** A fixed order, far from any sorted one. */
export function shuffled<T>(items: readonly T[]): T[] {
  return inSomeOrder(items, 2)
}

/** One of several orders: sorted, reversed, and two that jump about. */
export function inSomeOrder<T>(items: readonly T[], which: number): T[] {
  if (which === 0) return [...items]
  if (which === 1) return [...items].reverse()
  // A stride prime to the length visits each item once.
  let stride = Math.floor(items.length / which) + 1
  while (gcd(stride, items.length) !== 1) stride += 1
  return items.map((_, i) => at(items, (i + 1) * stride))
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b)
}

/** Goes round at the end. */
export function at<T>(items: readonly T[], index: number): T {
  const item = items[index % items.length]
  assert.ok(item !== undefined)
  return item
}

/** All pages, until the empty one. */
export async function pages(store: KeyStore, page: KeyPage): Promise<KeyRecord[]> {
  const rows: KeyRecord[] = []
  for (let after: KeyRef | undefined; ; after = rows.at(-1)) {
    const next = await store.list(after === undefined ? page : { ...page, after })
    assert.ok(next.length <= page.limit)
    if (next.length === 0) return rows
    rows.push(...next)
  }
}

/** Equal rows in the same order, whichever kind of Uint8Array their bytes are in. */
export function same(actual: Rows, expected: Rows): void {
  assert.deepEqual(actual.map(shown), expected.map(shown))
}

/** For answers whose order is the store's own business. */
export function sameInAnyOrder(actual: Rows, expected: Rows): void {
  const byText = (rows: Rows) => rows.map((row) => JSON.stringify(shown(row))).sort()
  assert.deepEqual(byText(actual), byText(expected))
}

export function sameRefs(actual: readonly KeyRef[], expected: readonly KeyRef[]): void {
  const text = ({ userId, version }: KeyRef) => JSON.stringify([userId, version])
  assert.deepEqual(actual.map(text).sort(), expected.map(text).sort())
}

type Rows = readonly (KeyRecord | undefined)[]

function shown(row: KeyRecord | undefined) {
  assert.ok(row, 'a row is missing')
  assert.ok(row.encryptedKey instanceof Uint8Array)
  return { ...row, encryptedKey: Buffer.from(row.encryptedKey).toString('hex') }
}

export async function failsWith(code: KeystoreErrorCode, what: string, call: () => Promise<unknown>) {
  await assert.rejects(call, (error) => {
    const actual = error instanceof Error && 'code' in error ? error.code : error
    assert.equal(actual, code, `${what}: ${String(error)}`)
    return true
  })
}
