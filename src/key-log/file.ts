/** The file of a key log: appended durably by any number of processes, and read from its begin or from its end. */
import { type FileHandle, open, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { StoreError } from '../errors.js'
import { syncFolder } from '../sync-folder.js'
import { type KeyLogEntry, linesOf, parseEntry } from './entry.js'

const LINE_END = 0x0a
/** Ends a line that a crash has cut off. Nothing was done because of such a line, since lines are synced first. */
const CUT_OFF = '\t(cut off)\n'

interface Waiting {
  readonly text: string
  resolve(): void
  reject(error: unknown): void
}

/** Appends to a file. What is appended while a write is under way goes into the next one: many keys cost few syncs. */
export class KeyLogFile {
  readonly #path: string
  #waiting: Waiting[] = []
  #isWriting = false

  constructor(path: string) {
    this.#path = path
  }

  /**
   * Opens the file for writing, and makes it if it is missing. Most reasons why an append fails show here.
   *
   * @returns its size in bytes
   */
  async probe(): Promise<number> {
    const file = await open(this.#path, 'a', 0o600)
    try {
      return (await file.stat()).size
    } finally {
      await file.close()
    }
  }

  /** Appends a line for each entry. They are durable when the promise resolves. */
  append(entries: readonly KeyLogEntry[]): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ text: linesOf(entries), resolve, reject })
      if (!this.#isWriting) void this.#writeAll()
    })
  }

  async #writeAll(): Promise<void> {
    this.#isWriting = true
    while (this.#waiting.length > 0) {
      const batch = this.#waiting
      this.#waiting = []
      try {
        await appendDurably(this.#path, batch.map(({ text }) => text).join(''))
        for (const { resolve } of batch) resolve()
      } catch (error) {
        for (const { reject } of batch) reject(error)
      }
    }
    this.#isWriting = false
  }
}

async function appendDurably(path: string, lines: string): Promise<void> {
  const file = await open(path, 'a+', 0o600)
  try {
    const { size } = await file.stat()
    const [last] = size === 0 ? [LINE_END] : await readAt(file, size - 1, 1)
    // One write: lines of other processes come before it or after it.
    const bytes = Buffer.from(`${last === LINE_END ? '' : CUT_OFF}${lines}`)
    const { bytesWritten } = await file.write(bytes)
    // A second write could follow another process's line.
    if (bytesWritten < bytes.length) throw Object.assign(new Error('a part was written'), { code: 'ENOSPC' })
    await file.datasync()
    if (size === 0) syncFolder(dirname(path))
  } finally {
    await file.close()
  }
}

const CHUNK_BYTES = 64 * 1024

/**
 * Yields all entries of a file, some at a time. Leaves out lines that a crash has cut off.
 *
 * @throws ERR_STORE naming the line that cannot be read, or the file: nothing may be skipped silently
 */
export async function* readEntries(path: string): AsyncGenerator<readonly KeyLogEntry[], void, undefined> {
  const file = await openToRead(path)
  if (file === null) throw cannotBeRead(path, 'ENOENT')
  try {
    let rest = Buffer.alloc(0)
    let line = 0
    for (let at = 0; ; ) {
      const chunk = await readLog(file, path, at, CHUNK_BYTES)
      at += chunk.length
      const bytes = Buffer.concat([rest, chunk])
      const end = chunk.length === 0 ? bytes.length : bytes.lastIndexOf(LINE_END) + 1
      rest = bytes.subarray(end)
      const entries = entriesOf(bytes.subarray(0, end), (index) =>
        unreadable(path, `Line ${line + index + 1}`),
      )
      line += countOf(bytes.subarray(0, end), LINE_END)
      yield entries
      if (chunk.length === 0) return
    }
  } finally {
    closeSoon(file)
  }
}

/** Group and others may write. */
const OTHERS_MAY_WRITE = 0o022

/**
 * Refuses a file that others may write: its lines erase keys for good. It belongs to this process's user, or to root; for root, who tends the
 * services of other users, it may be anybody's.
 *
 * @throws ERR_STORE
 */
export async function assertWrittenByOwnerOnly(path: string): Promise<void> {
  // Windows has neither such a mode nor such an owner.
  if (process.getuid === undefined) return
  const { mode, uid } = await stat(path).catch((error: unknown) => {
    throw cannotBeRead(path, reasonOf(error))
  })
  const us = process.getuid()
  if (us !== 0 && uid !== 0 && uid !== us)
    throw new StoreError(
      `The key log ${path} belongs to another user (uid ${uid}), and what it says of shredded users erases keys for good: nothing was done by ` +
        'it. Run as its owner, or look through its lines and make it yours (chown)',
    )
  if ((mode & OTHERS_MAY_WRITE) === 0) return
  throw new StoreError(
    `The key log ${path} may be written by others than its owner (mode ${(mode & 0o777).toString(8).padStart(4, '0')}), and what it says of ` +
      `shredded users erases keys for good: nothing was done by it. Look through its lines, and run: chmod go-w ${path}`,
  )
}

/** The end of a file that {@link readLastEntries} reads at most. */
const MOST_TAIL_BYTES = 4 * 1024 * 1024
const FIRST_TAIL_BYTES = 16 * 1024

/**
 * The last entries of a file, as many as are about `users` users; fewer if these lines are longer than 4 MB.
 *
 * @returns null if there is no such file
 * @throws ERR_STORE if the file or one of these lines cannot be read
 */
export async function readLastEntries(path: string, users: number): Promise<readonly KeyLogEntry[] | null> {
  const file = await openToRead(path)
  if (file === null) return null
  try {
    const { size } = await file.stat()
    for (let length = FIRST_TAIL_BYTES; ; length *= 4) {
      const begin = Math.max(0, size - length)
      const entries = await entriesFrom(file, path, begin, size)
      const first = beginOfLastUsers(entries, users)
      if (first > 0 || begin === 0 || length >= MOST_TAIL_BYTES) return entries.slice(first)
    }
  } finally {
    closeSoon(file)
  }
}

/**
 * The entries whose lines begin at a position or after it.
 *
 * @returns null if there is no such file
 * @throws ERR_STORE if the file or one of these lines cannot be read
 */
export async function readEntriesFrom(path: string, begin: number): Promise<readonly KeyLogEntry[] | null> {
  const file = await openToRead(path)
  if (file === null) return null
  try {
    return await entriesFrom(file, path, begin, (await file.stat()).size)
  } finally {
    closeSoon(file)
  }
}

async function entriesFrom(
  file: FileHandle,
  path: string,
  begin: number,
  end: number,
): Promise<KeyLogEntry[]> {
  // From the byte before, which is a line end if a line begins here.
  const from = Math.max(0, begin - 1)
  const bytes = await readLog(file, path, from, Math.max(0, end - from))
  const whole = begin === 0 ? bytes : bytes.subarray(bytes.indexOf(LINE_END) + 1)
  return entriesOf(whole, () => unreadable(path, 'A line'))
}

/** Where the entries of the last users begin; 0 if there are no more users than these. */
function beginOfLastUsers(entries: readonly KeyLogEntry[], users: number): number {
  const found = new Set<string>()
  for (let index = entries.length - 1; index >= 0; index--) {
    found.add((entries[index] as KeyLogEntry).userId)
    if (found.size > users) return index + 1
  }
  return 0
}

/** @param errorOf for the index of a line that is no entry */
function entriesOf(bytes: Buffer, errorOf: (index: number) => StoreError): KeyLogEntry[] {
  if (bytes.length === 0) return []
  const lines = bytes.toString('utf8').split('\n')
  // What follows the last line end is cut off, or is being written.
  const unfinished = lines.pop() as string
  const entries = lines.flatMap((line, index) => {
    if (line.trim() === '' || `${line}\n`.endsWith(CUT_OFF)) return []
    const entry = parseEntry(line)
    if (entry === null) throw errorOf(index)
    return entry
  })
  const last = parseEntry(unfinished)
  return last === null ? entries : [...entries, last]
}

/** @returns null if there is no such file */
async function openToRead(path: string): Promise<FileHandle | null> {
  try {
    const opening = open(path, 'r')
    const file = await inTime(opening).catch((error: unknown) => {
      // It may yet be opened.
      opening.then(closeSoon, () => undefined)
      throw error
    })
    // A folder can be opened, but not read.
    if ((await file.stat()).isDirectory()) {
      await file.close()
      throw Object.assign(new Error('a folder'), { code: 'EISDIR' })
    }
    return file
  } catch (error) {
    const reason = reasonOf(error)
    if (reason === 'ENOENT') return null
    throw cannotBeRead(path, reason)
  }
}

const NO_FILE =
  'is its path right? A store that has keys and no log yet gets one by `npx keystore doctor --record-keys --key-log FILE`'

function cannotBeRead(path: string, reason: string): StoreError {
  const advice = reason === 'ENOENT' ? `: ${NO_FILE}` : ''
  return new StoreError(`The key log ${path} cannot be read (${reason})${advice}`, {
    retryable: reason === LATE,
  })
}

/** Calls of a file or a function end after this, as those of a store do: a disk of the network, or a pipe, may never answer. */
const DEADLINE_MS = 10_000

/** @throws at the deadline an error with the code ETIMEDOUT */
export async function inTime<T>(work: T | Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(reject, DEADLINE_MS, Object.assign(new Error('late'), { code: LATE }))
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

const LATE = 'ETIMEDOUT'

/** {@link readAt} for readers. @throws ERR_STORE */
function readLog(file: FileHandle, path: string, position: number, length: number): Promise<Buffer> {
  return readAt(file, position, length).catch((error: unknown) => {
    throw cannotBeRead(path, reasonOf(error))
  })
}

async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length)
  let filled = 0
  while (filled < length) {
    const { bytesRead } = await inTime(file.read(bytes, filled, length - filled, position + filled))
    if (bytesRead === 0) break
    filled += bytesRead
  }
  return bytes.subarray(0, filled)
}

/** Does not wait: closing ends only after a read that may never end. */
function closeSoon(file: FileHandle): void {
  file.close().catch(() => undefined)
}

function countOf(bytes: Buffer, byte: number): number {
  let count = 0
  for (let at = bytes.indexOf(byte); at !== -1; at = bytes.indexOf(byte, at + 1)) count += 1
  return count
}

function unreadable(path: string, line: string): StoreError {
  return new StoreError(
    `${line} of the key log ${path} is damaged, or of a newer version: repair it, or delete it if you know what it said. ` +
      'Nothing was done by the log',
  )
}

/** The code of a system error. Nothing else of an error is shown, because that of a function of the host may hold anything. */
export function reasonOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? String(error.code) : ''
  return /^[A-Z][A-Z0-9_]{1,30}$/.test(code) ? code : 'it failed'
}
