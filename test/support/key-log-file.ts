/** A shred log in a temporary folder. */
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { temporaryFolder } from './databases.js'

export interface ShredLogFile {
  readonly folder: string
  /** The file is not there until it is written. */
  readonly path: string
  /** Its lines; the last is empty if the file ends with a line end. */
  lines(): string[]
  write(text: string): void
  append(text: string): void
  remove(): void
}

export function freshShredLog(): ShredLogFile {
  const folder = temporaryFolder()
  const path = join(folder.path, 'shredded.jsonl')
  return {
    folder: folder.path,
    path,
    lines: () => readFileSync(path, 'utf8').split('\n'),
    write: (text) => writeFileSync(path, text),
    append: (text) => appendFileSync(path, text),
    remove: () => folder.remove(),
  }
}

/** A line of the log, as a shred of a user writes it at its shortest. */
export const shredLine = (userId: string, at: Date, forget = false) =>
  `${JSON.stringify({ userId, at, forget })}\n`
