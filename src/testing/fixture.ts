/** What the groups of the conformance suite share: made-up rows, and assertions about rows. */
import assert from 'node:assert/strict'
import type { KeystoreErrorCode } from '../errors.js'
import type { KeyPage, KeyStore, WrapChange } from '../store.js'
import type { KeyRecord, KeyRef } from '../table.js'
import type { OpenedSubject } from './subject.js'

/** What each test gets. */
export interface Fixture extends OpenedSubject {
  /** The store, and two more on its storage if the subject can reopen it. */
  severalStores(): Promise<readonly KeyStore[]>
  rowsOf(userId: string): Promise<KeyRecord[]>
  everyRow(): Promise<KeyRecord[]>
}

export type DefineTest = (name: string, body: (fixture: Fixture) => Promise<void>) => void

/** Unusual user ids, in the order of their UTF-8 bytes. JavaScript's own order has 😀 (a surrogate pair) before ～ (U+FF5E). */
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

let madeUpKeys = 0

/** Bytes of the length of a wrapped key, different in each call. */
export function makeWrappedKey(): Uint8Array {
  madeUpKeys += 1
  const key = new Uint8Array(60).fill(0xa5)
  new DataView(key.buffer).setUint32(0, madeUpKeys)
  return key
}

/** A made-up row. */
export function makeRecord(userId: string, given: Partial<KeyRecord> = {}): KeyRecord {
  const createdAt = new Date('2026-11-22T20:24:02.735Z')
  const rest = { kekId: 'k', createdAt, wrappedAt: null, shreddedAt: null }
  return { userId, version: 1, encryptedKey: makeWrappedKey(), ...rest, ...given }
}

/** The first versions of a user's key. */
export function makeVersions(userId: string, count: number): KeyRecord[] {
  return Array.from({ length: count }, (_, i) => makeRecord(userId, { version: i + 1 }))
}

/** Rows of as many users, in the order of `list`. */
export function makeRecords(count: number, given: Partial<KeyRecord> = {}, prefix = 'user '): KeyRecord[] {
  return Array.from({ length: count }, (_, i) => makeRecord(`${prefix}${String(i).padStart(5, '0')}`, given))
}

/** A change of a row to another made-up key. */
export function makeChange(row: KeyRecord, given: Partial<WrapChange> = {}): WrapChange {
  const { userId, version } = row
  const wrappedAt = new Date('2026-11-23T04:05:06.007Z')
  const from = new Uint8Array(row.encryptedKey)
  return { userId, version, from, encryptedKey: makeWrappedKey(), kekId: 'new', wrappedAt, ...given }
}

/** The fields that a change writes. */
export function writtenFields(change: WrapChange | undefined): Partial<KeyRecord> {
  assert.ok(change)
  const { encryptedKey, kekId, wrappedAt } = change
  return { encryptedKey, kekId, wrappedAt }
}

export function cloneRecord(row: KeyRecord): KeyRecord {
  return structuredClone(row)
}

/** Overwrites in place all bytes and dates of the rows. */
export function overwrite(rows: readonly (KeyRecord | undefined)[]): void {
  for (const row of rows) {
    assert.ok(row)
    row.encryptedKey.fill(0xff)
    for (const date of [row.createdAt, row.wrappedAt, row.shreddedAt]) date?.setTime(0)
  }
}

/** A fixed order that is not sorted. */
export function shuffled<T>(items: readonly T[]): T[] {
  return reordered(items, 2)
}

/** The items in one of several fixed orders: 0 as they are, 1 reversed, 2 and more in jumps. */
export function reordered<T>(items: readonly T[], which: number): T[] {
  if (which === 0) return [...items]
  if (which === 1) return [...items].reverse()
  // A stride that has no common divisor with the length visits each item once.
  let stride = Math.floor(items.length / which) + 1
  while (gcd(stride, items.length) !== 1) stride += 1
  return items.map((_, i) => itemAt(items, (i + 1) * stride))
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b)
}

/** The item at an index. An index past the end starts again at the first item. */
export function itemAt<T>(items: readonly T[], index: number): T {
  const item = items[index % items.length]
  assert.ok(item !== undefined)
  return item
}

/** All rows: lists page after page until an empty one. */
export async function listAll(store: KeyStore, page: KeyPage): Promise<KeyRecord[]> {
  const rows: KeyRecord[] = []
  for (let after: KeyRef | undefined; ; after = rows.at(-1)) {
    const next = await store.list(after === undefined ? page : { ...page, after })
    assert.ok(next.length <= page.limit)
    if (next.length === 0) return rows
    rows.push(...next)
  }
}

/** Asserts equal rows in the same order. Their bytes may be in any kind of Uint8Array. */
export function assertSameRows(actual: Rows, expected: Rows): void {
  assert.deepEqual(actual.map(comparable), expected.map(comparable))
}

/** Asserts equal rows where the contract states no order. */
export function assertSameRowsInAnyOrder(actual: Rows, expected: Rows): void {
  const byText = (rows: Rows) => rows.map((row) => JSON.stringify(comparable(row))).sort()
  assert.deepEqual(byText(actual), byText(expected))
}

export function assertSameRefs(actual: readonly KeyRef[], expected: readonly KeyRef[]): void {
  const text = ({ userId, version }: KeyRef) => JSON.stringify([userId, version])
  assert.deepEqual(actual.map(text).sort(), expected.map(text).sort())
}

type Rows = readonly (KeyRecord | undefined)[]

function comparable(row: KeyRecord | undefined) {
  assert.ok(row, 'a row is missing')
  assert.ok(row.encryptedKey instanceof Uint8Array)
  return { ...row, encryptedKey: Buffer.from(row.encryptedKey).toString('hex') }
}

export async function assertFailsWith(code: KeystoreErrorCode, what: string, call: () => Promise<unknown>) {
  await assert.rejects(call, (error) => {
    const actual = error instanceof Error && 'code' in error ? error.code : error
    assert.equal(actual, code, `${what}: ${String(error)}`)
    return true
  })
}
