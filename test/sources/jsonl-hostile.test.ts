/** JSON lines that would give a value to the wrong owner, or stay half written. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { EnvelopeCrypto, generateMasterKey, localMasterKey } from '../../src/index.js'
import { jsonlSource, reencrypt } from '../../src/reencrypt/index.js'
import { temporaryFolder } from '../support/databases.js'
import { errorOf } from '../support/errors.js'

const INVALID = { code: 'ERR_INVALID_ARGUMENT' }
const CONTEXT = 'credentials.api_key'

describe('a sweep of JSON lines', () => {
  let envelope: EnvelopeCrypto
  let folder: ReturnType<typeof temporaryFolder>
  let path: string
  beforeEach(async () => {
    folder = temporaryFolder()
    path = join(folder.path, 'export.jsonl')
    envelope = await EnvelopeCrypto.open({
      store: await openKeyStore(join(folder.path, 'keystore.db')),
      masterKeys: localMasterKey(generateMasterKey()),
    })
  })
  afterEach(async () => {
    await envelope.close()
    folder.remove()
  })
  const run = (
    owner: string | (() => string | null),
    columns: readonly string[] = ['apiKey'],
    options: { pool?: boolean } = {},
  ) =>
    reencrypt({
      envelope,
      source: jsonlSource(path, { owner, columns, ...options }),
      context: CONTEXT,
      plaintext: true,
    })
  const lines = () => readFileSync(path, 'utf8').split('\n')

  it('gives nothing to the shared pool because the owner’s name is mistyped, or an owner is null', async () => {
    const text = '{"userId":"alice","apiKey":"one"}\n'
    writeFileSync(path, text)
    for (const owner of ['user_id', 'toString', () => undefined as never]) {
      const error = await errorOf(run(owner))
      expect(error).toMatchObject(INVALID)
      expect(error.message).toContain('line 1')
      expect(readFileSync(path, 'utf8')).toBe(text)
    }
    writeFileSync(path, '{"about":"no values here"}\n{"userId":null,"apiKey":"one"}\n')
    for (const owner of ['userId', () => null])
      expect(await run(owner)).toMatchObject({ changed: 0, left: 1, failed: [{ key: 2, ...INVALID }] })
    expect(await run('userId', ['apiKey'], { pool: true })).toMatchObject({
      changed: 1,
      before: { empty: 1, plaintext: 1 },
    })
    const { apiKey } = JSON.parse(lines()[1] ?? '')
    expect(await envelope.pool.decrypt(apiKey, { column: CONTEXT })).toBe('one')
  })

  it('takes a whole number as an owner, and none that JSON.parse has rounded', async () => {
    writeFileSync(path, '{"userId":42,"apiKey":"one"}\n{"userId":9007199254740993,"apiKey":"two"}\n')
    expect(await run('userId')).toMatchObject({ changed: 1, left: 1, failed: [{ key: 2, ...INVALID }] })
    expect(await envelope.decrypt('42', JSON.parse(lines()[0] ?? '').apiKey, { column: CONTEXT })).toBe('one')
    expect(lines()[1]).toBe('{"userId":9007199254740993,"apiKey":"two"}')
  })

  it('finds no value in what every object has', async () => {
    writeFileSync(path, '{"userId":"alice","constructor":"one"}\n')
    expect(await run('userId', ['constructor', 'toString'])).toMatchObject({
      changed: 1,
      left: 0,
      before: { plaintext: 1, empty: 1 },
    })
  })

  it('goes on where a killed process had the id that this one has, as in a container, and not where this one writes', async () => {
    const text = '{"userId":"alice","apiKey":"one"}\n{"userId":"alice","apiKey":"two"}\n'
    writeFileSync(path, text)
    writeFileSync(`${path}.${process.pid}.partial`, text)
    expect(await run('userId')).toMatchObject({ changed: 2, left: 0 })

    writeFileSync(path, text)
    const sweeps = await Promise.allSettled([run('userId'), run('userId')])
    expect(sweeps.some(({ status }) => status === 'fulfilled')).toBe(true)
    for (const line of lines().slice(0, -1)) {
      const { apiKey } = JSON.parse(line)
      expect(['one', 'two']).toContain(await envelope.decrypt('alice', apiKey, { column: CONTEXT }))
    }
    expect(readdirSync(folder.path).filter((name) => name.endsWith('.partial'))).toEqual([])
  })
})
