/** Compares a key log with a store. A store that lacks keys of the log is an older copy, or another store. */
import { isKeystoreError, KeystoreError, quoted, type StoreError } from '../errors.js'
import type { EmitEvent } from '../events.js'
import type { KeyStore } from '../store.js'
import { isTombstone, type KeyRef } from '../table.js'
import { ownOptions } from '../validate.js'
import { assertKeyLogPath, type KeyLogEntry, type LostEntry } from './entry.js'
import { readEntries, readLastEntries } from './file.js'
import { readableRows } from './readable-rows.js'
import { KeyLogWriter } from './writer.js'

/** A key that was made, and neither pruned nor shredded, and is not in the store. */
export interface LostKey extends KeyRef {
  readonly kekId: string | null
  readonly createdAt: Date
  /** Whether another key stands under the same user and version. Tokens of the lost one then fail as tokens of a wrong key do. */
  readonly replaced: boolean
}

export interface LostKeys {
  readonly count: number
  /** The first 1,000. */
  readonly keys: readonly LostKey[]
}

const MAX_LISTED = 1000
/** Users that are read in one query. */
const USERS = 1000

/**
 * Compares all keys of a key log with a store.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_STORE (the store, or a line of the log that cannot be read) · ERR_CLOSED
 * @example
 * const { count, keys } = await findLostKeys({ store, keyLog: 'keys.jsonl' })
 */
export async function findLostKeys(options: {
  readonly store: KeyStore
  readonly keyLog: string
}): Promise<LostKeys> {
  const { keys, count } = await compareAll(ownOptions(options))
  return { count, keys: keys.slice(0, MAX_LISTED) }
}

/** Records in the log that the lost keys are given up: from then on nobody asks for them. @returns their number */
export async function giveUpLostKeys(options: {
  readonly store: KeyStore
  readonly keyLog: string
}): Promise<number> {
  const { store, keyLog } = ownOptions(options)
  const { keys, count } = await compareAll({ store, keyLog })
  const at = new Date()
  const entries = keys.map(
    ({ userId, version, kekId, createdAt }): LostEntry => ({
      event: 'lost',
      userId,
      version,
      kekId,
      createdAt,
      at,
    }),
  )
  await new KeyLogWriter(keyLog).write(entries, 'no key was given up')
  return count
}

/** The number of users, from the end of the log, whose keys `open` looks for. */
const LAST_USERS = 1000
const MAX_NAMED = 10

/**
 * Refuses a store that lacks keys of the log, because minting there would make second first keys. Compares the last thousand users of the log
 * only, so that its cost does not grow with log or store. If the store is empty, it reads the whole log.
 *
 * @throws ERR_KEYS_LOST · ERR_STORE · ERR_CLOSED
 */
export async function refuseLostKeys(store: KeyStore, keyLog: string, emit: EmitEvent): Promise<void> {
  const last = await readLastEntries(keyLog, LAST_USERS)
  if (last === null) return
  const isEmpty = await hasNoRow(store)
  const made = new MadeKeys()
  made.addAll(last)
  // The last users may have ended all, and earlier ones not.
  const { count, keys } =
    isEmpty && made.isEmpty ? await compareAll({ store, keyLog }) : await compare(store, made)
  if (count === 0) return
  const named = keys.slice(0, MAX_NAMED).map(({ userId, version }) => ({ userId, version }))
  emit({ type: 'keysLost', users: named, count })
  throw keysLost(keyLog, isEmpty, named, count)
}

function keysLost(keyLog: string, isEmpty: boolean, named: readonly KeyRef[], count: number): KeystoreError {
  const names = named.map(({ userId, version }) => `${quoted(userId)}, version ${version}`).join('; ')
  const more = count > named.length ? '; …' : ''
  const what = isEmpty
    ? 'The store is empty, though the key log names keys that were made and neither pruned nor shredded'
    : 'The store lacks keys that its key log names, and that were neither pruned nor shredded: it is an older copy, or another store'
  return new KeystoreError(
    'ERR_KEYS_LOST',
    `${what} (${count === 1 ? '1 key' : `${count} keys`} of the last users in ${keyLog}: ${names}${more}). Is it the right store? If it is, ` +
      'restore a backup that has them (npx keystore restore FILE --key-log LOG). npx keystore doctor --key-log LOG names all of them, and with ' +
      '--give-up-lost-keys records that they are given up',
  )
}

async function hasNoRow(store: KeyStore): Promise<boolean> {
  try {
    return (await store.list({ limit: 1 })).length === 0
  } catch (error) {
    if (unreadableUser(error) !== null) return false
    throw error
  }
}

async function compareAll({
  store,
  keyLog,
}: {
  readonly store: KeyStore
  readonly keyLog: string
}): Promise<LostKeys> {
  assertKeyLogPath(keyLog)
  const made = new MadeKeys()
  for await (const entries of readEntries(keyLog)) made.addAll(entries)
  return compare(store, made)
}

async function compare(store: KeyStore, made: MadeKeys): Promise<LostKeys> {
  const keys: LostKey[] = []
  const users = [...made.users()]
  for (let i = 0; i < users.length; i += USERS) {
    const some = users.slice(i, i + USERS)
    const found = await readableRows(
      store,
      some.map(([userId]) => userId),
    )
    for (const [userId, ofUser] of some) {
      const rows = found.get(userId)
      // A row that cannot be read is another finding of doctor.
      if (rows instanceof Error || rows?.some(isTombstone)) continue
      for (const { version, kekId, createdAt } of ofUser) {
        const row = rows?.find((row) => row.version === version)
        if (row?.createdAt.getTime() === createdAt.getTime()) continue
        keys.push({ userId, version, kekId, createdAt, replaced: row !== undefined })
      }
    }
  }
  return { count: keys.length, keys }
}

function unreadableUser(error: unknown): string | null {
  return isKeystoreError(error) ? ((error as StoreError).ref?.userId ?? null) : null
}

interface MadeKey {
  readonly version: number
  readonly kekId: string | null
  readonly createdAt: Date
}

/** The keys that a log, or the end of one, says to be in the store: those that were made and have not ended. */
class MadeKeys {
  readonly #keys = new Map<string, MadeKey[]>()
  /** Of users whose erasure was begun and not finished: when, in milliseconds. */
  readonly #endedAt = new Map<string, number>()

  get isEmpty(): boolean {
    return this.#keys.size === 0
  }

  users(): IterableIterator<[string, readonly MadeKey[]]> {
    return this.#keys.entries()
  }

  addAll(entries: readonly KeyLogEntry[]): void {
    for (const entry of entries) this.#add(entry)
  }

  #add(entry: KeyLogEntry): void {
    const { userId } = entry
    switch (entry.event) {
      case 'minted':
      case 'rotated':
        this.#made(userId, { version: entry.version, kekId: entry.kekId, createdAt: entry.at })
        break
      case 'pruned':
        this.#end(userId, ({ version }) => version === entry.version)
        break
      case 'lost':
        this.#end(
          userId,
          ({ version, createdAt }) =>
            version === entry.version && createdAt.getTime() === entry.createdAt.getTime(),
        )
        break
      case 'shredding':
      case 'shredded':
        // The pool ends for the operator alone, who can only forget it.
        if (userId === '' && !entry.forget) break
        this.#keys.delete(userId)
        // What is made after a finished erasure is another key, whatever the clock of its process says.
        if (entry.event === 'shredded') this.#endedAt.delete(userId)
        else this.#endedAt.set(userId, entry.at.getTime())
        break
    }
  }

  #made(userId: string, key: MadeKey): void {
    const time = key.createdAt.getTime()
    // Another process made it before the erasure, and wrote its line after.
    if (time <= (this.#endedAt.get(userId) ?? Number.NEGATIVE_INFINITY)) return
    const keys = this.#keys.get(userId)
    if (keys === undefined) this.#keys.set(userId, [key])
    else if (!keys.some(({ version, createdAt }) => version === key.version && createdAt.getTime() === time))
      keys.push(key)
  }

  #end(userId: string, isEnded: (key: MadeKey) => boolean): void {
    const left = this.#keys.get(userId)?.filter((key) => !isEnded(key)) ?? []
    if (left.length > 0) this.#keys.set(userId, left)
    else this.#keys.delete(userId)
  }
}
