/** Tokens of many users, tokens of the reference, and the version that a token names. */
import { expect } from 'vitest'
import { derivePoolKey, type EnvelopeCrypto, encryptWithKey } from '../../src/index.js'

export interface Sealed {
  readonly userId: string
  readonly token: string
}

const plaintextOf = (userId: string) => `secret of ${userId}`

/** Encrypts `secret of USER` once for each user. */
export async function sealAll(envelope: EnvelopeCrypto, users: readonly string[]): Promise<Sealed[]> {
  const results = await envelope.encryptMany(
    users.map((userId) => ({ userId, plaintext: plaintextOf(userId) })),
  )
  return results.map((result, index) => {
    if (!result.ok) throw result.error
    return { userId: users[index] ?? '', token: result.value }
  })
}

/** Expects tokens of {@link sealAll} to open. */
export async function expectAllOpen(envelope: EnvelopeCrypto, sealed: readonly Sealed[]): Promise<void> {
  const results = await envelope.decryptMany(sealed)
  expect(results.map((result) => (result.ok ? result.value : result.error))).toEqual(
    sealed.map(({ userId }) => plaintextOf(userId)),
  )
}

/** Well formed, and under no key that there is. */
export const FOREIGN_V3_TOKEN = `v3:${Buffer.from([0, 0, 0, 1, ...new Uint8Array(90)]).toString('base64url')}`

/** The key version that a v3 token names, at the start of its body. */
export const versionOf = (token: string) => Buffer.from(token.slice(3), 'base64url').readUInt32BE(0)

/** A v3 token with another key version in its place, and all else as it was. */
export function withVersion(token: string, version: number): string {
  const bytes = Buffer.from(token.slice(3), 'base64url')
  bytes.writeUInt32BE(version, 0)
  return `v3:${bytes.toString('base64url')}`
}

/** A token as the Python reference makes it. */
export async function v2Token(envelope: EnvelopeCrypto, userId: string, plaintext: string): Promise<string> {
  return encryptWithKey(plaintext, await envelope.getOrCreateUserKey(userId))
}

/** A token of the shared pool, as the Python reference makes it. */
export function v2PoolToken(masterKey: Uint8Array, plaintext: string): string {
  return encryptWithKey(plaintext, derivePoolKey(masterKey))
}

/** The option of a service that reads the reference's keys and tokens too. */
export const ACCEPT_V2 = { keys: ['v2'], tokens: ['v2'] } as const
