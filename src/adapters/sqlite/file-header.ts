/** Reads the header of a database file, in which commits are counted (sqlite.org/fileformat2.html §1.3). */
import { readSync, statSync } from 'node:fs'
import { keepOpen, release } from './kept-files.js'

export interface FileHeader {
  /** Whether the file is written past a write-ahead log. */
  readonly hasLog: boolean
  /** The file change counter. Without a write-ahead log each commit counts it up. */
  readonly changes: number
  /** The size in pages, the list of free pages, and the schema cookie. */
  readonly rest: string
}

/** @returns null if the file has no header yet */
export function headerOf(fd: number): FileHeader | null {
  const bytes = Buffer.alloc(HEADER_BYTES)
  if (readSync(fd, bytes, 0, HEADER_BYTES, 0) < HEADER_BYTES) return null
  return { hasLog: bytes[18] === 2, changes: bytes.readUInt32BE(24), rest: bytes.toString('hex', 28, 44) }
}

const HEADER_BYTES = 100

/** Whether a name is that of a file which is written past a write-ahead log. */
export function isWrittenPastLog(name: string | undefined): boolean {
  if (name === undefined || !(statSync(name, { throwIfNoEntry: false })?.isFile() ?? false)) return false
  const fd = keepOpen(name)
  try {
    return headerOf(fd)?.hasLog ?? false
  } finally {
    release(fd)
  }
}

/**
 * Whether no commit leads from one header to a later one. A copy of another database may have a higher count, and is not recognised.
 *
 * @param now read while the connection had a lock for reading: a commit that is under way may be rolled back
 */
export function isAnotherHeader(before: FileHeader, now: FileHeader): boolean {
  // The difference modulo 2³²: the counter begins again with 0.
  const difference = (now.changes - before.changes) | 0
  if (difference !== 0) return difference < 0
  return !before.hasLog && !now.hasLog && before.rest !== now.rest
}
