/** Holds a store against its key log: minting in an older copy would make second first keys, and in it shredded users live again. */
import { setTimeout as sleep } from 'node:timers/promises'
import { isKeystoreError, KeystoreError, quoted, type StoreError } from '../errors.js'
import type { EmitEvent } from '../events.js'
import type { KeyStore } from '../store.js'
import { isTombstone, type KeyIdentity, type KeyRef } from '../table.js'
import { eraseAgain, erasuresOf, readErasures } from './erasures.js'
import { readLastEntries } from './file.js'
import { compare, compareAll } from './lost-keys.js'
import { MadeKeys } from './made-keys.js'
import { readableRows } from './readable-rows.js'

/** The number of users, from the end of the log, whom `open` looks for. */
const LAST_USERS = 1000
const MAX_NAMED = 10

/**
 * Refuses a store that lacks keys of the log, or in which shredded users of the log have keys. Compares the last thousand users of the log
 * only, so that its cost does not grow with log or store. If the store is empty, it reads the whole log.
 *
 * @throws ERR_KEYS_LOST · ERR_STORE · ERR_CLOSED
 */
export async function refuseOlderCopy(store: KeyStore, keyLog: string, emit: EmitEvent): Promise<void> {
  const last = await readLastEntries(keyLog, LAST_USERS)
  if (last === null) return
  const isEmpty = await hasNoRow(store)
  const made = madeKeys(last)
  const { count, keys } =
    isEmpty && made.isEmpty ? await compareAll({ store, keyLog }) : await compare(store, made)
  if (count > 0) {
    const named = keys.slice(0, MAX_NAMED).map(({ userId, version }) => ({ userId, version }))
    emit({ type: 'keysLost', users: named, count })
    throw keysLost(keyLog, isEmpty, named, count)
  }
  // The last thousand users may have ended all, and earlier ones not.
  const newest = made.isEmpty ? await missingNewestKey(store, keyLog) : null
  if (newest !== null) {
    emit({ type: 'keysLost', users: [{ userId: newest.userId, version: newest.version }], count: 1 })
    throw keysLost(keyLog, isEmpty, [newest], 1)
  }
  const back = await eraseAgain(store, erasuresOf(last), { dryRun: true, restoreTombstones: true })
  if (back.length > 0) throw shreddedAreBack(keyLog, back)
}

/**
 * Refuses a store that lacks any key of the log, or in which any shredded user of the log has keys. Reads the whole log.
 *
 * @throws ERR_KEYS_LOST · ERR_STORE · ERR_CLOSED
 */
export async function refuseOtherStore(store: KeyStore, keyLog: string): Promise<void> {
  const { count, keys } = await compareAll({ store, keyLog })
  if (count > 0) throw keysLost(keyLog, await hasNoRow(store), keys.slice(0, MAX_NAMED), count, OF_ALL)
  const back = await eraseAgain(store, await readErasures(keyLog), { dryRun: true, restoreTombstones: true })
  if (back.length > 0) throw shreddedAreBack(keyLog, back, OF_ALL)
}

/** Users among whose keys the newest is looked for, one after another: those of the last ones may have ended. */
const NEWEST_USERS = [20, 1000, 100_000]

/**
 * Refuses a store that lacks the newest key of the log, as each copy does that is older than this key. Costs one query, so that it can be
 * done before every insert: an older copy may come back while a service is running.
 *
 * @throws ERR_KEYS_LOST · ERR_STORE · ERR_CLOSED
 */
export async function refuseWithoutNewestKey(store: KeyStore, keyLog: string): Promise<void> {
  let missing = await missingNewestKey(store, keyLog)
  // Whoever removes a key writes its line first. But a key that another process removes just after it was inserted has its lines, that it was
  // made and that it has ended, a moment later. While keys come and go, the newest one is always another.
  for (let looks = 0, same = 0; missing !== null && same < SAME_LOOKS && looks < MOST_LOOKS; looks++) {
    await sleep(LOOK_AGAIN_AFTER_MS)
    const newest = await missingNewestKey(store, keyLog)
    same = newest !== null && isSameKey(newest, missing) ? same + 1 : 0
    missing = newest
  }
  if (missing !== null) throw keysLost(keyLog, false, [missing], 1)
}

/** A key is lost if this many looks in a row find it missing. */
const SAME_LOOKS = 4
const MOST_LOOKS = 20
const LOOK_AGAIN_AFTER_MS = 50

function isSameKey(one: KeyIdentity, other: KeyIdentity): boolean {
  const isSameTime = one.createdAt.getTime() === other.createdAt.getTime()
  return isSameTime && one.version === other.version && one.userId === other.userId
}

async function missingNewestKey(store: KeyStore, keyLog: string): Promise<KeyIdentity | null> {
  const newest = await newestKey(keyLog)
  if (newest === null) return null
  const rows = (await readableRows(store, [newest.userId])).get(newest.userId) ?? []
  // A row that cannot be read is a finding of doctor.
  if (rows instanceof Error || rows.some(isTombstone)) return null
  const time = newest.createdAt.getTime()
  const isThere = rows.some((row) => row.version === newest.version && row.createdAt.getTime() === time)
  return isThere ? null : newest
}

/** The newest key of the log that has not ended; null if there is none in its last 4 MB. */
async function newestKey(keyLog: string): Promise<KeyIdentity | null> {
  let length = 0
  for (const users of NEWEST_USERS) {
    const last = (await readLastEntries(keyLog, users)) ?? []
    const { newest } = madeKeys(last)
    if (newest !== null || last.length === length) return newest
    length = last.length
  }
  return null
}

function madeKeys(entries: Parameters<MadeKeys['addAll']>[0]): MadeKeys {
  const made = new MadeKeys()
  made.addAll(entries)
  return made
}

const OF_LAST = ' of the last users in'
const OF_ALL = ' of all users in'
const IS_IT_RIGHT = 'Is it the right store? If it is, '

function keysLost(
  keyLog: string,
  isEmpty: boolean,
  named: readonly KeyRef[],
  count: number,
  where = OF_LAST,
): KeystoreError {
  const names = named.map(({ userId, version }) => `${quoted(userId)}, version ${version}`).join('; ')
  const more = count > named.length ? '; …' : ''
  const what = isEmpty
    ? 'The store is empty, though the key log names keys that were made and neither pruned nor shredded'
    : 'The store lacks keys that its key log names, and that were neither pruned nor shredded: it is an older copy, or another store'
  return new KeystoreError(
    'ERR_KEYS_LOST',
    `${what} (${count === 1 ? '1 key' : `${count.toLocaleString('en')} keys`}${where} ${keyLog}: ${names}${more}). ${IS_IT_RIGHT}` +
      'restore a backup that has them (npx keystore restore FILE --key-log LOG). npx keystore doctor --key-log LOG names all of them, and with ' +
      '--give-up-lost-keys records that they are given up',
  )
}

function shreddedAreBack(keyLog: string, users: readonly string[], where = OF_LAST): KeystoreError {
  const names = users.slice(0, MAX_NAMED).map(quoted).join('; ')
  return new KeystoreError(
    'ERR_KEYS_LOST',
    `The store has keys of users whom its key log names as shredded: it is an older copy, or another store (${users.length.toLocaleString('en')}${where} ` +
      `${keyLog}: ${names}${users.length > MAX_NAMED ? '; …' : ''}). ${IS_IT_RIGHT}erase them again: npx keystore doctor --key-log LOG`,
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

function unreadableUser(error: unknown): string | null {
  return isKeystoreError(error) ? ((error as StoreError).ref?.userId ?? null) : null
}
