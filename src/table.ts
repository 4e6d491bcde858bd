/**
 * The one declaration of `encryption_keys`. Plain data: adapters/sqlite/schema.ts and adapters/postgres/schema.ts
 * build the Drizzle tables from it, drizzle-kit generates the migrations from those, and KeyRecord is inferred
 * from it, so that the three cannot drift apart.
 */

/** 2³¹ − 1: the largest value of a Postgres `integer`, so of a key's version. */
export const MAX_KEY_VERSION = 2_147_483_647

export const encryptionKeysDeclaration = {
  name: 'encryption_keys',
  columns: {
    userId: { name: 'user_id', type: 'text', nullable: false },
    version: { name: 'version', type: 'integer', nullable: false, default: 1 },
    encryptedKey: { name: 'encrypted_key', type: 'bytes', nullable: false },
    kekId: { name: 'kek_id', type: 'text', nullable: true },
    createdAt: { name: 'created_at', type: 'instant', nullable: false },
    wrappedAt: { name: 'wrapped_at', type: 'instant', nullable: true },
    shreddedAt: { name: 'shredded_at', type: 'instant', nullable: true },
  },
  primaryKey: { name: 'encryption_keys_pk', columns: ['userId', 'version'] },
  /** Users' live rows by master key: what `open` and `rewrapAll` read. Tenants' own rows are left out: each may have another master key. */
  kekIndex: {
    name: 'encryption_keys_kek_id_idx',
    columns: ['kekId', 'userId', 'version'],
    whereNull: 'shreddedAt',
  },
  versionCheck: 'encryption_keys_version_check',
  userIdCheck: 'encryption_keys_user_id_check',
} as const

type Columns = typeof encryptionKeysDeclaration.columns
type Stored = { text: string; integer: number; bytes: Uint8Array; instant: Date }

/** A row of the table, the same in every store. */
type KeyRecordOf<C extends Record<string, { type: keyof Stored; nullable: boolean }>> = {
  -readonly [K in keyof C]: C[K]['nullable'] extends true ? Stored[C[K]['type']] | null : Stored[C[K]['type']]
}

/**
 * One version of one user's wrapped data key.
 *
 * - `userId`: 1–512 UTF-8 bytes, well formed, no NUL; `''` owns the shared pool's key, and U+0001 `tenant:` ‖ id that of a tenant
 * - `version`: 1 … 2³¹−1
 * - `encryptedKey`: the wrapped data key; length 0 once shredded
 * - `kekId`: the master key and wrap format; null for a row of the Python reference
 * - `createdAt`, `wrappedAt`, `shreddedAt`: UTC, in milliseconds; `wrappedAt` is the last rewrap, `shreddedAt` marks a tombstone
 */
export interface KeyRecord extends KeyRecordOf<Columns> {}

/** Names one row. */
export interface KeyRef {
  /** 1 to 512 bytes of UTF-8; empty: the pool. */
  readonly userId: string
  /** 1 to 2³¹ − 1. */
  readonly version: number
}

/** Which key it was among all that had its ref: a user who was forgotten and minted anew has another version 1. */
export interface KeyIdentity extends KeyRef {
  readonly createdAt: Date
}

/** Whether a row says that its user was shredded. */
export function isTombstone({ shreddedAt }: Pick<KeyRecord, 'shreddedAt'>): boolean {
  return shreddedAt !== null
}

/** The order of {@link KeyStore.list}, and of every multi-row write before it locks anything: no deadlocks. */
export function compareRefs(a: KeyRef, b: KeyRef): number {
  return compareUtf8(a.userId, b.userId) || a.version - b.version
}

/** Like `Buffer.compare` of their UTF-8 bytes, without making them: eight times as fast. */
export function compareUtf8(a: string, b: string): number {
  // Side by side, most ids of two stores are the same.
  if (a === b) return 0
  const shorter = Math.min(a.length, b.length)
  for (let at = 0; at < shorter; at++) {
    const difference = utf8Rank(a.charCodeAt(at)) - utf8Rank(b.charCodeAt(at))
    if (difference !== 0) return difference
  }
  return a.length - b.length
}

/** UTF-8 has U+10000 and above, which are surrogates here, after U+E000 to U+FFFF. */
function utf8Rank(unit: number): number {
  if (unit < 0xd800) return unit
  return unit < 0xe000 ? unit + 0x2000 : unit - 0x800
}

/** No user's id begins with it: the keystore's own keys have such ids. */
export const RESERVED_USER_ID_PREFIX = '\u0001'
/** The beginning of the user ids of tenants' own keys. */
export const TENANT_USER_ID_PREFIX = `${RESERVED_USER_ID_PREFIX}tenant:`
/** The beginning of the KEK ids of keys that are wrapped under a tenant's key. */
export const TENANT_KEK_ID_PREFIX = 'tenant:'
/** Between which KEK ids, in the order of their bytes, all of these stand. */
export const TENANT_KEK_IDS = { from: TENANT_KEK_ID_PREFIX, below: 'tenant;' } as const

/** The user id of the rows that hold a tenant's own key. */
export function tenantUserId(tenantId: string): string {
  return TENANT_USER_ID_PREFIX + tenantId
}

/** The tenant whose own key a user id names, or null. */
export function tenantIdOf(userId: string): string | null {
  return userId.startsWith(TENANT_USER_ID_PREFIX) ? userId.slice(TENANT_USER_ID_PREFIX.length) : null
}

/** Whether a row is a tenant's own key, not a user's. In the order of `list` these stand after the pool's and before all users'. */
export function isTenantRow({ userId }: Pick<KeyRecord, 'userId'>): boolean {
  return userId.startsWith(RESERVED_USER_ID_PREFIX)
}

/** Whether a KEK id names a tenant's key. */
export function isTenantKekId(kekId: string | null): kekId is string {
  return kekId?.startsWith(TENANT_KEK_ID_PREFIX) ?? false
}

/** A map key for a ref. */
export function refKey({ userId, version }: KeyRef): string {
  return `${version}:${userId}`
}

/**
 * What methods of Drizzle's column builders return. Types of the tables and of encrypted columns are written with Drizzle's own functions
 * and with these: inferred, the compiler would publish them as those of drizzle-orm 0.45, which 1.0 does not take.
 */
export type NotNull<Builder extends { notNull(): unknown }> = ReturnType<Builder['notNull']>
export type WithDefault<Builder extends { default(value: never): unknown }> = ReturnType<Builder['default']>
