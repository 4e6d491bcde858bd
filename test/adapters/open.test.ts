/** openKeyStore: the store that a URL chooses, and URLs that it refuses without showing their credentials. */
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { postgresKeyStore } from '../../src/adapters/postgres/store.js'
import { sqlSource } from '../../src/reencrypt/index.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { isChosen } from '../support/databases.js'
import { keystoreErrorOf } from '../support/errors.js'
import { randomRecord } from '../support/rows.js'

describe.runIf(isChosen('sqlite'))('openKeyStore', () => {
  const cleanups = cleanUpAfterEach()
  let folder: string
  beforeEach(() => {
    folder = cleanups.folder()
  })
  const open = async (...parameters: Parameters<typeof openKeyStore>) =>
    cleanups.closing(await openKeyStore(...parameters))
  const failureOf = (...parameters: Parameters<typeof openKeyStore>) => keystoreErrorOf(open(...parameters))

  it.each<[string, (path: string) => string]>([
    ['a path', (path) => path],
    ['sqlite:path', (path) => `sqlite:${path}`],
    ['SQLite:path', (path) => `SQLite:${path}`],
    ['sqlite:///path', (path) => `sqlite://${path}`],
    ['file:path', (path) => `file:${path}`],
    ['file:///path', (path) => `file://${path}`],
  ])('opens the file that a URL names: %s', async (_, urlOf) => {
    const path = join(folder, 'keystore.db')
    const store = await open(urlOf(path))
    const row = randomRecord('alice')
    await store.insertIfAbsent([row])
    await store.close()
    expect(readdirSync(folder)).toEqual(['keystore.db'])
    const reopened = await open(path, { migrate: 'check' })
    expect((await reopened.getAll(['alice'])).get('alice')).toEqual([row])
  })

  it('decodes the percent signs of a URL, and not those of a path', async () => {
    await open(`sqlite://${folder}/a%20b.db`)
    await open(`${folder}/c%20d.db`)
    const made = readdirSync(folder).filter((file) => file.endsWith('.db'))
    expect(made).toEqual(['a b.db', 'c%20d.db'])
  })

  it.each([':memory:', 'sqlite::memory:', 'file::memory:'])('makes no file for %s', async (url) => {
    const before = readdirSync('.')
    const store = await open(url)
    await store.insertIfAbsent([randomRecord('alice')])
    expect((await store.getAll(['alice'])).size).toBe(1)
    expect(readdirSync('.')).toEqual(before)
  })

  it.each([
    'mysql://user:hunter2@host/db',
    'sqlserver:user:hunter2@host',
    'http://user:hunter2@host/keystore.db',
    'sqlite://user:hunter2@host/keystore.db',
    'sqlite://keystore-hunter2.db',
    'file://user:hunter2@host/keystore.db',
    'file:///a%2Fhunter2.db',
    'file:///data/keystore.db#hunter2',
    'sqlite:keystore.db?password=hunter2',
    'sqlite:',
    'file:',
    '',
    ' postgres://user:hunter2@host/db',
    '"postgres://user:hunter2@host/db"',
    'postgres:hunter2',
    'postgres:/user:hunter2@host/db',
    'keystore-hunter2.db\n',
    ' :memory:',
  ])('refuses %j, and shows no credentials', async (url) => {
    const before = readdirSync('.')
    const error = await failureOf(url)
    expect(error.code).toBe('ERR_INVALID_ARGUMENT')
    expect(inspect(error, { depth: null })).not.toContain('hunter2')
    expect(readdirSync('.')).toEqual(before)
  })

  it.each(['postgres://user:hunter2@host:port/db', 'postgresql://user:hunter2@127.0.0.1:1/db'])(
    'fails for %j, and shows no credentials',
    async (url) => {
      const error = await failureOf(url, { deadlineMs: 1 })
      expect(['ERR_INVALID_ARGUMENT', 'ERR_STORE']).toContain(error.code)
      expect(inspect(error, { depth: null, showHidden: true })).not.toContain('hunter2')
    },
  )

  it.each([undefined, null, ''])('says of %j that a variable is probably not set', async (url) => {
    const unset = /^url is (missing|empty): .*process\.env\.DATABASE_URL.*not set/
    const source = { table: 't', key: 'id', owner: null, column: 'c' }
    for (const opening of [
      () => openKeyStore(url as never),
      async () => postgresKeyStore({ url: url as never }),
      () => sqlSource(url as never, source),
    ])
      await expect(opening()).rejects.toMatchObject({
        code: 'ERR_INVALID_ARGUMENT',
        message: expect.stringMatching(unset),
      })
    await expect(openKeyStore(5 as never)).rejects.toMatchObject({ message: 'url must be a string' })
  })

  it('refuses options of the other dialect', async () => {
    const path = join(folder, 'keystore.db')
    expect((await failureOf(path, { schema: 'keys' })).code).toBe('ERR_INVALID_ARGUMENT')
    expect((await failureOf(path, { namedStatements: true })).code).toBe('ERR_INVALID_ARGUMENT')
    expect((await failureOf('postgres://localhost/db', { adopt: true })).code).toBe('ERR_INVALID_ARGUMENT')
    expect(existsSync(path)).toBe(false)
  })
})
