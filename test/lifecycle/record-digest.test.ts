/** The digest of a copy is SHA-256 over the encodings of all records, whatever their lengths: reports of different versions can be compared. */
import { createHash, randomBytes } from 'node:crypto'
import { expect, it } from 'vitest'
import type { KeyRecord } from '../../src/index.js'
import { PairedDigests, RecordsHash } from '../../src/lifecycle/record-digest.js'
import { randomRecord } from '../support/rows.js'

const TIME = new Date('2026-01-02T03:04:05.678Z')
/** About what is hashed in one call, a little less and a little more. */
const LENGTHS = [0, 1, 105, 5000, 16_000, 16_384, 16_385, 40_000]

const records = Array.from({ length: 400 }, (_, at): KeyRecord => {
  const userId = at % 3 === 0 ? `${'ü€😀'.repeat(at % 60)}${at}` : `user-${at}`
  const length = at % 40 === 0 ? (LENGTHS[(at / 40) % LENGTHS.length] as number) : 105
  const wrappedAt = at % 2 === 0 ? TIME : null
  const state = { version: (at % 5) + 1, kekId: at % 7 === 0 ? null : 'kek', createdAt: TIME, wrappedAt }
  const shreddedAt = at % 11 === 0 ? TIME : null
  return randomRecord(userId, { ...state, encryptedKey: randomBytes(length), shreddedAt })
})

/** Written from the definition: PASETO's encoding of ten pieces. */
function encoded(record: KeyRecord): Buffer {
  const { userId, version, encryptedKey, kekId, createdAt, wrappedAt, shreddedAt } = record
  const [kek, wrapped] = shreddedAt === null ? [kekId, wrappedAt] : [null, null]
  const pieces = [
    ...[userId, String(version), encryptedKey, createdAt.toISOString()],
    ...[kek === null ? '0' : '1', kek ?? '', wrapped === null ? '0' : '1', wrapped?.toISOString() ?? ''],
    ...(shreddedAt === null ? ['0', ''] : ['1', 'shredded']),
  ].map((piece) => Buffer.from(piece as string))
  const length = (number: number) => {
    const bytes = Buffer.alloc(8)
    bytes.writeBigUInt64LE(BigInt(number))
    return bytes
  }
  return Buffer.concat([length(pieces.length), ...pieces.flatMap((piece) => [length(piece.length), piece])])
}

const expected = (rows: readonly KeyRecord[]) =>
  createHash('sha256')
    .update(Buffer.concat(rows.map(encoded)))
    .digest('hex')

it('is SHA-256 over the records in their order', () => {
  const hash = new RecordsHash()
  for (const record of records) hash.add(record)
  expect(hash.digest()).toBe(expected(records))
})

it('goes on by itself for the target from the first record that differs', () => {
  for (const at of [0, 1, 57, 64, 399]) {
    const changed = records.with(at, { ...(records[at] as KeyRecord), encryptedKey: randomBytes(16_400) })
    const digests = new PairedDigests()
    for (const [index, record] of records.entries()) digests.add([record], [changed[index] as KeyRecord])
    expect(digests.digests()).toEqual({ from: expected(records), to: expected(changed), extra: 0 })
  }
})
