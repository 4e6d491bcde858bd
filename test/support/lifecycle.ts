/** What tests of long operations share: users in bulk, stores with a method of one's own, SQL past the stores. */
import Database from 'better-sqlite3'
import { expect } from 'vitest'
import type { Format } from '../../src/format/formats.js'
import type { EnvelopeCrypto, KeyRecord, KeyStore, MasterKey } from '../../src/index.js'
import { masterKeyring } from '../../src/index.js'
import { newDataKey } from '../../src/master-keys/key-wrap.js'
import { asAdmin, type Dialect } from './databases.js'

export const userIds = (count: number, prefix = 'user') =>
  Array.from({ length: count }, (_, index) => `${prefix}-${String(index).padStart(6, '0')}`)

/** A row with a fresh data key under a master key, as a service would mint it. */
export async function mintedRow(
  masterKey: MasterKey,
  userId: string,
  { format = 'v3', ...change }: Partial<KeyRecord> & { readonly format?: Format } = {},
): Promise<KeyRecord> {
  const ref = { userId, version: change.version ?? 1 }
  const { record, dataKey } = await newDataKey(masterKeyring({ primary: masterKey }), ref, format)
  dataKey.fill(0)
  return { ...record, ...change }
}

/** Users with a key under a master key. */
export async function fill(
  store: KeyStore,
  masterKey: MasterKey,
  users: readonly string[],
  change: Parameters<typeof mintedRow>[2] = {},
): Promise<void> {
  for (let i = 0; i < users.length; i += 2000) {
    const some = users.slice(i, i + 2000)
    await store.insertIfAbsent(await Promise.all(some.map((userId) => mintedRow(masterKey, userId, change))))
  }
}

export interface Sealed {
  readonly userId: string
  readonly token: string
}

const plaintextOf = (userId: string) => `secret of ${userId}`

/** A token of each user. */
export async function sealAll(envelope: EnvelopeCrypto, users: readonly string[]): Promise<Sealed[]> {
  const results = await envelope.encryptMany(
    users.map((userId) => ({ userId, plaintext: plaintextOf(userId) })),
  )
  return results.map((result, index) => {
    if (!result.ok) throw result.error
    return { userId: users[index] ?? '', token: result.value }
  })
}

export async function expectAllOpen(envelope: EnvelopeCrypto, sealed: readonly Sealed[]): Promise<void> {
  const results = await envelope.decryptMany(sealed)
  expect(results.map((result) => (result.ok ? result.value : result.error))).toEqual(
    sealed.map(({ userId }) => plaintextOf(userId)),
  )
}

/** The store with some methods of one's own; all others are its own. */
export function overriding(store: KeyStore, overrides: Partial<KeyStore>): KeyStore {
  return new Proxy(store, {
    get(target, name) {
      const own: unknown = Reflect.get(overrides, name)
      if (own !== undefined) return own
      const value: unknown = Reflect.get(target, name, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}

/** Runs SQL past the store. */
export async function runSql(dialect: Dialect, url: string, sql: string): Promise<void> {
  if (dialect === 'postgres') return asAdmin(url, sql)
  const client = new Database(url)
  try {
    client.exec(sql)
  } finally {
    client.close()
  }
}

/** Makes the time of a row one that no Date can hold. */
export function spoilTime(dialect: Dialect, url: string, userId: string, version = 1): Promise<void> {
  const value = dialect === 'sqlite' ? 'no time at all' : 'infinity'
  return runSql(
    dialect,
    url,
    `update encryption_keys set created_at = '${value}' where user_id = '${userId}' and version = ${version}`,
  )
}

/** The version that a v3 token names, at the start of its body. */
export const versionOf = (token: string) => Buffer.from(token.slice(3), 'base64url').readUInt32BE(0)

/** The store, which tells nobody of changes: what a cache does without being told. */
export function untold(store: KeyStore): KeyStore {
  return new Proxy(store, {
    get(target, name) {
      const value: unknown = name === 'changes' ? undefined : Reflect.get(target, name, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}
