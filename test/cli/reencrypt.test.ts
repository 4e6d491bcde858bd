/** `keystore reencrypt` and `keystore doctor --schema`, as a user runs them. */
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { EnvelopeCrypto, encryptWithKey, type Finding, isToken, type VerifyReport } from '../../src/index.js'
import type { ReencryptReport } from '../../src/reencrypt/index.js'
import { type CommandStore, commandStore } from '../support/command-store.js'
import { type Dialect, dialects } from '../support/databases.js'
import { type RawDatabase, rawDatabase } from '../support/raw-database.js'
import { ACCEPT_V2 } from '../support/tokens.js'

const CONTEXT = { column: 'credentials.api_key' }
const TABLE = [
  'reencrypt',
  '--table',
  'credentials',
  '--key',
  'id',
  '--owner',
  'user_id',
  '--column',
  'api_key',
]
const SWEEP = [...TABLE, '--context', 'credentials.api_key']

describe.each(dialects)('on %s', (dialect) => {
  let store: CommandStore
  let app: RawDatabase
  beforeEach(async () => {
    store = await commandStore(dialect)
    app = await rawDatabase(dialect)
    await store.use(async () => undefined)
    await app.query(
      `create table credentials (id integer primary key, user_id text, api_key text, note text)`,
    )
  })
  afterEach(async () => {
    await app.close()
    await store.remove()
  })

  const options = () => ({ env: { DATABASE_URL: app.url } })
  const run = (args: readonly string[]) => store.run(args, options())
  const json = <Report = ReencryptReport>(args: readonly string[]) => store.json<Report>(args, options())

  async function withService<T>(work: (envelope: EnvelopeCrypto) => Promise<T>): Promise<T> {
    return store.use(async (keys) => {
      const settings = { store: keys, masterKeys: store.keys('a'), closeStore: false }
      return work(await EnvelopeCrypto.open({ ...settings, accept: ACCEPT_V2 }))
    })
  }

  /** A plaintext, a v2 token, a v3 token under another context, a current one and null, of Alice and Bob. */
  async function fill(): Promise<void> {
    await withService(async (envelope) => {
      const v2 = encryptWithKey('of 2', await envelope.getOrCreateUserKey('bob'))
      await app.insert('credentials', [
        { id: 1, user_id: 'alice', api_key: 'of 1' },
        { id: 2, user_id: 'bob', api_key: v2 },
        { id: 3, user_id: 'bob', api_key: await envelope.encrypt('bob', 'of 3', { place: 'old' }) },
        { id: 4, user_id: 'alice', api_key: await envelope.encrypt('alice', 'of 4', CONTEXT) },
        { id: 5, user_id: 'alice', api_key: null },
      ])
    })
  }
  const stored = () => app.query('select * from credentials order by id')

  it('sweeps a table; what it leaves it says, and how to go on', async () => {
    await fill()
    const { status, stdout, stderr } = run(SWEEP)
    expect(status).toBe(1)
    expect(stdout).toContain(
      'credentials: re-encrypted 0 values; 0 skipped (changed by others meanwhile), 3 failed.',
    )
    expect(stdout).toContain('1, api_key, of "alice": It is no token')
    expect(stdout).toMatch(/│ current +│ 1 +│ 1 +│/)
    expect(stdout).toMatch(/--plaintext encrypts[\s\S]*--accept-v2[\s\S]*3 values left in an old state/)
    expect(stderr).toMatch(/^credentials: sweeping: 5 of 5/)
    expect(stdout).not.toMatch(/of 1|v[23]:/)

    const all = [...SWEEP, '--plaintext', '--accept-v2', '--previous-context', '{"place":"old"}']
    const before = await stored()
    expect(json([...all, '--dry-run'])).toMatchObject({
      status: 0,
      report: { dryRun: true, changed: 3, left: 0 },
    })
    expect(await stored()).toEqual(before)

    const { status: done, report } = json(all)
    expect(done).toBe(0)
    expect(report).toMatchObject({
      table: 'credentials',
      complete: true,
      changed: 3,
      before: { plaintext: 1, v2: 1, oldContext: 1, current: 1, empty: 1 },
      after: { current: 4, empty: 1 },
      failed: [],
      left: 0,
    })
    await withService(async (envelope) => {
      for (const { id, user_id, api_key } of (await stored()).slice(0, 4))
        expect(await envelope.decrypt(String(user_id), String(api_key), CONTEXT)).toBe(`of ${id}`)
    })
    const again = run(SWEEP)
    expect([again.status, again.stdout]).toEqual([
      0,
      expect.stringContaining('No value is left in an old state.'),
    ])
  })

  it('reports rows without an owner, and gives their values to the pool with --pool beside --owner', async () => {
    await app.insert('credentials', [
      { id: 1, user_id: 'alice', api_key: 'of alice' },
      { id: 2, user_id: null, api_key: 'of nobody' },
    ])
    const refused = run([...SWEEP, '--plaintext'])
    expect(refused.status).toBe(1)
    expect(refused.stdout).toMatch(/2, api_key, of no user: It has no owner \(null\).*--pool/)
    const [, left] = await app.query('select api_key from credentials order by id')
    expect(left?.api_key).toBe('of nobody')
    expect(json([...SWEEP, '--plaintext', '--pool'])).toMatchObject({
      status: 0,
      report: { changed: 1, left: 0 },
    })
    const [, row] = await app.query('select api_key from credentials order by id')
    await withService(async (envelope) => {
      expect(await envelope.pool.decrypt(String(row?.api_key), CONTEXT)).toBe('of nobody')
    })
  })

  it('sweeps the pool’s values, by composite keys, several columns, without a context', async () => {
    await withService(async (envelope) => {
      await envelope.pool.encrypt('x')
    })
    await app.query(
      'create table pool (a integer not null, b text not null, c text, d text, primary key (a, b))',
    )
    await app.insert('pool', [{ a: 1, b: 'x', c: 'one', d: 'two' }])
    const { status, report } = json([
      'reencrypt',
      '--table',
      'pool',
      '--key',
      'a',
      '--key',
      'b',
      '--pool',
      '--column',
      'c',
      '--column',
      'd',
      '--context',
      '',
      '--plaintext',
    ])
    expect({ status, changed: report.changed }).toEqual({ status: 0, changed: 2 })
    const [row] = await app.query('select * from pool')
    await withService(async (envelope) => {
      expect(await envelope.pool.decrypt(String(row?.c))).toBe('one')
      expect(await envelope.pool.decrypt(String(row?.d))).toBe('two')
    })
  })

  it('refuses incomplete commands, a store that is not there, and shows no password', async () => {
    // Refused before any database is opened.
    const incomplete = [
      ['reencrypt'],
      ['reencrypt', '--schema', 'x.mjs', '--table', 'credentials'],
      ['reencrypt', '--schema', 'x.mjs', '--pool'],
      TABLE,
      SWEEP.filter((word) => word !== '--owner' && word !== 'user_id'),
      [...TABLE, '--context', '{"a"'],
      [...SWEEP, '--batch-size', 'x'],
    ]
    const wrong = [
      ...(dialect === dialects[0] ? incomplete : []),
      [...SWEEP, '--table', 'nothing'],
      [...SWEEP, '--column', 'nothing'],
    ]
    for (const args of wrong) expect([args, run(args).status]).toEqual([args, 2])
    expect(store.run(SWEEP).status).toBe(2)
    expect(store.run([...SWEEP, '--store', 'missing.db'], options())).toMatchObject({ status: 1 })
    const planted = 'Pw-planted-9'
    const { status, stdout, stderr } = run([
      ...SWEEP,
      '--db',
      `postgres://u:${planted}@127.0.0.1:1/x`,
      '--plaintext',
    ])
    expect(status).toBe(1)
    expect(stdout + stderr).not.toContain(planted)
  })

  it('shows keys that no number holds', async () => {
    await app.query(
      `create table big (id ${dialect === 'postgres' ? 'bigint' : 'integer'} primary key, user_id text, api_key text)`,
    )
    await app.insert('big', [{ id: 9_007_199_254_740_993n, user_id: 'alice', api_key: 'v3:cut' }])
    const args = [...SWEEP, '--table', 'big']
    expect(json(args).report.failed).toMatchObject([{ key: '9007199254740993', code: 'ERR_MALFORMED_TOKEN' }])
    expect(run(args).stdout).toContain('9007199254740993, api_key')
  })

  it('walks the registry of a schema file', async () => {
    await fill()
    await app.query('create table "Sessions" ("sessionId" integer primary key, owner_id text, token text)')
    await app.insert('"Sessions"', [{ sessionId: 1, owner_id: 'carol', token: 'of carol' }])
    await withService((envelope) => envelope.encrypt('carol', 'x'))
    writeSchema(store.folder, dialect)
    const args = [
      'reencrypt',
      '--schema',
      'schema.mjs',
      '--accept-v2',
      '--previous-context',
      '{"place":"old"}',
    ]
    const { status, report } = json<{ complete: boolean; tables: (ReencryptReport & { table: string })[] }>([
      ...args,
      '--plaintext',
    ])
    expect({ status, complete: report.complete }).toEqual({ status: 0, complete: true })
    expect(report.tables.map(({ table, changed, left }) => [table, changed, left])).toEqual([
      ['credentials', 3, 0],
      ['sessions', 1, 0],
    ])
    const [session] = await app.query('select token from "Sessions"')
    await withService(async (envelope) => {
      expect(await envelope.decrypt('carol', String(session?.token), { session: '1' })).toBe('of carol')
    })
    expect(run(args).stdout).toMatch(
      /credentials: re-encrypted 0 values[\s\S]*sessions: re-encrypted 0 values/,
    )
  })

  it('says what is wrong with a schema file', async () => {
    writeFileSync(join(store.folder, 'none.mjs'), 'export const x = 1')
    // Also where Node strips types: an enum is more than a type.
    writeFileSync(join(store.folder, 'schema.ts'), 'export enum X { A }')
    writeFileSync(join(store.folder, 'broken.mjs'), "throw new Error('it is broken')")
    const said = (file: string) => run(['reencrypt', '--schema', file])
    expect(said('none.mjs')).toMatchObject({ status: 2, stderr: expect.stringContaining('defineEncrypted') })
    expect(said('schema.ts')).toMatchObject({ status: 2, stderr: expect.stringContaining('--import tsx') })
    expect(said('broken.mjs')).toMatchObject({ status: 1, stderr: expect.stringContaining('it is broken') })
    expect(said('missing.mjs')).toMatchObject({ status: 1, stderr: expect.stringContaining('missing.mjs') })
  })

  it('doctor finds plaintext in registered columns and tokens in others', async () => {
    await fill()
    await app.query('create table "Sessions" ("sessionId" integer primary key, owner_id text, token text)')
    writeSchema(store.folder, dialect)
    const doctor = ['doctor', '--schema', 'schema.mjs', '--accept-v2']
    const kinds = (findings: readonly Finding[]) =>
      findings
        .filter(({ kind }) => ['plaintext', 'malformedToken', 'unregistered'].includes(kind))
        .map(({ severity, kind }) => `${severity} ${kind}`)
    const found = json<VerifyReport>(doctor)
    expect(found.status).toBe(1)
    expect(kinds(found.report.findings)).toEqual(['error plaintext'])
    expect(found.report.counts.plaintext).toBe(1)
    expect(found.report.findings.find(({ kind }) => kind === 'plaintext')?.reason).toContain(
      'credentials, column api_key: 1 of 5 rows',
    )

    const token = await withService((envelope) => envelope.encrypt('alice', 'x'))
    await app.query(`update credentials set api_key = null where id = 1`)
    await app.query(`update credentials set note = '${token}' where id = 2`)
    await app.query(`update credentials set note = 'v3: is what I call it' where id = 3`)
    const warned = run(doctor)
    expect(warned.status).toBe(0)
    expect(warned.stdout).toContain('warning: unregistered (1)')
    expect(warned.stdout).toContain('credentials, column note: 1 of 5 rows looked at hold tokens')
    expect(warned.stdout).not.toContain(token.slice(0, 12))

    await app.query(`update credentials set api_key = 'v3:cut' where id = 5`)
    expect(kinds(json<VerifyReport>(doctor).report.findings)).toEqual([
      'error malformedToken',
      'warning unregistered',
    ])
    expect(store.run(doctor).status).toBe(2)
  })

  it('doctor looks at the first rows of a large table, and at the last', async () => {
    writeSchema(store.folder, dialect)
    await app.query('create table "Sessions" ("sessionId" integer primary key, owner_id text, token text)')
    const many =
      dialect === 'sqlite'
        ? 'with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000) insert into credentials (id) select i from n'
        : 'insert into credentials (id) select generate_series(1, 5000)'
    await app.query(many)
    const doctor = ['doctor', '--schema', 'schema.mjs']
    await app.query(`update credentials set api_key = 'in the middle' where id = 3000`)
    expect(json<VerifyReport>(doctor).status).toBe(0)
    await app.query(`update credentials set api_key = 'the newest' where id = 5000`)
    const { status, report } = json<VerifyReport>(doctor)
    expect(status).toBe(1)
    const found = report.findings.filter(({ kind }) => kind === 'plaintext')
    expect(found.map(({ reason }) => reason)).toEqual([expect.stringContaining('1 of 1200 rows')])
  })

  it('ends after the page in hand when it is interrupted, and goes on when it is run again', async () => {
    const rows = 3000
    const values =
      dialect === 'sqlite'
        ? `with recursive n(i) as (select 1 union all select i + 1 from n where i < ${rows}) insert into credentials (id, user_id, api_key) select i, 'alice', 'of ' || i from n`
        : `insert into credentials (id, user_id, api_key) select i, 'alice', 'of ' || i from generate_series(1, ${rows}) i`
    await app.query(values)
    await withService((envelope) => envelope.encrypt('alice', 'x'))
    const args = [...SWEEP, '--plaintext', '--json']
    const { child, ended } = store.start([...args, '--batch-size', '5', '--db', app.url])
    const done = async () =>
      (await app.query("select count(*) as n from credentials where api_key like 'v3:%'"))[0]?.n
    while (Number(await done()) === 0) await new Promise((resolve) => setTimeout(resolve, 5))
    child.kill('SIGINT')
    const { status, stdout } = await ended
    expect(status).toBe(130)
    const part: ReencryptReport = JSON.parse(stdout)
    expect(part.complete).toBe(false)
    expect(part.changed).toBeGreaterThan(0)
    expect(part.changed).toBeLessThan(rows)
    expect(Number(await done())).toBe(part.changed)
    expect(json(args.slice(0, -1))).toMatchObject({
      status: 0,
      report: { complete: true, changed: rows - part.changed },
    })
    expect((await stored()).every(({ api_key }) => isToken(api_key))).toBe(true)
  })
})

/** A schema as an application has it, compiled, with its own node_modules. */
function writeSchema(folder: string, dialect: Dialect): void {
  mkdirSync(join(folder, 'node_modules'))
  symlinkSync(resolve('.'), join(folder, 'node_modules', 'drizzle-keystore'))
  symlinkSync(resolve('node_modules/drizzle-orm'), join(folder, 'node_modules', 'drizzle-orm'))
  const core = dialect === 'sqlite' ? 'sqlite' : 'pg'
  writeFileSync(
    join(folder, 'schema.mjs'),
    `import { defineEncrypted } from 'drizzle-keystore/reencrypt'
     import { encryptedText, tokenText } from 'drizzle-keystore/drizzle/${dialect}'
     import { integer, ${core}Table as table, text } from 'drizzle-orm/${core}-core'
     const credentials = table('credentials', {
       id: integer('id').primaryKey(),
       userId: text('user_id'),
       apiKey: encryptedText('api_key', { context: 'credentials.api_key' }),
     })
     const sessions = table('Sessions', {
       sessionId: integer('sessionId').primaryKey(),
       ownerId: text('owner_id'),
       token: tokenText('token'),
     })
     export const encrypted = defineEncrypted({
       credentials,
       sessions: { table: sessions, columns: { token: (row) => ({ session: String(row.sessionId) }) } },
     })
     export default credentials`,
  )
}
