/** Notices that the file of a connection was deleted, replaced or overwritten: SQLite would go on with a file that nobody else sees. */
import { type BigIntStats, fstatSync, readSync, statSync } from 'node:fs'
import { printable, StoreError } from '../../errors.js'
import { type FileHeader, headerOf, isAnotherHeader } from './file-header.js'
import { keepOpen, keepOpenForHost, release } from './kept-files.js'

const LOOK_AGAIN_AFTER_MS = 1000
/** How long an overwriting must show. A checkpoint of another process looks like one for a moment. */
const SUSPICION_MS = 250

interface FileId {
  readonly dev: bigint
  readonly ino: bigint
}

export interface OpenedFileOptions {
  readonly path: string
  /** Whether the connection is ours. */
  readonly own: boolean
  /** Whether the connection uses a write-ahead log for certain, and goes on using it. */
  readonly fixedLog: boolean
  /** Whether the connection uses a write-ahead log. */
  hasLog(): boolean
  /** Runs work while the connection has a lock for reading: nobody writes into the file meanwhile. */
  whileReading<T>(work: () => T): T
}

export class OpenedFile {
  readonly #options: OpenedFileOptions
  readonly #main: FileId
  /** Of the database. */
  readonly fd: number
  /** Called once, when it is found that the file is another one. */
  onLost: ((reason: string) => void) | null = null
  #log: FileId | null = null
  /** Of the index of the write-ahead log. */
  #indexFd: number | null = null
  #content: Content | null = null
  #header: FileHeader | null = null
  #lookedAt = Number.NEGATIVE_INFINITY
  #suspectSince: number | null = null
  #lost: string | null = null

  /** To be made just before the connection opens the file. @throws the file system's errors */
  constructor(options: OpenedFileOptions) {
    this.#options = options
    this.fd = this.#keep(options.path)
    this.#main = statSync(options.path, { bigint: true })
  }

  /** Whether the file says that it is written past a write-ahead log. Asks the connection nothing. */
  get hasLog(): boolean {
    return headerOf(this.fd)?.hasLog ?? false
  }

  /** Throws if it is known that the file is another one. Looks at nothing. @throws ERR_STORE */
  assertNotLost(): void {
    if (this.#lost !== null) throw this.#lostFile(this.#lost)
  }

  /** {@link assertSame} if it was not looked for a second: whoever only reads, and listens to no changes, must notice too. @throws ERR_STORE */
  assertSameNowAndThen(): void {
    this.assertNotLost()
    if (performance.now() - this.#lookedAt >= LOOK_AGAIN_AFTER_MS) this.assertSame()
  }

  /** Looks whether names still mean the files that the connection has open. @throws ERR_STORE, from then on always */
  assertSame(): void {
    this.assertNotLost()
    this.#lookedAt = performance.now()
    const problem = this.#problem()
    if (problem !== null) this.#lose(problem)
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
      if (!this.#options.fixedLog && this.#isOtherContent()) this.#lose(OVERWRITTEN)
      return
    }
    this.#suspectSince ??= performance.now()
    if (performance.now() - this.#suspectSince < SUSPICION_MS)
      throw Object.assign(new Error('the file was changed just now'), { code: 'SQLITE_BUSY' })
    this.#lose(OVERWRITTEN)
  }

  /** {@link assertSame}, to be called after a commit of ours: a copy from before it is another content too. @throws ERR_STORE */
  assertSameAfterCommit(): void {
    this.assertSame()
    if (this.#options.fixedLog) return
    try {
      this.#header = this.#options.whileReading(() => headerOf(this.fd))
    } catch {
      // The commit stands, so that its call must not fail because somebody else is writing now.
      this.#header = null
    }
  }

  /** To be called after the connection was closed. */
  release(): void {
    if (this.#options.own) release(this.fd)
    this.#releaseIndex()
  }

  #keep(path: string): number {
    return this.#options.own ? keepOpen(path) : keepOpenForHost(path)
  }

  #releaseIndex(): void {
    if (this.#indexFd !== null && this.#options.own) release(this.#indexFd)
    this.#indexFd = null
  }

  #lostFile(what: string): StoreError {
    return lostFile(`The store's file ${printable(this.#options.path, 1000)}`, what)
  }

  /** @throws ERR_STORE */
  #lose(what: string): never {
    this.#lost = what
    const error = this.#lostFile(what)
    this.onLost?.(error.message)
    throw error
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
    if (!this.#options.fixedLog && !this.#options.hasLog()) {
      this.#log = null
      return null
    }
    return log === null
      ? 'its write-ahead log was deleted'
      : 'another file has the name of its write-ahead log'
  }

  /** Whether the database was changed though there was no checkpoint, the only writer of it beside a write-ahead log. */
  #isOverwritten(): boolean {
    const { path, fixedLog, hasLog } = this.#options
    if (this.#log === null || (!fixedLog && !hasLog())) {
      this.#content = null
      return false
    }
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
   * Whether the file is an older copy, or one of another database. Without a write-ahead log any connection may write into the file, but
   * each commit counts up in its header.
   */
  #isOtherContent(): boolean {
    const before = this.#header
    const header = this.#options.whileReading(() => headerOf(this.fd))
    const isOther = before !== null && header !== null && isAnotherHeader(before, header)
    this.#header = header
    return isOther
  }

  /**
   * What each checkpoint changes in the index of the write-ahead log (sqlite.org/walformat.html §2): the salts, how many frames are
   * written back, and how many are being written back; and which file it is. Null if it cannot be read, or a checkpoint is under way.
   */
  #checkpointState(): string | null {
    try {
      const path = `${this.#options.path}-shm`
      const index = statSync(path, { bigint: true })
      // The host may have given up its write-ahead log and begun another one.
      if (this.#indexFd !== null && !isSame(index, fstatSync(this.#indexFd, { bigint: true })))
        this.#releaseIndex()
      this.#indexFd ??= this.#keep(path)
      const header = Buffer.alloc(INDEX_HEADER_BYTES)
      if (readSync(this.#indexFd, header, 0, header.length, 0) < header.length) return null
      // Under way, or killed: pages are written after the number of attempted frames, and synced before that of finished ones.
      if (!header.subarray(96, 100).equals(header.subarray(128, 132))) return null
      return [index.ino, ...CHECKPOINT_FIELDS.map(([from, to]) => header.toString('hex', from, to))].join()
    } catch {
      return null
    }
  }
}

const OVERWRITTEN = 'its content was overwritten by another program than SQLite'

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

/** @param file how a message names the file */
export function lostFile(file: string, what: string): StoreError {
  return new StoreError(
    `${file} is not the one any more that it has open: ${what}. Close the store and open it again; ` +
      'nothing is read or written until then',
  )
}
