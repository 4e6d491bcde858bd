/**
 * Read-only descriptors of files that SQLite has open. POSIX drops all locks of a process on a file when the process closes any descriptor
 * of that file (sqlite.org/howtocorrupt.html §2.2). So none of them is closed while a connection of this process may have the file open.
 */
import { closeSync, fstatSync, openSync, statSync } from 'node:fs'

/** Descriptors without a user, the oldest first. Others may still have the files open, so that some are kept. */
const unused: number[] = []
const MAX_UNUSED = 64

/** Opens a file for reading. @throws the file system's errors */
export function keepOpen(path: string): number {
  return openSync(path, 'r')
}

/** By device and inode: descriptors of files that the host's connections may have open, of whose end nobody tells. */
const ofHosts = new Map<string, number>()

/** Opens a file of the host's for reading, once in this process, and for good. @throws the file system's errors */
export function keepOpenForHost(path: string): number {
  const { dev, ino } = statSync(path, { bigint: true })
  const name = `${dev} ${ino}`
  const fd = ofHosts.get(name) ?? keepOpen(path)
  ofHosts.set(name, fd)
  return fd
}

/** Says that a descriptor is not needed any more. It is closed at once if the file has no name any more, and else some time later. */
export function release(fd: number): void {
  if (process.platform === 'win32' || fstatSync(fd).nlink === 0) closeSync(fd)
  else unused.push(fd)
  for (const oldest of unused.splice(0, unused.length - MAX_UNUSED)) closeSync(oldest)
}
