/** Files that only this user can have made. A planted file or link would be read and written like one's own. */
import { closeSync, constants, fstatSync, lstatSync, openSync, type Stats } from 'node:fs'

/** Which file a name means, whatever has the name later. */
export interface FileIdentity {
  readonly path: string
  readonly device: number
  readonly inode: number
}

/**
 * Makes a file for its owner alone, or takes the one that is there.
 *
 * @throws if the one that is there is a link, no regular file, or not this user's alone
 */
export function claimFile(path: string): FileIdentity {
  const made = tryToOpen(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL)
  const { dev, ino } = made ?? ownFile(path) ?? refused(path, 'it was removed meanwhile')
  return { path, device: dev, inode: ino }
}

/** @throws if there is such a file, and {@link claimFile} would refuse it */
export function assertOwnIfPresent(path: string): void {
  ownFile(path)
}

/** @throws if the name means another file by now */
export function assertSameFile({ path, device, inode }: FileIdentity): void {
  const found = lstatSync(path, { throwIfNoEntry: false })
  if (found?.dev !== device || found.ino !== inode) refused(path, 'another file has taken its place')
}

/** @returns null if there is no such file */
function ownFile(path: string): Stats | null {
  const found = tryToOpen(path, constants.O_RDWR)
  if (found === null) return null
  if (!found.isFile()) refused(path, 'it is no regular file')
  // Windows has neither owners nor modes of this kind.
  if (process.getuid !== undefined) {
    if (found.uid !== process.getuid()) refused(path, 'it belongs to another user')
    if ((found.mode & 0o077) !== 0) refused(path, `others may read or write it (mode ${octal(found.mode)})`)
  }
  if (found.nlink > 1) refused(path, 'it has a second name')
  return found
}

/** @returns null if the file is there and must be made, or is not there and must not */
function tryToOpen(path: string, flags: number): Stats | null {
  // NONBLOCK: opening a named pipe must not wait for somebody at its other end. Windows lacks both flags.
  const { O_NOFOLLOW = 0, O_NONBLOCK = 0 } = constants
  let file: number
  try {
    file = openSync(path, flags | O_NOFOLLOW | O_NONBLOCK, 0o600)
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : ''
    if (code === 'EEXIST' || code === 'ENOENT') return null
    if (code === 'ELOOP') refused(path, 'it is a symbolic link')
    if (code === 'EISDIR') refused(path, 'it is a folder')
    throw error
  }
  try {
    return fstatSync(file)
  } finally {
    closeSync(file)
  }
}

function octal(mode: number): string {
  return (mode & 0o777).toString(8)
}

function refused(path: string, reason: string): never {
  throw new Error(
    `${path} is not used: ${reason}, so that somebody else may have put it there. Look at it, remove it, and run this again`,
  )
}
