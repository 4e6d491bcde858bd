/** Looks up in a key log whether keys that are gone from the store have ended. */
import { nextTurn } from '../event-loop.js'
import type { KeyIdentity } from '../table.js'
import type { KeyLogEntry } from './entry.js'
import { fullName, isMade, nameOf } from './erasures.js'
import { readEntries } from './file.js'

interface Question {
  readonly key: KeyIdentity
  resolve(hasEnded: boolean): void
  reject(error: unknown): void
}

/**
 * A forget that was begun is under way for so long, in milliseconds: its line comes before the rows go, and whoever asks has found no row.
 * If its line is older and it was not finished, it has failed, and the rows may have gone for another reason.
 */
const UNDER_WAY_MS = 60_000

/**
 * Makes a function that says whether a key has ended though its user may have another: the user was forgotten, or the key was given up. The
 * pool too may be forgotten. The log is read once for all keys that are asked for in a turn of the event loop, or during the reading before.
 *
 * The function throws ERR_STORE, which names the line that cannot be read, or the file.
 */
export function endedKeysIn(keyLog: string): (key: KeyIdentity) => Promise<boolean> {
  let waiting: Question[] = []
  let isReading = false
  async function readAll(): Promise<void> {
    isReading = true
    await nextTurn()
    while (waiting.length > 0) {
      const questions = waiting
      waiting = []
      try {
        const ended = await endedOf(
          keyLog,
          questions.map(({ key }) => key),
        )
        questions.forEach(({ key, resolve }) => {
          resolve(ended.has(fullName(key)))
        })
      } catch (error) {
        for (const { reject } of questions) reject(error)
      }
    }
    isReading = false
  }
  return (key) =>
    new Promise((resolve, reject) => {
      waiting.push({ key, resolve, reject })
      if (!isReading) void readAll()
    })
}

async function endedOf(keyLog: string, keys: readonly KeyIdentity[]): Promise<ReadonlySet<string>> {
  const asked = new Map<string, KeyIdentity[]>()
  for (const key of keys) asked.set(key.userId, [...(asked.get(key.userId) ?? []), key])
  const ended = new Set<string>()
  for await (const entries of readEntries(keyLog))
    for (const entry of entries) for (const key of asked.get(entry.userId) ?? []) apply(entry, key, ended)
  return ended
}

function apply(entry: KeyLogEntry, key: KeyIdentity, ended: Set<string>): void {
  const name = nameOf(key.version, key.createdAt)
  if (entry.event === 'shredding') {
    if (entry.forget && Date.now() - entry.at.getTime() < UNDER_WAY_MS) ended.add(fullName(key))
  } else if (entry.event === 'shredded') {
    if (entry.forget) ended.add(fullName(key))
    else ended.delete(fullName(key))
  } else if (entry.event === 'lost') {
    if (nameOf(entry.version, entry.createdAt) === name) ended.add(fullName(key))
  } else if (isMade(entry) && nameOf(entry.version, entry.at) === name) ended.delete(fullName(key))
}
