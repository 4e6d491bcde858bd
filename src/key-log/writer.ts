/** Writes to a key log, a file or a function, within a deadline. */
import { StoreError } from '../errors.js'
import type { KeyRef } from '../table.js'
import type { KeyLog, KeyLogEntry } from './entry.js'
import { inTime, KeyLogFile, reasonOf } from './file.js'

/** Reasons that may pass: a full disk, too many open files, a function of the host that was late. */
const RETRYABLE: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'EMFILE', 'ENFILE', 'ETIMEDOUT'])

/** Writes entries to a file or a function. Every failure is ERR_STORE, and says what has not happened because of it. */
export class KeyLogWriter {
  readonly #file: KeyLogFile | null
  readonly #append: (entries: readonly KeyLogEntry[]) => void | Promise<void>

  constructor(keyLog: KeyLog) {
    const file = typeof keyLog === 'string' ? new KeyLogFile(keyLog) : null
    this.#file = file
    this.#append = typeof keyLog === 'string' ? (entries) => (file as KeyLogFile).append(entries) : keyLog
  }

  /**
   * @returns the size of the file in bytes; 0 for a function
   * @throws ERR_STORE if the file cannot be opened for writing
   */
  async prepare(consequence: string): Promise<number> {
    const file = this.#file
    return file === null ? 0 : settled(() => file.probe(), consequence)
  }

  /** @throws ERR_STORE */
  async write(entries: readonly KeyLogEntry[], consequence: string, ref?: KeyRef): Promise<void> {
    if (entries.length > 0) await settled(() => this.#append(entries), consequence, ref)
  }
}

async function settled<T>(write: () => T | Promise<T>, consequence: string, ref?: KeyRef): Promise<T> {
  try {
    return await inTime(write())
  } catch (error) {
    const reason = reasonOf(error)
    throw new StoreError(`The key log could not be written (${reason}): ${consequence}`, {
      retryable: RETRYABLE.has(reason),
      ...(ref === undefined ? {} : { ref: { userId: ref.userId, version: ref.version } }),
    })
  }
}
