/** Bytes of wrapped keys in the files of a database. */
import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { KeyRecord } from '../../src/index.js'

/** A row with random bytes for a wrapped key. */
export function randomRecord(userId: string, given: Partial<KeyRecord> = {}): KeyRecord {
  return {
    userId,
    version: 1,
    encryptedKey: randomBytes(60),
    kekId: null,
    createdAt: new Date(),
    wrappedAt: null,
    shreddedAt: null,
    ...given,
  }
}

/** The contents of all files of a folder. */
export function contentsOf(folder: string): Buffer[] {
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ name }) => readFileSync(join(folder, name)))
}

/** How many of the keys are there at least in part: the head of a freed cell is overwritten first. */
export function countRemains(contents: readonly Buffer[], keys: readonly Uint8Array[]): number {
  // Searching for each key is for those only whose first bytes are anywhere: a thousand times as fast.
  const heads = new Uint8Array(1 << 24)
  for (const content of contents) {
    for (let at = 0; at + 3 <= content.length; at += 1) heads[content.readUIntBE(at, 3)] = 1
  }
  const isThere = (part: Buffer) =>
    heads[part.readUIntBE(0, 3)] === 1 && contents.some((content) => content.includes(part))
  return keys
    .map((key) => Buffer.from(key))
    .filter((key) => isThere(key.subarray(8, 24)) || isThere(key.subarray(-16))).length
}
