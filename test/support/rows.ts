/** Rows of the table of keys: made for a test, read back whole, and spoilt. */
import { randomBytes } from 'node:crypto'
import type { Format } from '../../src/format/formats.js'
import type { KeyRecord, KeyRef, KeyStore, LocalMasterKey, MasterKey } from '../../src/index.js'
import { masterKeyring } from '../../src/index.js'
import { newDataKey } from '../../src/master-keys/key-wrap.js'
import type { Dialect } from './databases.js'
import { runSql } from './raw-database.js'

/** A live row of 60 random bytes, for tests in which no key is opened. */
export function randomRecord(userId: string, change: Partial<KeyRecord> = {}): KeyRecord {
  return {
    userId,
    version: 1,
    encryptedKey: new Uint8Array(randomBytes(60)),
    kekId: null,
    createdAt: new Date(),
    wrappedAt: null,
    shreddedAt: null,
    ...change,
  }
}

/** The same row each time, to be compared with what a store gives back. @param byte which its bytes are */
export function fixedRecord(userId: string, byte = 7): KeyRecord {
  return randomRecord(userId, {
    encryptedKey: new Uint8Array(60).fill(byte),
    kekId: 'kek',
    createdAt: new Date('2026-01-02T03:04:05.678Z'),
  })
}

/** A live row with a fresh data key, wrapped under a local master key in the reference's format. */
export function v2Row(
  key: LocalMasterKey,
  ref: Partial<KeyRef> = {},
  change: Partial<KeyRecord> = {},
): KeyRecord {
  const { userId = 'alice', version = 1 } = ref
  return randomRecord(userId, {
    version,
    encryptedKey: key.wrapV2(crypto.getRandomValues(new Uint8Array(32))),
    kekId: key.v2Id,
    ...change,
  })
}

/** A row with a fresh data key under a master key, as a service mints it. */
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

/** Gives a user the versions 1, 2 … of a key, made at these times. */
export async function insertVersions(
  store: KeyStore,
  masterKey: MasterKey,
  userId: string,
  times: readonly Date[],
): Promise<void> {
  for (const [index, createdAt] of times.entries())
    await store.insertIfAbsent([await mintedRow(masterKey, userId, { version: index + 1, createdAt })])
}

/** Gives users a key under a master key each. */
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

/** All rows of a store, in its order. */
export async function rowsOf(store: KeyStore): Promise<KeyRecord[]> {
  return store.list({ limit: 100_000 })
}

/** All rows of a user, by version. */
export async function rowsOfUser(store: KeyStore, userId: string): Promise<KeyRecord[]> {
  return (await store.getAll([userId])).get(userId) ?? []
}

/** The versions of a user. */
export async function versionsOf(store: KeyStore, userId: string): Promise<number[]> {
  return (await rowsOfUser(store, userId)).map(({ version }) => version)
}

/** Changes one row, past all rules. @returns the row as it was */
export async function alterRow(
  store: KeyStore,
  ref: KeyRef,
  change: (record: KeyRecord) => Partial<KeyRecord>,
): Promise<KeyRecord> {
  const record = (await rowsOfUser(store, ref.userId)).find(({ version }) => version === ref.version)
  if (record === undefined) throw new Error(`there is no row of ${ref.userId}`)
  await store.remove([ref])
  await store.insertIfAbsent([{ ...record, ...change(record) }])
  return record
}

/** The same bytes with one bit of the last byte flipped. */
export function corrupted(bytes: Uint8Array): Uint8Array {
  const changed = new Uint8Array(bytes)
  changed[changed.length - 1] = (changed.at(-1) ?? 0) ^ 1
  return changed
}

/** Gives a row a creation time that no Date can hold: reading it is an error. */
export async function spoilTime(dialect: Dialect, url: string, userId: string, version = 1): Promise<void> {
  const value = dialect === 'sqlite' ? 'no time at all' : 'infinity'
  await runSql(
    dialect,
    url,
    `update encryption_keys set created_at = '${value}' where user_id = '${userId}' and version = ${version}`,
  )
}
