/** Looks up the keys of many users by one query, and mints what is missing by one insert. */
import { isTurnDueInLoop, nextTurn } from '../event-loop.js'
import { refKey } from '../table.js'
import type { DataKey } from './data-key.js'
import type { KnownUser, UserRows } from './known-user.js'
import type { KeyMemory } from './memory.js'
import type { KeyReader } from './reader.js'

/** A version of a user's key; without a version the key for writing, minted if there is none. */
export interface WantedKey {
  readonly userId: string
  readonly version?: number | undefined
}

export type FoundKeys = (key: WantedKey) => DataKey | Error | undefined

/**
 * Opens or mints a key.
 *
 * @param rows the user's, as they were read
 * @param beforeInsert what an insert waits for
 */
export type OpenOrMint = (key: WantedKey, rows: UserRows, beforeInsert: Promise<void>) => Promise<DataKey>

/** For `isTurnDueInLoop`: unwrapping a key, or making and wrapping one, takes as long as so many tokens. */
const UNWRAP_WEIGHT = 8
/** Reading the rows of more users takes milliseconds. */
const READ_AT_ONCE = 128

/**
 * Looks up keys, with turns of the event loop in between. What is cached is not read.
 *
 * @returns a function that gives a key, or why there is none; undefined if it must not be used any more
 */
export async function lookUpKeys(
  wanted: readonly WantedKey[],
  memory: KeyMemory,
  reader: KeyReader,
  openOrMint: OpenOrMint,
): Promise<FoundKeys> {
  const found = new Map<string, { readonly user?: KnownUser; readonly key: DataKey | Error }>()
  const misses = new Map<string, WantedKey>()
  for (const key of wanted) {
    const cached = memory.peekUser(key.userId, key.version)
    if (cached === null) misses.set(nameOf(key), key)
    else found.set(nameOf(key), cached)
  }
  const userIds = [...new Set(Array.from(misses.values(), ({ userId }) => userId))]
  const reads = userIds.map((userId) => reader.read(userId).catch((error: Error) => error))
  const rowsOf = new Map((await Promise.all(reads)).map((rows, index) => [userIds[index], rows]))
  if (userIds.length > READ_AT_ONCE) await nextTurn()
  const opening: Promise<unknown>[] = []
  // Keys that are made in several turns of the loop go into one insert.
  const allMade = gate()
  for (const [name, key] of misses) {
    if (isTurnDueInLoop(UNWRAP_WEIGHT)) await nextTurn()
    const rows = rowsOf.get(key.userId) as UserRows | Error
    if (rows instanceof Error) found.set(name, { key: rows })
    else {
      const set = (key: DataKey | Error) => found.set(name, { user: rows.user, key })
      opening.push(openOrMint(key, rows, allMade.opened).then(set, set))
    }
  }
  if (opening.length > READ_AT_ONCE) await nextTurn()
  allMade.open()
  await Promise.all(opening)
  return (wantedKey) => {
    const { user, key } = found.get(nameOf(wantedKey)) ?? {}
    if (user === undefined || key === undefined || key instanceof Error) return key
    const isOutdated = wantedKey.version === undefined && memory.isBelowSeen(user, key.version)
    return user.ended || isOutdated || key.tenant?.ended ? undefined : key
  }
}

/** A promise that is resolved from outside. */
function gate(): { readonly opened: Promise<void>; open(): void } {
  let open: () => void = () => undefined
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  return { opened, open: () => open() }
}

function nameOf({ userId, version = 0 }: WantedKey): string {
  return refKey({ userId, version })
}
