/** Durability of names: a new or renamed file's name outlives a power cut only once its folder is synced too. */
import { closeSync, fsyncSync, openSync } from 'node:fs'

/** Does nothing on Windows, which can neither open a folder nor needs to. */
export function syncFolder(path: string): void {
  if (process.platform === 'win32') return
  const folder = openSync(path, 'r')
  try {
    fsyncSync(folder)
  } finally {
    closeSync(folder)
  }
}
