/** Folders in which files cannot be made. Node.js names the call that failed, and SQLite not even the folder. */
import { accessSync, constants, existsSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { printableSentence } from './printable.js'

/**
 * Refuses a file that is not there and cannot be made. To be asked before anything is written.
 *
 * @param otherwise how another file is named
 */
export function assertCanBeMade(file: string, otherwise: string): void {
  if (existsSync(file)) return
  const folder = nearestFolder(file)
  try {
    accessSync(folder, constants.W_OK | constants.X_OK)
  } catch {
    throw new Error(
      `The folder ${printableSentence(folder)} is not writable, so that ${printableSentence(file)} cannot be made, and nothing was. Name a file elsewhere: ${otherwise}`,
    )
  }
}

/** The folder that is there, in which the file or its first folder would be made. */
function nearestFolder(file: string): string {
  let folder = dirname(resolve(file))
  while (!existsSync(folder) && dirname(folder) !== folder) folder = dirname(folder)
  return folder
}
