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
  const partsOf = (key: Uint8Array) => [key.subarray(8, 24), key.subarray(-16)]
  return keys.filter((key) =>
    partsOf(key).some((part) => contents.some((content) => content.includes(Buffer.from(part)))),
  ).length
}
