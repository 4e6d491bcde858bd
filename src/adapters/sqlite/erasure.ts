/** Gets erased bytes out of a SQLite database's files. */
import { stat } from 'node:fs/promises'
import { storeError } from '../../drivers/driver-error.js'
import type { SqliteClient } from '../../drivers/sqlite-client.js'
import type { ErasureState } from '../../store.js'
import { encryptionKeysDeclaration } from '../../table.js'
import { ERASED, FINISH_ERASURE, pendingErasure } from '../erasure.js'
import { LEDGER } from '../migrator.js'
import type { SqliteConnection } from './connection.js'
import { hasOldBytes } from './old-bytes.js'

/** How long a shred waits for others to have read what is in the write-ahead log. */
const PATIENCE_MS = 1000

export class SqliteErasure {
  readonly #connection: SqliteConnection
  readonly #patienceMs: number
  #emptying: Promise<Required<ErasureState>> | null = null

  constructor(connection: SqliteConnection, deadlineMs: number) {
    this.#connection = connection
    this.#patienceMs = Math.min(deadlineMs, PATIENCE_MS)
  }

  /** After the commit: the bytes that it erased are still in the write-ahead log, until that is emptied. Never throws. */
  afterShred(): Promise<Required<ErasureState>> {
    // All that committed before the log is emptied share it: a thousand shreds at once would wait for a thousand disk flushes.
    this.#emptying ??= new Promise((resolve) => setImmediate(resolve)).then(() => {
      this.#emptying = null
      return this.#emptyLog()
    })
    return this.#emptying
  }

  /** Rewrites the file without its free space, where bytes that were erased without `secure_delete` remain. */
  async finish(): Promise<Required<ErasureState>> {
    await this.#connection.ready()
    if (this.#connection.place === 'memory') return ERASED
    try {
      await this.#connection.apart('rewrite the file', rewrite)
    } catch (error) {
      return stillPending(error)
    }
    const journal = await this.#connection.look('read the journal mode', (client) =>
      client.pragma('journal_mode', { simple: true }),
    )
    if (journal !== 'persist') return ERASED
    return pendingErasure(
      'The journal of a connection with journal_mode = PERSIST keeps old pages: use DELETE or WAL, ' +
        `remove the -journal file, and ${FINISH_ERASURE}`,
    )
  }

  async #emptyLog(): Promise<Required<ErasureState>> {
    switch (this.#connection.place) {
      case 'memory':
        return ERASED
      case 'host':
        return pendingErasure(
          "The store is on the host's connection, whose secure_delete may be off and whose write-ahead log is the host's " +
            `to empty: ${FINISH_ERASURE}`,
        )
      case 'file':
        try {
          return await this.#emptyFile()
        } catch (error) {
          return stillPending(error)
        }
    }
  }

  async #emptyFile(): Promise<Required<ErasureState>> {
    const path = this.#connection.path ?? ''
    await this.#connection.apart('empty the write-ahead log', emptyLog, this.#patienceMs)
    if (!(await hasOldBytes(path))) return ERASED
    const isSmall = (await stat(path)).size <= REWRITTEN_BYTES
    if (!isSmall || !(await this.#connection.look('look for other tables', isOursAlone)))
      return pendingErasure(`Unused space in the file still holds copies of rows: ${FINISH_ERASURE}`)
    await this.#connection.apart('rewrite the file', rewrite, this.#patienceMs)
    return ERASED
  }
}

/** Rewritten by a shred itself: that keeps the event loop for 50 ms or so. */
const REWRITTEN_BYTES = 4_000_000

function rewrite(client: SqliteClient): void {
  client.exec('vacuum')
  emptyLog(client)
}

/** VACUUM may change the rowids of tables without an INTEGER PRIMARY KEY, which somebody may rely on. */
function isOursAlone(client: SqliteClient): boolean {
  const others = `select 1 from sqlite_master where tbl_name not in (?, ?) and tbl_name not like 'sqlite~_%' escape '~'`
  return client.prepare(others).get(encryptionKeysDeclaration.name, LEDGER) === undefined
}

/** Everything of the write-ahead log into the file, and the log cut to nothing; does nothing where there is none. */
function emptyLog(client: SqliteClient): void {
  const [result] = client.pragma('wal_checkpoint(TRUNCATE)') as readonly { readonly busy: number }[]
  // Only other connections' readers and writers are reported so; all else is thrown.
  if (result?.busy)
    throw Object.assign(new Error('another connection is reading the write-ahead log'), {
      code: 'SQLITE_BUSY',
    })
}

function stillPending(error: unknown): Required<ErasureState> {
  return pendingErasure(`${storeError('erase what is left in the files', error).message}: ${FINISH_ERASURE}`)
}
