/** Notices that the file of a connection was deleted, replaced or overwritten: SQLite would go on with a file that nobody else sees. */
import { type BigIntStats, statSync } from 'node:fs'
import { printable, StoreError } from '../../errors.js'
import { bytesAt, keepOpen, keepOpenForHost, release } from './kept-files.js'

/** How long an overwriting must show. A checkpoint of another process looks like one for a moment. */
const SUSPICION_MS = 250

interface FileId {
  readonly dev: bigint
  readonly ino: bigint
}

export interface OpenedFileOptions {
  readonly path: string
  /** Whether the connection is ours, and not the host's. */
  readonly own: boolean
  /** Whether the connection uses a write-ahead log. */
  hasLog(): boolean
  /** Reads through the connection, for which it needs the lock that nobody has while writing a file without such a log. */
  lock(): void
}

export class OpenedFile {
  readonly #options: OpenedFileOptions
  readonly #main: FileId
  /** Of the database; null on the host's connection. */
  readonly fd: number | null
  #log: FileId | null = null
  /** Of the index of the write-ahead log. */
  #indexFd: number | null = null
  #content: Content | null = null
  /** The change counter of a file without a write-ahead log, as it was last seen. */
  #counter: number | null = null
  #suspectSince: number | null = null
  #lost: string | null = null
  /** Called once, when it turns out that the file is another one. */
  onLost: (error: StoreError) => void = () => undefined

  /** To be made just before the connection opens the file. @throws the file system's errors */
  constructor(options: OpenedFileOptions) {
    this.#options = options
    this.fd = options.own ? keepOpen(options.path) : null
    this.#main = statSync(options.path, { bigint: true })
  }

  /** Throws if it is known that the file is another one. Looks at nothing. @throws ERR_STORE */
  assertNotLost(): void {
    if (this.#lost !== null) throw lostFile(this.#options.path, this.#lost)
  }

  /** Looks whether names still mean the files that the connection has open. @throws ERR_STORE, from then on always */
  assertSame(): void {
    this.assertNotLost()
    this.#lose(this.#problem())
  }

  #lose(problem: string | null): void {
    this.#lost = problem
    if (problem === null) return
    const error = lostFile(this.#options.path, problem)
    this.onLost(error)
    throw error
  }

  /**
   * {@link assertSame}, and looks whether the content was overwritten.
   *
   * @throws ERR_STORE · an error with the code SQLITE_BUSY while that is not certain: ask again
   */
  assertUnchanged(): void {
    this.assertSame()
    if (!this.#isOverwritten()) {
      this.#suspectSince = null
      return
    }
    this.#suspectSince ??= performance.now()
    if (performance.now() - this.#suspectSince < SUSPICION_MS)
      throw Object.assign(new Error('the file was changed just now'), { code: 'SQLITE_BUSY' })
    this.#lose('its content was overwritten by another program than SQLite')
  }

  /** To be called after the connection was closed. */
  release(): void {
    if (this.#options.own) for (const fd of [this.fd, this.#indexFd]) if (fd !== null) release(fd)
    this.#indexFd = null
  }

  #problem(): string | null {
    const { path } = this.#options
    const main = statOf(path)
    if (main === null) return 'it was deleted or renamed'
    if (!isSame(main, this.#main)) return 'another file has its name'
    const log = statOf(`${path}-wal`)
    // It is made by the first who reads or writes, and stays while anybody has the database open.
    if (this.#log === null) {
      this.#log = log
      return null
    }
    if (log !== null && isSame(log, this.#log)) return null
    // The host may have given up its write-ahead log.
    if (!this.#options.own && !this.#options.hasLog()) {
      this.#log = null
      this.#indexFd = null
      this.#content = null
      return null
    }
    return log === null
      ? 'its write-ahead log was deleted'
      : 'another file has the name of its write-ahead log'
  }

  #isOverwritten(): boolean {
    return this.#log === null ? this.#isCountedBack() : this.#isChangedBetweenCheckpoints()
  }

  /**
   * Whether a file without a write-ahead log has fewer transactions than it had: SQLite counts them in its header (sqlite.org/fileformat2.html
   * §1.3.7), so that a copy which is not older is the same.
   */
  #isCountedBack(): boolean {
    if (this.#options.own) return false
    const before = this.#changeCounter()
    this.#options.lock()
    const counter = this.#changeCounter()
    // Else a transaction is being written, and might yet be rolled back.
    if (counter === null || counter !== before) return false
    if (this.#counter !== null && counter < this.#counter) return true
    this.#counter = counter
    return false
  }

  #changeCounter(): number | null {
    return bytesAt(keepOpenForHost(this.#options.path), 24, 4)?.readUInt32BE() ?? null
  }

  /** Whether the database was changed though there was no checkpoint, the only writer of it beside a write-ahead log. */
  #isChangedBetweenCheckpoints(): boolean {
    const { path } = this.#options
    const main = statOf(path)
    const checkpoint = this.#checkpointState()
    if (main === null || checkpoint === null) return false
    const content = { mtimeNs: main.mtimeNs, size: main.size, checkpoint }
    const before = this.#content
    const isChanged = before !== null && (before.mtimeNs !== content.mtimeNs || before.size !== content.size)
    if (isChanged && before.checkpoint === checkpoint) return true
    this.#content = content
    return false
  }

  /**
   * What each checkpoint changes in the index of the write-ahead log (sqlite.org/walformat.html §2): the salts, how many frames are
   * written back, and how many are being written back. Null if it cannot be read.
   */
  #checkpointState(): string | null {
    try {
      const { path, own } = this.#options
      this.#indexFd ??= (own ? keepOpen : keepOpenForHost)(`${path}-shm`)
      const header = bytesAt(this.#indexFd, 0, INDEX_HEADER_BYTES)
      if (header === null) return null
      return CHECKPOINT_FIELDS.map(([from, to]) => header.toString('hex', from, to)).join()
    } catch {
      return null
    }
  }
}

interface Content {
  readonly mtimeNs: bigint
  readonly size: bigint
  readonly checkpoint: string
}

const INDEX_HEADER_BYTES = 136
/** aSalt, nBackfill, nBackfillAttempted. */
const CHECKPOINT_FIELDS = [
  [32, 40],
  [96, 100],
  [128, 132],
] as const

function statOf(path: string): BigIntStats | null {
  return statSync(path, { bigint: true, throwIfNoEntry: false }) ?? null
}

function isSame(a: FileId, b: FileId): boolean {
  return a.dev === b.dev && a.ino === b.ino
}

function lostFile(path: string, what: string): StoreError {
  return new StoreError(
    `The store's file ${printable(path, 1000)} is not the one any more that it has open: ${what}. Close the store and open it again; ` +
      'nothing is read or written until then',
  )
}
