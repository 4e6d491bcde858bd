/** What a legacy reader makes of a value, and its error, which must not quote the value. */
import { expect } from 'vitest'
import type { LegacyReader } from '../../src/reencrypt/index.js'
import { errorOf } from './errors.js'
import { everythingOf } from './leaks.js'

const OF = { key: 1, column: 'value', owner: 'alice', row: undefined }

/** What the sweep would encrypt; undefined if the reader does not claim the value. */
export async function readBy(reader: LegacyReader, value: string): Promise<string | null | undefined> {
  return reader.test(value) ? reader.decrypt(value, OF) : undefined
}

/** The message of the error with which a reader refuses a value that it claims. */
export async function refusalBy(
  reader: LegacyReader,
  value: string,
  secrets: readonly string[] = [],
): Promise<string> {
  expect(reader.test(value)).toBe(true)
  const error = await errorOf(async () => reader.decrypt(value, OF))
  expect(error).toMatchObject({ code: 'ERR_DECRYPTION_FAILED', retryable: false })
  const told = everythingOf(error)
  for (const secret of [value, value.slice(-12), ...secrets]) expect(told).not.toContain(secret)
  return error.message
}

/** With one of its characters replaced by another one of the same alphabet, hexadecimal or base64. @param at negative: from the end */
export function damaged(value: string, at: number): string {
  const index = at < 0 ? value.length + at : at
  const other = value[index] === 'a' ? 'b' : 'a'
  return value.slice(0, index) + other + value.slice(index + 1)
}
