/**
 * Read-only descriptors of files that SQLite has open. POSIX drops all locks of a process on a file when the process closes any descriptor
 * of that file (sqlite.org/howtocorrupt.html §2.2). So none of them is closed while a connection of this process may have the file open.
 */
import { closeSync, fstatSync, openSync } from 'node:fs'

/** Descriptors without a user, the oldest first. Others may still have the files open, so that some are kept. */
const unused: number[] = []
const MAX_UNUSED = 64

/** Opens a file for reading. @throws the file system's errors */
export function keepOpen(path: string): number {
  return openSync(path, 'r')
}

/** Says that a descriptor is not needed any more. It is closed at once if the file has no name any more, and else some time later. */
export function release(fd: number): void {
  if (process.platform === 'win32' || fstatSync(fd).nlink === 0) closeSync(fd)
  else unused.push(fd)
  for (const oldest of unused.splice(0, unused.length - MAX_UNUSED)) closeSync(oldest)
}
