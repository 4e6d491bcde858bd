/** jsonlSource: what a sweep changes in a file of JSON lines, when, and what becomes of the file if the sweep fails. */
import { execFileSync } from 'node:child_process'
import {
  appendFileSync,
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type EnvelopeCrypto, isToken } from '../../src/index.js'
import { type JsonlSourceOptions, jsonlSource, reencrypt } from '../../src/reencrypt/index.js'
import { withProperty } from '../../src/sources/json-text.js'
import { temporaryFolder } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { freshService } from '../support/fresh-store.js'
import { everythingOf } from '../support/leaks.js'

const INVALID = { code: 'ERR_INVALID_ARGUMENT' }
const CONTEXT = 'export.api_key'
const OPTIONS: JsonlSourceOptions = { owner: 'userId', columns: { apiKey: CONTEXT } }

describe('jsonlSource', () => {
  let folder: ReturnType<typeof temporaryFolder>
  let envelope: EnvelopeCrypto
  let path: string
  beforeEach(async () => {
    folder = temporaryFolder()
    path = join(folder.path, 'export.jsonl')
    envelope = await freshService()
  })
  afterEach(async () => {
    await envelope.close()
    folder.remove()
  })

  const sweep = (
    options: Partial<Parameters<typeof reencrypt>[0]> = {},
    source = jsonlSource(path, OPTIONS),
  ) =>
    reencrypt({ envelope, source, plaintext: true, batchSize: 3, ...options } as Parameters<
      typeof reencrypt
    >[0])
  const lines = () => readFileSync(path, 'utf8').split('\n')
  const files = () => readdirSync(folder.path)
  const write = (...rows: readonly unknown[]) =>
    writeFileSync(
      path,
      rows.map((row) => `${typeof row === 'string' ? row : JSON.stringify(row)}\n`).join(''),
    )

  it('leaves a line that has the property twice, in any spelling, and names it', async () => {
    const twice = [
      '{"userId":"alice","apiKey":"one","apiKey":"two"}',
      '{"userId":"alice","api\\u004bey":"one","apiKey":"two"}',
    ]
    write(...twice, { userId: 'alice', apiKey: 'fine', note: '"apiKey"', more: { apiKey: 'inner' } })
    const report = await sweep()
    expect(report).toMatchObject({ changed: 1, left: 2 })
    expect(report.failed).toMatchObject([
      { key: 1, column: 'apiKey', reason: expect.stringContaining('more than once') },
      { key: 2, column: 'apiKey' },
    ])
    expect(lines().slice(0, 2)).toEqual(twice)
  })

  it('changes the values and no other byte', async () => {
    const token = await envelope.encrypt('alice', 'done', { column: CONTEXT })
    const before = [
      '\ufeff{"apiKey":"first","userId":"alice"}\r',
      '',
      '  { "id": 12345678901234567890, "n": 1.0e2 , "userId" : "bob" , "apiKey" : "sk-\\u00e4\\"\\\\" , "x":[{"apiKey":"inner"}] }  ',
      `{"userId":"alice","apiKey":"${token}","big":1e400}`,
      '{"userId":"alice","apiKey":null}',
      '{"userId":"alice"}',
      '{"userId":"alice","other":"apiKey","apiKey":"last \u2028"}',
      '{"userId":null,"apiKey":"of the pool","__proto__":{"apiKey":"no"}}',
    ]
    writeFileSync(path, before.join('\n'))
    expect(await sweep({ pool: true })).toMatchObject({
      complete: true,
      changed: 4,
      before: { plaintext: 4, current: 1, empty: 2 },
      after: { current: 5, empty: 2 },
      failed: [],
      left: 0,
    })
    const after = lines()
    expect(after).toHaveLength(before.length)
    for (const index of [1, 3, 4, 5]) expect(after[index]).toBe(before[index])
    const plaintexts = { 0: 'first', 2: 'sk-ä"\\', 6: 'last \u2028', 7: 'of the pool' }
    const stored = { 0: '"first"', 2: '"sk-\\u00e4\\"\\\\"', 6: '"last \u2028"', 7: '"of the pool"' }
    for (const index of [0, 2, 6, 7] as const) {
      const row = JSON.parse((after[index] ?? '').replace('\ufeff', ''))
      const opened =
        row.userId === null
          ? await envelope.pool.decrypt(row.apiKey, { column: CONTEXT })
          : await envelope.decrypt(row.userId, row.apiKey, { column: CONTEXT })
      expect(opened).toBe(plaintexts[index])
      expect(after[index]).toBe(before[index]?.replace(stored[index], JSON.stringify(row.apiKey)))
    }
    expect(files()).toEqual(['export.jsonl'])
  })

  it('sweeps a file of many pages, with lines longer than what is read at a time', async () => {
    const rows = Array.from({ length: 500 }, (_, index) => ({
      id: index,
      userId: `user-${index % 7}`,
      apiKey: `key ${index} ${'ä'.repeat(index % 100 === 0 ? 100_000 : 3)}`,
    }))
    write(...rows)
    const source = jsonlSource(path, { owner: 'userId', columns: { apiKey: (row) => `row ${row.id}` } })
    expect(await sweep({ batchSize: 64 }, source)).toMatchObject({ changed: 500, left: 0 })
    const stored = lines()
      .slice(0, -1)
      .map((line) => JSON.parse(line))
    for (const [index, { id, userId, apiKey }] of stored.entries())
      expect(await envelope.decrypt(userId, apiKey, { column: `row ${id}` })).toBe(rows[index]?.apiKey)
  })

  it('leaves the file untouched if nothing changes, and in a dry run', async () => {
    write({ userId: 'alice', apiKey: 'x' }, { userId: 'alice', apiKey: 'v3:AAAAcut' })
    const before = statSync(path, { bigint: true })
    const during: string[][] = []
    expect(await sweep({ dryRun: true, onProgress: () => during.push(files()) })).toMatchObject({
      changed: 1,
    })
    expect(await sweep({ plaintext: false, onProgress: () => during.push(files()) })).toMatchObject({
      changed: 0,
    })
    const after = statSync(path, { bigint: true })
    expect([after.ino, after.mtimeNs]).toEqual([before.ino, before.mtimeNs])
    expect(new Set(during.flat())).toEqual(new Set(['export.jsonl']))
  })

  it('keeps mode and owner, and a symbolic link', async () => {
    write({ userId: 'alice', apiKey: 'x' })
    chmodSync(path, 0o640)
    // root alone may give a file another owner, which the sweep could then lose.
    const owner = process.getuid?.() === 0 ? 12_345 : process.getuid?.()
    if (owner === 12_345) chownSync(path, owner, owner)
    const link = join(folder.path, 'link.jsonl')
    symlinkSync(path, link)
    expect(await sweep({}, jsonlSource(link, OPTIONS))).toMatchObject({ changed: 1 })
    expect(lstatSync(link).isSymbolicLink()).toBe(true)
    expect(statSync(path)).toMatchObject({ mode: 0o100640, uid: owner })
    expect(isToken(JSON.parse(lines()[0] ?? '').apiKey)).toBe(true)
  })

  it('leaves the file unchanged after an abort or an error, and no other file beside it', async () => {
    write(...Array.from({ length: 10 }, (_, id) => ({ id, userId: 'alice', apiKey: `x${id}` })))
    const before = readFileSync(path)
    const controller = new AbortController()
    const report = await sweep({
      signal: controller.signal,
      onProgress: ({ done }) => done === 6 && controller.abort(),
    })
    expect(report).toMatchObject({ complete: false, changed: 0, before: { plaintext: 6 }, left: 6 })
    expect([readFileSync(path), files()]).toEqual([before, ['export.jsonl']])

    appendFileSync(path, '{"userId":"alice","apiKey":"sk-planted"\n')
    const broken = readFileSync(path)
    const error = await errorOf(sweep())
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    expect(error.message).toContain('line 11')
    expect(everythingOf(error)).not.toContain('sk-planted')
    expect([readFileSync(path), files()]).toEqual([broken, ['export.jsonl']])
  })

  it.each(['[1]', '7', 'null', '{"a":', Buffer.from([0x7b, 0xff, 0x7d]).toString('latin1')])(
    'refuses a line that is no JSON object: %s',
    async (line) => {
      writeFileSync(path, Buffer.from(`{"userId":"alice","apiKey":"x"}\n${line}\n`, 'latin1'))
      expect(await errorOf(sweep())).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
      expect(files()).toEqual(['export.jsonl'])
    },
  )

  it('refuses to replace a file that another process has changed meanwhile', async () => {
    write(...Array.from({ length: 10 }, (_, id) => ({ id, userId: 'alice', apiKey: `x${id}` })))
    const error = await errorOf(
      sweep({
        onProgress: ({ done }) => done === 6 && appendFileSync(path, '{"userId":"bob","apiKey":"new"}\n'),
      }),
    )
    expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true })
    expect(lines().at(-2)).toBe('{"userId":"bob","apiKey":"new"}')
    expect(lines()[0]).toContain('"x0"')
    expect(files()).toEqual(['export.jsonl'])
    expect(await sweep()).toMatchObject({ complete: true, changed: 11 })
  })

  it('writes a partial file with the mode of the file, leaves those of other live processes, and removes those of killed ones', async () => {
    write(...Array.from({ length: 10 }, (_, id) => ({ id, userId: 'alice', apiKey: `x${id}` })))
    chmodSync(path, 0o600)
    // One of a process that has ended, and one of process 1, which lives.
    const dead = Number(
      execFileSync(process.execPath, ['-e', 'console.log(process.pid)'], { encoding: 'utf8' }),
    )
    writeFileSync(`${path}.${dead}.partial`, 'sk-planted')
    writeFileSync(`${path}.1.partial`, 'theirs')
    const modes: number[] = []
    await sweep({
      onProgress({ done, phase }) {
        if (phase === 'sweeping' && done === 6)
          modes.push(statSync(`${path}.${process.pid}.partial`).mode & 0o777)
      },
    })
    expect(modes).toEqual([0o600])
    expect(files().sort()).toEqual(['export.jsonl', 'export.jsonl.1.partial'])
    // Two sweeps at once in one process.
    write(...Array.from({ length: 10 }, (_, id) => ({ id, userId: 'alice', apiKey: `y${id}` })))
    const both = await Promise.allSettled([sweep(), sweep()])
    expect(both.filter(({ status }) => status === 'fulfilled').length).toBeGreaterThanOrEqual(1)
    for (const line of lines().slice(0, -1)) {
      const { id, apiKey } = JSON.parse(line)
      expect(await envelope.decrypt('alice', apiKey, { column: CONTEXT })).toBe(`y${id}`)
    }
  })

  it('reports the values it leaves by line', async () => {
    write(
      { userId: 'alice', apiKey: 'v3:AAAAcut' },
      '',
      { userId: '', apiKey: 'x' },
      { userId: 'alice', apiKey: 7 },
    )
    const report = await sweep()
    expect(report.failed.map(({ key, code }) => [key, code])).toEqual([
      [1, 'ERR_MALFORMED_TOKEN'],
      [3, 'ERR_INVALID_ARGUMENT'],
      [4, 'ERR_INVALID_ARGUMENT'],
    ])
  })

  it('takes the owner from a function, and reports the lines at which it fails alone', async () => {
    write({ id: 'a:1', apiKey: 'x' }, { id: 'b:1', apiKey: 'sk-planted' })
    const source = jsonlSource(path, { ...OPTIONS, owner: ({ id }) => String(id).split(':')[0] ?? null })
    expect(await sweep({}, source)).toMatchObject({ changed: 2 })
    expect(await envelope.decrypt('b', JSON.parse(lines()[1] ?? '').apiKey, { column: CONTEXT })).toBe(
      'sk-planted',
    )
    write(
      { id: 'a', apiKey: 'one' },
      { id: 'throws', apiKey: 'two' },
      { id: '', apiKey: 'three' },
      { apiKey: 'four' },
    )
    const failing = jsonlSource(path, {
      ...OPTIONS,
      owner(row) {
        if (row.id === 'throws') throw new Error(JSON.stringify(row))
        return row.id as string
      },
    })
    const report = await sweep({}, failing)
    expect(report).toMatchObject({ changed: 1, left: 3, failedCount: 3 })
    expect(
      report.failed.map(({ key, code, reason }) => [
        key,
        code,
        /function (threw|returned [a-z ]+)/.exec(reason)?.[1],
      ]),
    ).toEqual([
      [2, 'ERR_INVALID_ARGUMENT', 'threw'],
      [3, 'ERR_INVALID_ARGUMENT', 'returned an empty text'],
      [4, 'ERR_INVALID_ARGUMENT', 'returned undefined'],
    ])
    expect(everythingOf(report)).not.toContain('"two"')
  })

  /** Sweeps columns under one context, with another owner than usual. */
  const sweepOf = (
    owner: string | (() => string | null),
    columns: readonly string[] = ['apiKey'],
    options: { pool?: boolean } = {},
  ) => sweep({ context: CONTEXT }, jsonlSource(path, { owner, columns, ...options }))

  it('does not take a mistyped owner property, or an owner of null, for the shared pool', async () => {
    const text = '{"userId":"alice","apiKey":"one"}\n'
    writeFileSync(path, text)
    for (const owner of ['user_id', 'toString']) {
      const error = await errorOf(sweepOf(owner))
      expect(error).toMatchObject(INVALID)
      expect(error.message).toContain('line 1')
      expect(readFileSync(path, 'utf8')).toBe(text)
    }
    writeFileSync(path, '{"about":"no values here"}\n{"userId":null,"apiKey":"one"}\n')
    for (const owner of ['userId', () => null])
      expect(await sweepOf(owner)).toMatchObject({ changed: 0, left: 1, failed: [{ key: 2, ...INVALID }] })
    expect(await sweepOf('userId', ['apiKey'], { pool: true })).toMatchObject({
      changed: 1,
      before: { empty: 1, plaintext: 1 },
    })
    const { apiKey } = JSON.parse(lines()[1] ?? '')
    expect(await envelope.pool.decrypt(apiKey, { column: CONTEXT })).toBe('one')
  })

  it('takes a whole number as an owner, unless JSON.parse has rounded it', async () => {
    writeFileSync(path, '{"userId":42,"apiKey":"one"}\n{"userId":9007199254740993,"apiKey":"two"}\n')
    expect(await sweepOf('userId')).toMatchObject({ changed: 1, left: 1, failed: [{ key: 2, ...INVALID }] })
    expect(await envelope.decrypt('42', JSON.parse(lines()[0] ?? '').apiKey, { column: CONTEXT })).toBe('one')
    expect(lines()[1]).toBe('{"userId":9007199254740993,"apiKey":"two"}')
  })

  it('takes own properties alone for values', async () => {
    writeFileSync(path, '{"userId":"alice","constructor":"one"}\n')
    expect(await sweepOf('userId', ['constructor', 'toString'])).toMatchObject({
      changed: 1,
      left: 0,
      before: { plaintext: 1, empty: 1 },
    })
  })

  it('replaces the partial file of a killed process that had the same id, but not one that this process writes', async () => {
    const text = '{"userId":"alice","apiKey":"one"}\n{"userId":"alice","apiKey":"two"}\n'
    writeFileSync(path, text)
    writeFileSync(`${path}.${process.pid}.partial`, text)
    expect(await sweepOf('userId')).toMatchObject({ changed: 2, left: 0 })

    writeFileSync(path, text)
    const sweeps = await Promise.allSettled([sweepOf('userId'), sweepOf('userId')])
    expect(sweeps.some(({ status }) => status === 'fulfilled')).toBe(true)
    for (const line of lines().slice(0, -1)) {
      const { apiKey } = JSON.parse(line)
      expect(['one', 'two']).toContain(await envelope.decrypt('alice', apiKey, { column: CONTEXT }))
    }
    expect(files().filter((name) => name.endsWith('.partial'))).toEqual([])
  })

  it('refuses wrong arguments, and says why a file cannot be read', async () => {
    const wrong: unknown[][] = [
      ['', OPTIONS],
      [7, OPTIONS],
      [path, undefined],
      [path, { ...OPTIONS, owner: undefined }],
      [path, { ...OPTIONS, columns: [] }],
      [path, { ...OPTIONS, columns: { apiKey: 7 } }],
    ]
    for (const [given, options] of wrong)
      expect(() => jsonlSource(given as never, options as never)).toThrow(
        expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }),
      )
    expect(await errorOf(sweep())).toMatchObject({
      code: 'ERR_STORE',
      message: expect.stringContaining('ENOENT'),
    })
    mkdirSync(path)
    expect(await errorOf(sweep())).toMatchObject({ code: 'ERR_STORE' })
  })
})

describe('withProperty', () => {
  it('changes the last property of a name and leaves the rest of any object', () => {
    fc.assert(
      fc.property(
        fc.dictionary(fc.string(), fc.jsonValue()),
        fc.string(),
        fc.jsonValue(),
        fc.constantFrom(undefined, 1, '\t', ' \r\n'),
        (object, name, old, space) => {
          // JSON.parse makes an own property of this name; writing it as JSON.stringify does needs one too.
          const whole = Object.defineProperty({ ...object }, name, {
            value: old,
            enumerable: true,
            configurable: true,
            writable: true,
          })
          const text = JSON.stringify(whole, null, space)
          const changed = withProperty(text, name, 'new "value"')
          const expected = Object.defineProperty({ ...whole }, name, {
            value: 'new "value"',
            enumerable: true,
          })
          expect(changed).toBe(JSON.stringify(expected, null, space))
        },
      ),
    )
  })

  it('gives null for a property that is missing or nested', () => {
    for (const text of ['{}', ' { } ', '{"a":{"b":1}}', '{"a":"\\"b\\":1"}', '{"a":["b"]}'])
      expect(withProperty(text, 'b', 'x')).toBeNull()
  })
})
