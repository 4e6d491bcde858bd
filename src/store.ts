/**
 * The storage contract. The crypto service depends on this file and on no adapter.
 *
 * Words, here and everywhere: a **data key** (DEK) encrypts a user's data and is stored **wrapped** under a **master
 * key** (KEK). A row is one version of one user's data key. A **tombstone** is a row whose wrapped key was erased.
 */
import type { KeystoreError } from './errors.js'
import { type KeyIdentity, type KeyRecord, type KeyRef, TENANT_KEK_IDS } from './table.js'

/** One compare-and-set: the row changes only while it is live and still holds exactly `from`, or already `encryptedKey`. */
export interface WrapChange extends KeyRef {
  /** The wrapped bytes that the caller read. */
  readonly from: Uint8Array
  /** The wrapped bytes that take their place. */
  readonly encryptedKey: Uint8Array
  /** The master key and wrap format of `encryptedKey`. */
  readonly kekId: string | null
  /** When it was wrapped; it becomes the row's `wrappedAt`. */
  readonly wrappedAt: Date
  /**
   * Only while exactly this row is live too, in one transaction with the change: a tenant's own row, if a user leaves the tenant's key or comes under
   * it. A tenant that is being shredded then takes along who leaves, wherever either of the two is killed, and nobody comes under a key that
   * is gone.
   */
  readonly whileLive?: KeyIdentity | undefined
}

/** A row to insert. */
export interface NewKeyRecord extends KeyRecord {
  /**
   * Only while exactly this row is live too, in one transaction with the insert: a tenant's own row, under whose key the new one is. However long
   * the insert takes, nobody then comes under a tenant's key that was shredded, forgotten or pruned meanwhile, not even where there is a new
   * one of the same version by then.
   */
  readonly whileLive?: KeyIdentity | undefined
}

/**
 * The KEK id of census rows that stand for many KEK ids, so that a census does not grow with the number of tenants: of users under tenants'
 * keys, and of tenants' own rows under KEK ids that were not named. No row has it as its KEK id.
 */
export const MANY_TENANTS = TENANT_KEK_IDS.from

/** How many rows one KEK id, or {@link MANY_TENANTS}, has at one key version; tombstones are counted apart, in rows of their own. */
export interface CensusRow {
  /** The master key and wrap format, or {@link MANY_TENANTS}; null: the Python reference's. */
  readonly kekId: string | null
  /** The version of the data keys. */
  readonly version: number
  /** Whether these rows are tombstones. */
  readonly shredded: boolean
  /** How many rows. */
  readonly count: number
  /** The rows are tenants' own keys. Absent: they are users' keys. */
  readonly ofTenants?: true
}

/** What a census names. */
export interface CensusOptions {
  /** The KEK ids under which tenants' own rows are counted by themselves. Those under other ids are counted together. Default none. */
  readonly rootIds?: readonly string[] | undefined
}

/** Whether erased bytes have left the storage. Absent counts as pending. */
export interface ErasureState {
  /** `'file'`: they are in no file of the live database. `'pending'`: one more step is needed. */
  readonly erased?: 'file' | 'pending'
  /** Why, and the step that completes it; null unless pending. */
  readonly pending?: string | null
}

/** What a shred erased, as the rows say, even if an answer of the database was lost. All empty when the user had no live row. */
export interface ShredResult extends ErasureState {
  /** Who was shredded. */
  readonly userId: string
  /** The versions that this call erased, ascending. */
  readonly versions: readonly number[]
  /** The distinct KEK ids they were wrapped under. A copy of the rows can be opened with these master keys only. */
  readonly kekIds: readonly (string | null)[]
  /** When, as the tombstone says. */
  readonly at: Date
}

/**
 * Announces that rows which a cache may hold were changed: users rotated, shredded, forgotten or pruned. Mints are not announced, since no
 * cache has missed one; rewraps neither, since they change no data key. But rewraps are announced of tenants' own rows, since whoever has
 * the tenant's key has to ask its root again, and of users who come under a tenant's key or leave it (`whileLive`), since a cache has to know
 * which tenant can end a key.
 */
export interface StoreChange {
  /** The users whose rows were changed. Absent: it may be any user. */
  readonly userIds?: readonly string[]
  /** With `userIds`: they were forgotten, so that their rows are missing on purpose. */
  readonly forgotten?: boolean
  /** With `userIds` absent: something was written, and probably changed no cached key. Read again what is in use. */
  readonly unspecific?: boolean
  /** The reason why no change will be announced until the next call without this property. No row is known to have changed. */
  readonly silent?: string
}

/**
 * What `sampleByKek` may leave out. On Postgres the index keeps entries of rows that were rewrapped until a vacuum removes them, and while any
 * transaction has an older snapshot none may: a million of them take 0.2 to 1 s to pass.
 */
export interface SampleOptions {
  /** KEK ids that the caller knows. A store that gives up somewhere passes over the entries of these. */
  readonly kekIds?: readonly string[] | undefined
  /**
   * Called for each part of the index that was not looked through. Absent: all of it is, however long that takes. Where it is called, what was
   * found is right but may not be all. A store that has
   * found no row at all should look at everything instead of calling it; `open` does so too, where none of the rows opens.
   */
  readonly onUnsearched?: ((part: UnsearchedKeks) => void) | undefined
}

/** KEK ids under which a store has not looked for rows, or not to the end, in the order of their UTF-8 bytes. */
export interface UnsearchedKeks {
  /** Exactly one id, null for none, under which no row was found in time. Absent: ids between the next two. */
  readonly kekId?: string | null
  /** Only ids behind this one; null: from the first on. */
  readonly above?: string | null
  /** Only ids before this one; null: to the last. */
  readonly below?: string | null
}

/** How a shred goes about it. */
export interface ShredOptions {
  /** Remove the rows too, tombstones included: the user may then be minted anew. */
  readonly forget: boolean
  /** What `shreddedAt` becomes: when a shred is applied again, the time of the first. Default now. */
  readonly at?: Date
}

/** What is wrong with a storage itself, beside its rows. */
export interface StoreFinding {
  /** A note says what nobody can change: the driver is so. */
  readonly severity: 'error' | 'warning' | 'note'
  /** What it is about. */
  readonly kind: 'schemaVersion' | 'fileMode' | 'setting' | 'damage' | 'copies'
  /** What was found, and what to do. `copies`: something may copy wrapped keys where no erasure reaches. */
  readonly reason: string
}

/** A census row and when its rows were created; times that cannot be read are left out, and if all are, both are invalid Dates. */
export interface DatedCensusRow extends CensusRow {
  /** When the first of them was created. */
  readonly oldest: Date
  /** When the last of them was created. */
  readonly newest: Date
}

/** What only the operator's commands need: copying, inspecting, erasing for good. */
export interface StoreMaintenance {
  /**
   * Inserts rows exactly as they are, tombstones and whichever versions there are, where the ref is not taken; a live row
   * only if no version of its user is a tombstone. Changes no row that stands.
   *
   * @returns like {@link KeyStore.insertIfAbsent}: for each input the row stored under its ref, else the user's tombstone
   */
  restore(records: readonly KeyRecord[]): Promise<KeyRecord[]>
  /** Checks schema version, settings and file modes. Findings are returned; an outage throws. */
  inspect(): Promise<StoreFinding[]>
  /** Takes the step that receipts with `erased: 'pending'` name. It may rewrite all rows, and blocks writers meanwhile. */
  finishErasure(): Promise<Required<ErasureState>>
  /** {@link KeyStore.census} with ages. Reads the whole table. */
  datedCensus(options?: CensusOptions): Promise<DatedCensusRow[]>
  /**
   * For each of the KEK ids how many live rows of users are under it, those of tenants' keys included; an id without any is left out. Counts
   * through the index, so its cost does not grow with the rows under other ids.
   */
  countUnder(kekIds: readonly string[]): Promise<Map<string, number>>
  /**
   * About `limit` live rows of users, in the order of `list` and at about equal distances: where to cut the rows into ranges. A random sample, of
   * which nothing is promised but that each was stored; none is a valid answer. Its cost does not grow with the number of rows.
   *
   * @param total how many rows the store has, as a census counts them
   */
  sampleRefs?(limit: number, total: number): Promise<SampledRef[]>
}

/** A row that stood in a sample, and the KEK id under which it was. */
export interface SampledRef extends KeyRef {
  readonly kekId: string | null
}

/** A stored row that is no {@link KeyRecord}: somebody has written it past all stores, or the storage is damaged. */
export interface UnreadableRow extends KeyRef {
  /** Whether `userId` is the stored id. If not, it is what can be shown of it, such as `x'ff80'`, and nothing can be asked by it. */
  readonly hasId: boolean
  /** ERR_STORE, which says what is wrong with the row, and has it as `ref`. */
  readonly error: KeystoreError
}

/** Where {@link KeyStore.list} goes on, and how far. */
export interface KeyPage {
  /** The last ref of the page before. */
  readonly after?: KeyRef
  /** Only rows before this ref, which need not be there. With `kekId` nothing behind it is read, index entries of rows that are gone included. */
  readonly before?: KeyRef
  /** 1 or more rows. */
  readonly limit: number
  /**
   * Only live rows whose KEK id is another one; null counts as another. No index leads to them: a page may have fewer rows than its limit before
   * the end, and only an empty one is the end.
   */
  readonly notKekId?: string
  /**
   * Only live rows of users whose KEK id is this one, or who have none, if null. They are found through the index, however many others there
   * are. Without tenants' own rows. Not together with `notKekId`.
   */
  readonly kekId?: string | null
  /**
   * Called once for each row on the way that is no record; the page then goes on after it. Absent: the first such row is ERR_STORE with
   * its `ref`.
   */
  readonly onUnreadable?: (row: UnreadableRow) => void
}

/**
 * A place that keeps wrapped keys. It sees ids and wrapped bytes, never a data key.
 *
 * Absent is null, an empty result or an omitted entry; an outage throws `StoreError` (`ERR_STORE`) and never looks like
 * "no such key". The caller has validated ids and versions. Results own their bytes: neither side may see the other
 * change them. {@link testKeyStore} in `drizzle-keystore/testing` holds an implementation to all of this.
 */
export interface KeyStore {
  /**
   * Whether the store is bound to a caller's transaction, which may still roll back: the crypto service then keeps
   * nothing in memory that it minted here.
   */
  readonly transactional: boolean

  /**
   * For each user with any row: the tombstone if any version is one, else the highest version. Users without a row are
   * absent from the map. One round trip for up to 1000 ids; further ones follow.
   */
  getActive(userIds: readonly string[]): Promise<Map<string, KeyRecord>>

  /** Every version of each user, ascending; users without a row are absent. One round trip for up to 1000 ids; further ones follow. */
  getAll(userIds: readonly string[]): Promise<Map<string, KeyRecord[]>>

  /**
   * Inserts the rows that are not there yet. **However many writers race for a ref, in however many processes, exactly
   * one wins, and all of them are given the winner's row.**
   *
   * A row is inserted only if no version of its user is a tombstone, for version n > 1 only if n − 1 stands, and only while the row of its
   * `whileLive` is live: a missing one, another one or a tombstone refuses it, whatever transactions are under way. It is durable when the promise resolves (for a transactional store: when the caller commits).
   *
   * @returns in input order, for each input: the row stored under its ref, ours or another writer's; else the user's
   *   tombstone, if one forbade it. An input whose n − 1 or `whileLive` is missing has no winner and is left out.
   */
  insertIfAbsent(records: readonly NewKeyRecord[]): Promise<KeyRecord[]>

  /**
   * Compare-and-set: replaces wrapped key, KEK id and `wrappedAt` of each live row that still holds `from`, or already holds
   * `encryptedKey`, unless the row of `whileLive` is missing, another one or a tombstone: a change may be made again, because the answer to
   * the first time was lost. `encryptedKey` may equal `from`: then the row changes by its `wrappedAt`, which announces it to whoever has a
   * tenant's key.
   *
   * @returns the refs of rows that hold `encryptedKey` now; the others lost to another writer, and nothing of them was written
   */
  replaceWrapped(changes: readonly WrapChange[]): Promise<KeyRef[]>

  /**
   * One page in the order of the user id's UTF-8 bytes, then version; an empty page is the end. Goes on by the stored bytes: a row that is
   * no record cannot keep it from reaching the end.
   */
  list(page: KeyPage): Promise<KeyRecord[]>

  /**
   * Erases every version of a user: empty wrapped key, `shreddedAt` set. Looks again until no live row is found, so a
   * racing insert does not survive it. A user without rows gets a tombstone at version 1, so that no later mint
   * succeeds. With `forget` all rows are removed instead, tombstones too: the user may then be minted anew.
   */
  shred(userId: string, options: ShredOptions): Promise<ShredResult>

  /** Removes rows, tombstones too. @returns how many there were, even if an answer of the database was lost */
  remove(refs: readonly KeyRef[]): Promise<number>

  /**
   * Up to `limit` live rows of each distinct KEK id, null included, without tenants: neither their own rows nor those under their keys. Jumps
   * through the index from one id to the next and over all tenants at once, so its cost grows with the number of KEK ids, not with that of
   * rows or tenants. With `onUnsearched` a store may give up where that takes too long, and then says where: see {@link SampleOptions}.
   */
  sampleByKek(limit: number, options?: SampleOptions): Promise<KeyRecord[]>

  /**
   * Counts by KEK id, version and tombstone, with tenants' own rows apart. Reads the whole table. Its length does not grow with the number of
   * tenants: see {@link MANY_TENANTS}.
   */
  census(options?: CensusOptions): Promise<CensusRow[]>

  /**
   * Calls `listener` within 2 s after any process, this one included, may have changed rows that a cache holds; unless it has called it with
   * `silent`. Does not keep the process alive.
   *
   * @returns a function that ends it
   */
  changes?(listener: (change: StoreChange) => void): () => void

  /** Absent: rows can be used, but not copied here or inspected. */
  readonly maintenance?: StoreMaintenance

  /** Closes only what the store opened. Idempotent; every later call is `ERR_CLOSED`. */
  close(): Promise<void>
}
