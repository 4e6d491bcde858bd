/** A key log in a temporary folder. */
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type KeyLogEntry, parseEntry } from '../../src/key-log/entry.js'
import { temporaryFolder } from './databases.js'

export interface KeyLogFile {
  readonly folder: string
  /** The file is not there until it is written. */
  readonly path: string
  /** Its lines; the last is empty if the file ends with a line end. */
  lines(): string[]
  /** What its lines say. @throws if one of them says nothing */
  entries(): KeyLogEntry[]
  write(text: string): void
  append(text: string): void
  remove(): void
}

export function freshKeyLog(): KeyLogFile {
  const folder = temporaryFolder()
  const path = join(folder.path, 'keys.jsonl')
  const lines = () => readFileSync(path, 'utf8').split('\n')
  return {
    folder: folder.path,
    path,
    lines,
    entries: () =>
      lines()
        // A writer that has read another's half-written line marks it as cut off, and by then it is whole.
        .filter((line) => line !== '' && line !== '\t(cut off)')
        .map((line) => {
          const entry = parseEntry(line)
          if (entry === null) throw new Error(`no entry: ${line}`)
          return entry
        }),
    write: (text) => writeFileSync(path, text),
    append: (text) => appendFileSync(path, text),
    remove: () => folder.remove(),
  }
}

/** The line of a shred that is done, or was only begun, without what it found. */
export const shredLine = (userId: string, at: Date, forget = false, event = 'shredded') =>
  `${JSON.stringify({ event, userId, versions: [], kekIds: [], forget, at })}\n`

/** The line of a key that was made. */
export const madeLine = (userId: string, at: Date, version = 1) =>
  `${JSON.stringify({ event: version === 1 ? 'minted' : 'rotated', userId, version, kekId: null, at })}\n`
