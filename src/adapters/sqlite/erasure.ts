/** Removes erased bytes from the files of a SQLite database. */
import { fstatSync } from 'node:fs'
import { storeError } from '../../drivers/driver-error.js'
import type { SqliteClient } from '../../drivers/sqlite-client.js'
import type { ErasureState } from '../../store.js'
import { encryptionKeysDeclaration } from '../../table.js'
import { ERASED, FINISH_ERASURE, pendingErasure } from '../erasure.js'
import { LEDGER } from '../migrator.js'
import type { SqliteConnection } from './connection.js'
import { copiersOf } from './copiers.js'
import { hasOldBytes } from './old-bytes.js'

/** How long a shred waits for other connections that still read the write-ahead log. */
const SHRED_WAIT_MS = 1000

export class SqliteErasure {
  readonly #connection: SqliteConnection
  readonly #shredWaitMs: number
  /** The next erasure. Every shred that commits before it begins waits for this one. */
  #nextErasure: Promise<Required<ErasureState>> | null = null

  constructor(connection: SqliteConnection, deadlineMs: number) {
    this.#connection = connection
    this.#shredWaitMs = Math.min(deadlineMs, SHRED_WAIT_MS)
  }

  /** Call it after a shred's commit: the erased bytes stay in the write-ahead log until that is truncated. Never throws. */
  afterShred(): Promise<Required<ErasureState>> {
    // One truncation for many shreds: else a thousand at once would wait for a thousand disk flushes.
    this.#nextErasure ??= new Promise((resolve) => setImmediate(resolve)).then(async () => {
      this.#nextErasure = null
      return this.#unlessCopied(await this.#erase())
    })
    return this.#nextErasure
  }

  /** Rewrites the file without its free space, which holds the bytes that were erased without `secure_delete`. */
  async finish(): Promise<Required<ErasureState>> {
    await this.#connection.ready()
    return this.#unlessCopied(await this.#finish())
  }

  async #finish(): Promise<Required<ErasureState>> {
    if (this.#connection.place === 'memory') return ERASED
    try {
      await this.#connection.outsideTransaction('rewrite the file', rewrite)
    } catch (error) {
      return stillPending(error)
    }
    const journal = await this.#connection.withClient('read the journal mode', (client) =>
      client.pragma('journal_mode', { simple: true }),
    )
    if (journal !== 'persist') return ERASED
    return pendingErasure(
      'The journal of a connection with journal_mode = PERSIST keeps old pages: use DELETE or WAL, ' +
        `remove the -journal file, and ${FINISH_ERASURE}`,
    )
  }

  /** Never throws. */
  async #unlessCopied(state: Required<ErasureState>): Promise<Required<ErasureState>> {
    try {
      const reason = await this.#connection.withClient('look for triggers and indexes', copiersOf)
      if (reason === null) return state
      return pendingErasure(state.pending === null ? reason : `${state.pending}. ${reason}`)
    } catch (error) {
      return state.pending === null ? stillPending(error) : state
    }
  }

  async #erase(): Promise<Required<ErasureState>> {
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
          return await this.#eraseFromFile()
        } catch (error) {
          return stillPending(error)
        }
    }
  }

  async #eraseFromFile(): Promise<Required<ErasureState>> {
    await this.#connection.outsideTransaction('empty the write-ahead log', truncateLog, this.#shredWaitMs)
    const { fd } = this.#connection
    if (fd !== null && !(await hasOldBytes(fd))) return ERASED
    const isSmall = fd !== null && fstatSync(fd).size <= MAX_REWRITTEN_BYTES
    if (!isSmall || !(await this.#connection.withClient('look for other tables', hasOnlyOurTables)))
      return pendingErasure(`Unused space in the file still holds copies of rows: ${FINISH_ERASURE}`)
    await this.#connection.outsideTransaction('rewrite the file', rewrite, this.#shredWaitMs)
    return ERASED
  }
}

/** The largest file that a shred rewrites by itself. It blocks the event loop for about 50 ms. */
const MAX_REWRITTEN_BYTES = 4_000_000

function rewrite(client: SqliteClient): void {
  client.exec('vacuum')
  truncateLog(client)
}

/** VACUUM may change the rowids of tables without an INTEGER PRIMARY KEY. Other tables may rely on theirs; ours do not. */
function hasOnlyOurTables(client: SqliteClient): boolean {
  const others = `select 1 from sqlite_master where tbl_name not in (?, ?) and tbl_name not like 'sqlite~_%' escape '~'`
  return client.prepare(others).get(encryptionKeysDeclaration.name, LEDGER) === undefined
}

/** Copies the write-ahead log into the file and truncates it. Does nothing if there is none. */
function truncateLog(client: SqliteClient): void {
  const [result] = client.pragma('wal_checkpoint(TRUNCATE)') as readonly { readonly busy: number }[]
  // SQLite reports that other connections are in the way in the result, and throws everything else.
  if (result?.busy)
    throw Object.assign(new Error('another connection is reading the write-ahead log'), {
      code: 'SQLITE_BUSY',
    })
}

function stillPending(error: unknown): Required<ErasureState> {
  return pendingErasure(`${storeError('erase what is left in the files', error).message}: ${FINISH_ERASURE}`)
}
