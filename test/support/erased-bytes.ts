/** Whether bytes of wrapped keys are still in the files of a database, after the keys were erased. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'vitest'

/** The contents of all files of a folder. */
export function contentsOf(folder: string): Buffer[] {
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ name }) => readFileSync(join(folder, name)))
}

/** How many of the keys are there, at least in part: a database that frees a cell overwrites its head first. */
export function countRemains(contents: readonly Buffer[], keys: readonly Uint8Array[]): number {
  // A search for each key is slow. Only keys whose first three bytes occur anywhere are searched for: a thousand times as fast.
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

/** What a store answers when the bytes have left its file, and when they have not, for a reason. */
export const ERASED = { erased: 'file', pending: null }
export const pending = (reason: string) => ({ erased: 'pending', pending: expect.stringContaining(reason) })

export const keysOf = (rows: readonly { readonly encryptedKey: Uint8Array }[]) =>
  rows.map(({ encryptedKey }) => encryptedKey)
