/** Master keys as text, and what must hold when one is refused. */
import { expect } from 'vitest'
import { localMasterKey, type MasterKeyring } from '../../src/index.js'
import { secretForms } from './leaks.js'

export const bytesOf = (text: string) => Buffer.from(text, 'base64url')
export const idOf = (text: string) => localMasterKey(bytesOf(text)).id
export const idsOf = ({ primary, previous }: MasterKeyring) => [primary.id, ...previous.map(({ id }) => id)]

/** The error of a refused master key, which must be ERR_MASTER_KEY. */
export function refusal(work: () => unknown): Error {
  try {
    work()
  } catch (error) {
    expect(error).toMatchObject({ name: 'MasterKeyError', code: 'ERR_MASTER_KEY', retryable: false })
    return error as Error
  }
  throw new Error('it was not refused')
}

/** Whether a text shows none of the keys, however it may be written. */
export function expectNoTrace(text: string, ...keys: string[]): void {
  for (const key of keys) {
    for (const form of secretForms(bytesOf(key))) expect(text).not.toContain(form)
  }
}
