/** Reads a source and its target side by side, user by user. */
import { type KeystoreError, quoted, StoreError } from '../errors.js'
import { isTurnDueInLoop, nextTurn } from '../event-loop.js'
import type { Erasures } from '../key-log/erasures.js'
import { readableRows } from '../key-log/readable-rows.js'
import type { KeyStore } from '../store.js'
import { compareUtf8, isTombstone, type KeyRecord } from '../table.js'
import type { CopiedRows } from './copied-rows.js'
import { copyable, type EndingCopy } from './copy-failures.js'
import {
  COUNTING,
  DEFAULT_BATCH_SIZE,
  groupPagesByUser,
  type LongWorkOptions,
  ProgressMeter,
} from './long-work.js'

/** What one call of copyKeys reads. */
export interface CopyReading extends LongWorkOptions, EndingCopy {
  readonly from: KeyStore
  readonly to: KeyStore
  readonly rows: CopiedRows
  readonly erasures: Erasures
}

/** The rows of one user, by version. */
export interface UserPair {
  readonly userId: string
  /** Those to be copied, with the key log applied. Empty if only the target has the user. */
  readonly records: readonly KeyRecord[]
  /** Those of the target; null if nobody looked. */
  readonly stored: readonly KeyRecord[] | null
  /** Why not all of the target's can be read, or null. */
  readonly unreadable: KeystoreError | null
}

export interface CopyPage {
  readonly pairs: readonly UserPair[]
  /** Reports the page as done. */
  done(): void
}

/** How the target is looked at. */
export type TargetLook =
  /** All of it, in the same order as the source: the cheapest for each row. */
  | 'in order'
  /** The source's users are looked up: for a target that has many others. */
  | 'looked up'
  /** Only users with tombstones are looked up: for a target that was empty. */
  | 'taken for empty'

/** For `isTurnDueInLoop`: a user's rows take as long as so many tokens. */
const USER_WEIGHT = 4

/** Yields the pairs page by page. Of the users whom only the target has, those that a look in order comes upon on the way. */
export async function* copyPages(
  job: CopyReading,
  phase: string,
  look: TargetLook,
  /** Asked when the source has ended: whether the users of the target behind it are wanted too. */
  wantsRest: () => boolean,
): AsyncGenerator<CopyPage, void, undefined> {
  const progress = await meter(job, phase, job.from)
  const target = look === 'in order' ? new TargetUsers(job) : null
  try {
    for await (const users of sourceUsers(job)) {
      const last = target === null ? await lookedUp(job, users, look) : yield* target.pairsOf(users)
      yield { pairs: last, done: () => progress.add(rowsOf(users)) }
    }
    if (target !== null && !job.signal?.aborted && wantsRest()) yield* target.rest()
  } finally {
    await target?.end()
  }
}

function rowsOf(users: readonly (readonly KeyRecord[])[]): number {
  return users.reduce((sum, versions) => sum + versions.length, 0)
}

function sourceUsers(job: CopyReading): AsyncGenerator<readonly (readonly KeyRecord[])[], void, undefined> {
  const { from, rows, failures } = job
  const pages = rows.pages(from, job, ({ error, ...ref }) => failures.add('source', ref, error))
  return inOrder(groupPagesByUser(pages, job))
}

/** Without somebody to tell, the rows are not counted. */
async function meter(job: CopyReading, phase: string, store: KeyStore, seen = 0): Promise<ProgressMeter> {
  job.onProgress?.(COUNTING)
  const total = job.onProgress === undefined ? 0 : await job.rows.size(store)
  return new ProgressMeter(phase, Math.max(0, total - seen), job)
}

async function lookedUp(
  job: CopyReading,
  users: readonly (readonly KeyRecord[])[],
  look: TargetLook,
): Promise<UserPair[]> {
  const pairs = users.map((versions) => pairOf(job, versions, null))
  const isAsked = ({ records }: UserPair) =>
    records.length > 0 && (look === 'looked up' || records.some(isTombstone))
  const asked = pairs.filter(isAsked).map(({ userId }) => userId)
  if (asked.length === 0) return pairs
  const found = await readableRows(job.to, asked)
  return pairs.map((pair) => {
    if (!isAsked(pair)) return pair
    const rows = found.get(pair.userId) ?? []
    return rows instanceof Error ? { ...pair, stored: [], unreadable: rows } : { ...pair, stored: rows }
  })
}

function pairOf(
  job: CopyReading,
  versions: readonly KeyRecord[],
  stored: readonly KeyRecord[] | null,
  unreadable: KeystoreError | null = null,
): UserPair {
  return { userId: userIdOf(versions), records: copyable(job, versions, job.erasures), stored, unreadable }
}

/** @param versions of one user, at least one */
function userIdOf(versions: readonly KeyRecord[]): string {
  return (versions[0] as KeyRecord).userId
}

/** The users of the target, in order. */
class TargetUsers {
  readonly #job: CopyReading
  readonly #pages: AsyncGenerator<readonly (readonly KeyRecord[])[], void, undefined>
  #page: readonly (readonly KeyRecord[])[] = []
  #at = 0
  #hasEnded = false
  #rowsSeen = 0
  /** Why rows cannot be read, by user. A row is reported before any user who comes after it is given. */
  readonly #unreadable = new Map<string, KeystoreError>()

  constructor(job: CopyReading) {
    const { to, rows, failures } = job
    this.#job = job
    // Read on to the end also when the source's pages end early: users would be taken for missing.
    const reading = { ...job, signal: undefined }
    const pages = rows.pages(to, reading, ({ error, ...row }) => {
      failures.add('target', row, error)
      if (row.hasId) this.#unreadable.set(row.userId, error)
    })
    this.#pages = inOrder(groupPagesByUser(pages, reading))
  }

  /** Gives the users of a page of the source with their rows here, and before them those whom the source lacks. @returns the last pairs */
  async *pairsOf(
    users: readonly (readonly KeyRecord[])[],
  ): AsyncGenerator<CopyPage, readonly UserPair[], undefined> {
    const full = this.#job.batchSize ?? DEFAULT_BATCH_SIZE
    let pairs: UserPair[] = []
    for (const versions of users) {
      if (isTurnDueInLoop(USER_WEIGHT)) await nextTurn()
      const userId = userIdOf(versions)
      let stored: readonly KeyRecord[] = []
      for (;;) {
        const next = this.#page[this.#at] ?? (await this.#peek())
        const order = next === null ? 1 : compareUtf8(userIdOf(next), userId)
        if (next === null || order > 0) break
        this.#take(next)
        if (order === 0) {
          stored = next
          break
        }
        pairs.push(onlyAtTarget(next))
        if (pairs.length >= full) {
          yield { pairs, done: () => undefined }
          pairs = []
        }
      }
      pairs.push(pairOf(this.#job, versions, stored, this.#unreadable.get(userId)))
    }
    return pairs
  }

  /** The users behind all of the source's. */
  async *rest(): AsyncGenerator<CopyPage, void, undefined> {
    const { to } = this.#job
    const progress = await meter(this.#job, 'comparing what only the target has', to, this.#rowsSeen)
    while ((await this.#peek()) !== null) {
      const users = this.#page.slice(this.#at)
      for (const versions of users) this.#take(versions)
      yield { pairs: users.map(onlyAtTarget), done: () => progress.add(rowsOf(users)) }
    }
  }

  async end(): Promise<void> {
    await this.#pages.return()
  }

  #take(versions: readonly KeyRecord[]): void {
    this.#rowsSeen += versions.length
    this.#at += 1
  }

  /** Reads the next page if need be. @returns null at the end */
  async #peek(): Promise<readonly KeyRecord[] | null> {
    while (this.#at >= this.#page.length && !this.#hasEnded) {
      const { value, done } = await this.#pages.next()
      this.#page = done ? [] : value
      this.#at = 0
      this.#hasEnded = done === true
    }
    return this.#page[this.#at] ?? null
  }
}

function onlyAtTarget(stored: readonly KeyRecord[]): UserPair {
  return { userId: userIdOf(stored), records: [], stored, unreadable: null }
}

/** @throws ERR_STORE if the users do not come in the order of their ids' bytes: side by side, they would be taken for missing */
async function* inOrder(
  pages: AsyncGenerator<readonly (readonly KeyRecord[])[], void, undefined>,
): AsyncGenerator<readonly (readonly KeyRecord[])[], void, undefined> {
  let last: string | null = null
  for await (const users of pages) {
    for (const versions of users) {
      const userId = userIdOf(versions)
      if (last !== null && compareUtf8(last, userId) >= 0) throw outOfOrder(last, userId)
      last = userId
    }
    yield users
  }
}

function outOfOrder(before: string, after: string): StoreError {
  return new StoreError(
    `The key store lists user ${quoted(before)} before user ${quoted(after)}: its list() must go by the UTF-8 bytes of the ids, or two stores cannot be compared. ` +
      'In Postgres the column user_id must be COLLATE "C". In SQLite `pragma encoding` must be UTF-8: one that says UTF-16 can be brought over with ' +
      '`sqlite3 OLD .dump | sqlite3 NEW`, and some users can be copied by their ids (only; --user)',
  )
}
