/** Records in a key log what its store has had since before there was the log. */
import { invalidArgument } from '../errors.js'
import { nextTurn } from '../event-loop.js'
import type { KeyStore, UnreadableRow } from '../store.js'
import { isTombstone, type KeyRecord, type KeyRef } from '../table.js'
import { ownOptions } from '../validate.js'
import { assertKeyLogPath } from './entry.js'
import { fullName, isMade, readErasures } from './erasures.js'
import { readEntries } from './file.js'
import { refuseOtherStore } from './older-copy.js'
import { endRemoved, madeEntry, shreddedEntries } from './row-entries.js'
import { KeyLogWriter } from './writer.js'

/** The options of {@link recordKeys}. */
export interface RecordKeysOptions {
  /** The store whose keys are recorded. */
  readonly store: KeyStore
  /** The path of a file. It is made if it is missing. */
  readonly keyLog: string
  /** Count what the log lacks, and write nothing. The file must be there, and no store is refused. */
  readonly dryRun?: boolean | undefined
  /** Stops after the current page of 1,000 rows. The report then has `complete: false`. */
  readonly signal?: AbortSignal | undefined
}

/** What {@link recordKeys} did. */
export interface RecordKeysReport {
  /** Whether it came to the end: false after `signal`. */
  readonly complete: boolean
  /** Live keys that the log lacked. */
  readonly keys: number
  /** Shredded users whose erasure the log lacked. */
  readonly shredded: number
  /** Rows that cannot be read, and were passed over: their number, and the first 1,000. */
  readonly unreadable: { readonly count: number; readonly rows: readonly KeyRef[] }
}

const PAGE_ROWS = 1000
const MAX_LISTED = 1000
const NOT_ALL = 'not all keys were recorded: do it again'

/**
 * Records the live keys and the erasures that a store has and its key log lacks, such as those from before there was a log. From then on a
 * store without these keys is refused (ERR_KEYS_LOST), and a backup does not bring these users back. It may be done again: nothing is
 * recorded twice. Services may go on meanwhile, but prune no key. Holds a name for each key of the log in memory, and one page of rows.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_KEYS_LOST (the store lacks keys or erasures of the log: nothing was recorded) · ERR_STORE · ERR_CLOSED
 * @example
 * const { keys, shredded } = await recordKeys({ store, keyLog: 'keys.jsonl' })
 */
export async function recordKeys(options: RecordKeysOptions): Promise<RecordKeysReport> {
  const { store, keyLog, dryRun = false, signal } = ownOptions(options)
  assertKeyLogPath(keyLog)
  if (store.transactional)
    throw invalidArgument('store must not be one on a transaction, which may roll back')
  const log = new KeyLogWriter(keyLog)
  if (!dryRun) {
    await log.prepare('no key was recorded')
    await refuseOtherStore(store, keyLog)
  }
  const { made, shredded } = await recordedIn(keyLog)

  const unreadable = { count: 0, rows: [] as KeyRef[] }
  const onUnreadable = ({ userId, version }: UnreadableRow) => {
    unreadable.count += 1
    if (unreadable.rows.length < MAX_LISTED) unreadable.rows.push({ userId, version })
  }
  const found = { keys: 0, shredded: 0 }
  let newest: KeyRecord | undefined
  for (let after: KeyRef | undefined; !signal?.aborted; await nextTurn()) {
    const page = await store.list({ limit: PAGE_ROWS, onUnreadable, ...(after && { after }) })
    after = page.at(-1)
    if (after === undefined) break
    const live = page.filter((row) => !isTombstone(row))
    for (const row of live) if (newest === undefined || row.createdAt > newest.createdAt) newest = row
    const keys = live.filter((row) => !made.has(fullName(row)))
    const erasures = shreddedEntries(page.filter((row) => isTombstone(row) && !shredded.has(row.userId)))
    for (const { userId } of erasures) shredded.add(userId)
    found.keys += keys.length
    found.shredded += erasures.length
    if (dryRun) continue
    await log.write([...keys.map(madeEntry), ...erasures], NOT_ALL)
    await endRemoved(store, log, keys)
  }
  // A service asks for the key of the last line before it inserts any: no older copy may have that key.
  if (!dryRun && newest !== undefined && found.keys > 0) {
    await log.write([madeEntry(newest)], NOT_ALL)
    await endRemoved(store, log, [newest])
  }
  return { complete: !signal?.aborted, ...found, unreadable }
}

/** The keys of which the log has a line, by {@link fullName}, and the users whom it has as shredded, and not as forgotten. */
async function recordedIn(keyLog: string): Promise<Record<'made' | 'shredded', Set<string>>> {
  const erasures = [...(await readErasures(keyLog)).values()]
  const made = new Set<string>()
  for await (const entries of readEntries(keyLog))
    for (const entry of entries)
      if (isMade(entry)) made.add(fullName({ ...entry, createdAt: entry.at }))
      else if (entry.event === 'lost') made.delete(fullName(entry))
  return { made, shredded: new Set(erasures.flatMap(({ userId, forget }) => (forget ? [] : userId))) }
}
