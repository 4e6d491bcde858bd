/** A file of JSON lines as a source of values for the sweep. */
import { type FileHandle, open, readdir, realpath, rename, stat, unlink } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { invalidArgument, isKeystoreError, type KeystoreError, StoreError } from '../errors.js'
import { decodeUtf8 } from '../format/encoding.js'
import { syncFolder } from '../sync-folder.js'
import { kindOf } from '../validate.js'
import { withProperty } from './json-text.js'
import {
  type SourceColumns,
  sourceColumns,
  type ValueCell,
  type ValueChange,
  type ValueSource,
} from './value-source.js'

export type JsonRow = Readonly<Record<string, unknown>>

export interface JsonlSourceOptions {
  /**
   * The property with the user's id, or a function of the row; a whole number counts as its decimal digits. Null, also for one row: values
   * of the shared pool. A row with values that has no such property ends the sweep: its name may be mistyped.
   */
  readonly owner: string | ((row: JsonRow) => string | null) | null
  /** The properties with values, and the context of each. */
  readonly columns: SourceColumns<JsonRow>
}

/**
 * A file with a JSON object on each line as a source of values for `reencrypt`; the key of a value is the number of its line. The new file
 * is written beside the old and takes its place in one step when all lines are done: until then, after an error, an abort or a kill, and if
 * nothing changes, the file is as it was. It must have no other writer: one that is noticed ends the sweep.
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * const source = jsonlSource('export.jsonl', { owner: 'userId', columns: { apiKey: 'credentials.api_key' } })
 */
export function jsonlSource(path: string, options: JsonlSourceOptions): ValueSource<JsonRow> {
  if (typeof path !== 'string' || path === '') throw invalidArgument('path must be a non-empty string')
  if (typeof options !== 'object' || options === null)
    throw invalidArgument(`options must be an object, got ${kindOf(options)}`)
  const { owner } = options
  if (typeof owner !== 'string' && typeof owner !== 'function' && owner !== null)
    throw invalidArgument(`owner must be the name of a property, a function or null, got ${kindOf(owner)}`)
  const columns = sourceColumns(options.columns)
  const ownerOf = (row: JsonRow, number: number): unknown => {
    if (typeof owner !== 'function') return owner === null ? null : own(row, owner)
    try {
      return owner(row)
    } catch {
      // Its error may quote the row.
      throw invalidArgument(`the owner of line ${number} of ${path} cannot be told: its function threw`)
    }
  }
  /** @returns what is no user id as it is: the sweep reports it */
  const knownOwnerOf = (row: JsonRow, number: number): unknown => {
    const found = ownerOf(row, number)
    if (found === undefined)
      throw invalidArgument(`line ${number} of ${path} has values and no owner; null says the shared pool's`)
    return Number.isSafeInteger(found) ? String(found) : found
  }
  let page: ReadonlyMap<number, Line> = new Map()

  function cellsOf({ number, row }: Line): ValueCell<JsonRow>[] {
    if (row === null) return []
    const values = Array.from(columns, ([column, context]) => ({
      column,
      context,
      value: own(row, column) as ValueCell['value'],
    }))
    const isEmpty = values.every(({ value }) => value === undefined || value === null)
    const owner = (isEmpty ? null : knownOwnerOf(row, number)) as ValueCell['owner']
    return values.map((value) => ({ ...value, key: number, owner, row }))
  }

  return {
    atOnce: true,
    async *pages({ limit }) {
      const rewriting = await Rewriting.of(path)
      try {
        for await (const lines of rewriting.pages(limit)) {
          page = new Map(lines.map((line) => [line.number, line]))
          yield lines.flatMap(cellsOf)
          await rewriting.write(lines)
        }
        await rewriting.finish()
      } finally {
        page = new Map()
        await rewriting.end()
      }
    },
    async replace(changes) {
      return changes.filter((change) => page.get(change.key as number)?.change(change) === true)
    },
  }
}

/** One line, its end included. */
class Line {
  readonly number: number
  readonly row: JsonRow | null
  readonly #bytes: Buffer
  #text: string | null = null

  /** @throws ERR_INVALID_ARGUMENT, which names the line and does not show it */
  constructor(path: string, number: number, bytes: Buffer) {
    this.number = number
    this.#bytes = bytes
    this.row = rowOf(path, number, bytes)
  }

  /** Its bytes now; unchanged ones as they were read. */
  get bytes(): Buffer {
    return this.#text === null ? this.#bytes : Buffer.from(this.#text)
  }

  get isChanged(): boolean {
    return this.#text !== null
  }

  change({ column, from, to }: ValueChange): boolean {
    if (this.row?.[column] !== from) return false
    const text = withProperty(this.#text ?? this.#bytes.toString(), column, to)
    if (text === null) return false
    this.#text = text
    return true
  }
}

/** Not what every object has. */
function own(row: JsonRow, name: string): unknown {
  return Object.hasOwn(row, name) ? row[name] : undefined
}

const BYTE_ORDER_MARK = '\ufeff'

function rowOf(path: string, number: number, bytes: Buffer): JsonRow | null {
  const text = decodeUtf8(bytes)
  if (text !== null) {
    const json = number === 1 && text.startsWith(BYTE_ORDER_MARK) ? text.slice(1) : text
    if (json.trim() === '') return null
    try {
      const row: unknown = JSON.parse(json)
      if (typeof row === 'object' && row !== null && !Array.isArray(row)) return row as JsonRow
    } catch {
      // Its message may quote the line.
    }
  }
  throw invalidArgument(`line ${number} of ${path} is no JSON object: nothing was changed`)
}

type Stats = Awaited<ReturnType<typeof statOf>>

function statOf(path: string) {
  return stat(path, { bigint: true })
}

/** A file that is read once and, if anything changes, written anew beside itself. */
class Rewriting {
  readonly #path: string
  readonly #partial: string
  readonly #before: Stats
  readonly #input: FileHandle
  #output: FileHandle | null = null
  /** Bytes of the lines that were written, or need not be. */
  #done = 0

  private constructor(path: string, before: Stats, input: FileHandle) {
    this.#path = path
    this.#partial = `${path}.${process.pid}.partial`
    this.#before = before
    this.#input = input
  }

  static async of(path: string): Promise<Rewriting> {
    return filed('read', path, async () => {
      // Not the link, which would become a file.
      const real = await realpath(path)
      await removeLeftovers(real)
      return new Rewriting(real, await statOf(real), await open(real, 'r'))
    })
  }

  async *pages(limit: number): AsyncGenerator<readonly Line[], void, undefined> {
    let number = 0
    let page: Line[] = []
    for await (const lines of linesOf(this.#path, this.#input)) {
      for (const bytes of lines) {
        number += 1
        page.push(new Line(this.#path, number, bytes))
        if (page.length === limit) {
          yield page
          page = []
        }
      }
    }
    if (page.length > 0) yield page
  }

  async write(lines: readonly Line[]): Promise<void> {
    const bytes = Buffer.concat(lines.map((line) => line.bytes))
    await filed('write', this.#partial, async () => {
      if (this.#output === null && lines.some((line) => line.isChanged)) this.#output = await this.#begin()
      await this.#output?.appendFile(bytes)
    })
    if (this.#output === null) this.#done += bytes.length
  }

  /** Puts the new file in the place of the old. */
  async finish(): Promise<void> {
    const output = this.#output
    if (output === null) return
    await filed('replace', this.#path, async () => {
      await output.sync()
      const now = await statOf(this.#path)
      if ((['dev', 'ino', 'size', 'mtimeNs'] as const).some((name) => now[name] !== this.#before[name]))
        throw changedMeanwhile(this.#path)
      await rename(this.#partial, this.#path)
      writing.delete(this.#partial)
      this.#output = null
      await output.close()
      syncFolder(dirname(this.#path))
    })
  }

  /** Closes what is open; a new file that did not take the old one's place is removed. */
  async end(): Promise<void> {
    await this.#input.close()
    if (this.#output === null) return
    await this.#output.close()
    await this.#remove()
  }

  async #remove(): Promise<void> {
    writing.delete(this.#partial)
    await unlink(this.#partial)
  }

  /** The new file, with what stands before the first change. */
  async #begin(): Promise<FileHandle> {
    const output = await open(this.#partial, 'wx', 0o600)
    writing.add(this.#partial)
    try {
      const { uid, gid, mode } = this.#before
      const made = await output.stat({ bigint: true })
      if (made.uid !== uid || made.gid !== gid) await output.chown(Number(uid), Number(gid))
      await output.chmod(Number(mode) & 0o7777)
      if (this.#done > 0) {
        const before = this.#input.createReadStream({ start: 0, end: this.#done - 1, autoClose: false })
        for await (const chunk of before) await output.appendFile(chunk)
      }
      return output
    } catch (error) {
      await output.close()
      await this.#remove()
      throw error
    }
  }
}

/** Lines with their ends, as many at a time as a chunk of the file holds. */
async function* linesOf(path: string, file: FileHandle): AsyncGenerator<readonly Buffer[], void, undefined> {
  const newline = 0x0a
  let rest: Buffer[] = []
  const stream = file.createReadStream({ start: 0, autoClose: false })
  const chunks = stream[Symbol.asyncIterator]() as AsyncIterator<Buffer>
  try {
    for (;;) {
      const { value: chunk, done } = await filed('read', path, () => chunks.next())
      if (done === true) break
      const lines: Buffer[] = []
      let start = 0
      for (let end = chunk.indexOf(newline); end !== -1; end = chunk.indexOf(newline, start)) {
        lines.push(Buffer.concat([...rest, chunk.subarray(start, end + 1)]))
        rest = []
        start = end + 1
      }
      if (start < chunk.length) rest.push(chunk.subarray(start))
      yield lines
    }
    if (rest.length > 0) yield [Buffer.concat(rest)]
  } finally {
    stream.destroy()
  }
}

/** Of runs that were killed: they may hold plaintext. */
async function removeLeftovers(path: string): Promise<void> {
  const prefix = `${basename(path)}.`
  for (const name of await readdir(dirname(path))) {
    const [, pid] = name.startsWith(prefix) ? (/^(\d+)\.partial$/.exec(name.slice(prefix.length)) ?? []) : []
    const partial = join(dirname(path), name)
    if (pid !== undefined && !isWritten(partial, Number(pid))) await unlink(partial)
  }
}

/** New files that this process is writing. */
const writing = new Set<string>()

/** In a container, one that was killed had the id that this process has now. */
function isWritten(partial: string, pid: number): boolean {
  return pid === process.pid ? writing.has(partial) : isAlive(pid)
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return !(error instanceof Error && 'code' in error && error.code === 'ESRCH')
  }
}

async function filed<T>(action: string, path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (isKeystoreError(error)) throw error
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'unknown'
    throw new StoreError(`The sweep could not ${action} ${path} (${code})`)
  }
}

function changedMeanwhile(path: string): KeystoreError {
  return new StoreError(
    `${path} was changed by somebody else meanwhile: it stays as they left it. Run this again`,
    {
      retryable: true,
    },
  )
}
