/** Makes a file of JSON lines a source of values for the sweep. */
import { type FileHandle, open, readdir, realpath, rename, stat, unlink } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { invalidArgument, isKeystoreError, type KeystoreError, StoreError } from '../errors.js'
import { decodeUtf8 } from '../format/encoding.js'
import { syncFolder } from '../sync-folder.js'
import { kindOf, ownOptions } from '../validate.js'
import { countProperties, withProperty } from './json-text.js'
import { type OwnerOf, ownerFrom } from './owner.js'
import {
  contextsByColumn,
  type PoolOption,
  poolOf,
  type SourceColumns,
  type ValueCell,
  type ValueChange,
  type ValueSource,
} from './value-source.js'

/** A line of a file of JSON lines. */
export type JsonRow = Readonly<Record<string, unknown>>

/** The options of {@link jsonlSource}. */
export interface JsonlSourceOptions extends PoolOption {
  /**
   * The property with the user's id, where a whole number counts as its decimal digits; or a function of the row. Null: all values belong to
   * the shared pool. A row whose owner is null needs `pool: true`. A row that has values and no such property ends the sweep: the name may
   * be mistyped.
   */
  readonly owner: string | OwnerOf<JsonRow> | null
  /** The properties with values, and the context of each. */
  readonly columns: SourceColumns<JsonRow>
}

/**
 * Makes a file with a JSON object on each line a source of values for `reencrypt`; the key of a value is the number of its line.
 *
 * The sweep writes a new file beside the old one, which replaces it in one step when all lines are done. Until then, and after an error,
 * an abort or a kill, the file is as it was. If nothing changes, no file is written. Nobody else may write the file meanwhile: the sweep
 * fails when it notices that somebody did.
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * const source = jsonlSource('export.jsonl', { owner: 'userId', columns: { apiKey: 'credentials.api_key' } })
 */
export function jsonlSource(path: string, options: JsonlSourceOptions): ValueSource<JsonRow> {
  if (typeof path !== 'string' || path === '') throw invalidArgument('path must be a non-empty string')
  options = ownOptions(options)
  const ownerOf = ownerReader(path, options.owner)
  const columns = contextsByColumn(options.columns)
  const pool = poolOf(options)
  let page: ReadonlyMap<number, Line> = new Map()

  function cellsOf(line: Line): ValueCell<JsonRow>[] {
    const { number, row } = line
    if (row === null) return []
    const values = Array.from(columns, ([column, context]) => ({
      column,
      context,
      value: ownProperty(row, column) as ValueCell['value'],
    }))
    const isEmpty = values.every(({ value }) => value === undefined || value === null)
    const owner = isEmpty ? { owner: null } : ownerOf(row, number)
    return values.map((value) => {
      const twice = line.has(value.column) > 1 ? { defect: writtenTwice() } : {}
      return { ...value, ...owner, ...twice, key: number, row }
    })
  }

  return {
    atOnce: true,
    pool,
    async *pages({ limit }) {
      const rewrite = await FileRewrite.open(path)
      try {
        for await (const lines of rewrite.pages(limit)) {
          page = new Map(lines.map((line) => [line.number, line]))
          yield lines.flatMap(cellsOf)
          await rewrite.write(lines)
        }
        await rewrite.finish()
      } finally {
        page = new Map()
        await rewrite.close()
      }
    },
    async replace(changes) {
      return changes.filter((change) => page.get(change.key as number)?.change(change) === true)
    },
  }
}

/**
 * @returns a function that reads the owner of a row. What it finds in a property may be no user id: the sweep reports that for each value.
 * @throws ERR_INVALID_ARGUMENT
 */
function ownerReader(path: string, owner: JsonlSourceOptions['owner']) {
  if (typeof owner !== 'string' && typeof owner !== 'function' && owner !== null)
    throw invalidArgument(`owner must be the name of a property, a function or null, got ${kindOf(owner)}`)
  return (row: JsonRow, number: number): Pick<ValueCell, 'owner' | 'defect'> => {
    if (owner === null) return { owner }
    if (typeof owner === 'function') return ownerFrom(owner, row)
    const found = ownProperty(row, owner)
    if (found === undefined)
      throw invalidArgument(
        `line ${number} of ${path} has values and no owner; null says the shared pool's, with pool: true`,
      )
    return { owner: (Number.isSafeInteger(found) ? String(found) : found) as string | null }
  }
}

/** One line of the file, with its line break. */
class Line {
  readonly number: number
  readonly row: JsonRow | null
  readonly #bytes: Buffer
  #text: string | null = null

  /** @throws ERR_INVALID_ARGUMENT if it is no JSON object; the message names the line and does not quote it */
  constructor(path: string, number: number, bytes: Buffer) {
    this.number = number
    this.#bytes = bytes
    this.row = parseRow(path, number, bytes)
  }

  /** With its changes; an unchanged line exactly as it was read. */
  get bytes(): Buffer {
    return this.#text === null ? this.#bytes : Buffer.from(this.#text)
  }

  get isChanged(): boolean {
    return this.#text !== null
  }

  /** How many properties have a name: JSON.parse reads the last, and the others are stored too. */
  has(name: string): number {
    return this.row === null ? 0 : countProperties(this.#bytes.toString(), name)
  }

  change({ column, from, to }: ValueChange): boolean {
    if (this.row?.[column] !== from) return false
    const text = withProperty(this.#text ?? this.#bytes.toString(), column, to)
    if (text === null) return false
    this.#text = text
    return true
  }
}

function writtenTwice(): KeystoreError {
  return invalidArgument(
    'Its line has this property more than once: leave the one that is right, and remove the others',
  )
}

/** Ignores what every object inherits, such as `constructor`. */
function ownProperty(row: JsonRow, name: string): unknown {
  return Object.hasOwn(row, name) ? row[name] : undefined
}

const BYTE_ORDER_MARK = '\ufeff'

function parseRow(path: string, number: number, bytes: Buffer): JsonRow | null {
  const text = decodeUtf8(bytes)
  if (text !== null) {
    const json = number === 1 && text.startsWith(BYTE_ORDER_MARK) ? text.slice(1) : text
    if (json.trim() === '') return null
    try {
      const row: unknown = JSON.parse(json)
      if (typeof row === 'object' && row !== null && !Array.isArray(row)) return row as JsonRow
    } catch {
      // The parser's message may quote the line.
    }
  }
  throw invalidArgument(`line ${number} of ${path} is no JSON object: nothing was changed`)
}

type Stats = Awaited<ReturnType<typeof statOf>>

function statOf(path: string) {
  return stat(path, { bigint: true })
}

/** Reads a file once and, if a line changes, writes a new file beside it that replaces it in the end. */
class FileRewrite {
  readonly #path: string
  readonly #partial: string
  readonly #before: Stats
  readonly #input: FileHandle
  #output: FileHandle | null = null
  /** The bytes of the lines before the first change, which are not written until there is one. */
  #unchangedBytes = 0

  private constructor(path: string, before: Stats, input: FileHandle) {
    this.#path = path
    this.#partial = `${path}.${process.pid}.partial`
    this.#before = before
    this.#input = input
  }

  static async open(path: string): Promise<FileRewrite> {
    return withFileErrors('read', path, async () => {
      // Of a symbolic link its target is replaced: a rename would replace the link.
      const real = await realpath(path)
      await removeLeftovers(real)
      return new FileRewrite(real, await statOf(real), await open(real, 'r'))
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
    await withFileErrors('write', this.#partial, async () => {
      if (this.#output === null && lines.some((line) => line.isChanged))
        this.#output = await this.#createOutput()
      await this.#output?.appendFile(bytes)
    })
    if (this.#output === null) this.#unchangedBytes += bytes.length
  }

  /** Replaces the old file by the new one. */
  async finish(): Promise<void> {
    const output = this.#output
    if (output === null) return
    await withFileErrors('replace', this.#path, async () => {
      await output.sync()
      const now = await statOf(this.#path)
      if ((['dev', 'ino', 'size', 'mtimeNs'] as const).some((name) => now[name] !== this.#before[name]))
        throw changedByAnother(this.#path)
      await rename(this.#partial, this.#path)
      partialFiles.delete(this.#partial)
      this.#output = null
      await output.close()
      syncFolder(dirname(this.#path))
    })
  }

  /** Closes the files. Removes the new one unless it has replaced the old one. */
  async close(): Promise<void> {
    await this.#input.close()
    if (this.#output === null) return
    await this.#output.close()
    await this.#removeOutput()
  }

  async #removeOutput(): Promise<void> {
    partialFiles.delete(this.#partial)
    await unlink(this.#partial)
  }

  /** Creates the new file, with the owner and mode of the old one and what is before the first change. */
  async #createOutput(): Promise<FileHandle> {
    const output = await open(this.#partial, 'wx', 0o600)
    partialFiles.add(this.#partial)
    try {
      const { uid, gid, mode } = this.#before
      const created = await output.stat({ bigint: true })
      if (created.uid !== uid || created.gid !== gid) await output.chown(Number(uid), Number(gid))
      await output.chmod(Number(mode) & 0o7777)
      if (this.#unchangedBytes > 0) {
        const before = this.#input.createReadStream({
          start: 0,
          end: this.#unchangedBytes - 1,
          autoClose: false,
        })
        for await (const chunk of before) await output.appendFile(chunk)
      }
      return output
    } catch (error) {
      await output.close()
      await this.#removeOutput()
      throw error
    }
  }
}

/** The file's lines with their line breaks, in groups as large as a chunk of the file. */
async function* linesOf(path: string, file: FileHandle): AsyncGenerator<readonly Buffer[], void, undefined> {
  const newline = 0x0a
  let rest: Buffer[] = []
  const stream = file.createReadStream({ start: 0, autoClose: false })
  const chunks = stream[Symbol.asyncIterator]() as AsyncIterator<Buffer>
  try {
    for (;;) {
      const { value: chunk, done } = await withFileErrors('read', path, () => chunks.next())
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

/** Removes the new files of runs that were killed: they may hold plaintext. */
async function removeLeftovers(path: string): Promise<void> {
  const prefix = `${basename(path)}.`
  for (const name of await readdir(dirname(path))) {
    const [, pid] = name.startsWith(prefix) ? (/^(\d+)\.partial$/.exec(name.slice(prefix.length)) ?? []) : []
    const partial = join(dirname(path), name)
    if (pid !== undefined && !isBeingWritten(partial, Number(pid))) await unlink(partial)
  }
}

/** The new files that this process is writing. */
const partialFiles = new Set<string>()

/** Whether a process still writes the file. A killed process may have had our id: in a container all have the same one. */
function isBeingWritten(partial: string, pid: number): boolean {
  return pid === process.pid ? partialFiles.has(partial) : isAlive(pid)
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return !(error instanceof Error && 'code' in error && error.code === 'ESRCH')
  }
}

async function withFileErrors<T>(action: string, path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (isKeystoreError(error)) throw error
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'unknown'
    throw new StoreError(`The sweep could not ${action} ${path} (${code})`)
  }
}

function changedByAnother(path: string): KeystoreError {
  return new StoreError(
    `${path} was changed by somebody else meanwhile: it stays as they left it. Run this again`,
    {
      retryable: true,
    },
  )
}
