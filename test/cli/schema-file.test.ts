/** `keystore reencrypt --schema` and `keystore doctor --schema`: commands on the registry of an application's schema file. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { Finding, VerifyReport } from '../../src/index.js'
import type { ReencryptReport } from '../../src/reencrypt/index.js'
import { dialects } from '../support/databases.js'
import { type HostCommands, hostCommands, writeSchema } from '../support/host-commands.js'

const SCHEMA = `
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
     export default credentials`
const CREATE_SESSIONS = 'create table "Sessions" ("sessionId" integer primary key, owner_id text, token text)'

describe.each(dialects)('on %s', (dialect) => {
  let host: HostCommands
  beforeEach(async () => {
    host = await hostCommands(dialect)
  })
  afterEach(() => host.remove())

  it('reencrypt sweeps every table of the registry', async () => {
    await host.fill()
    await host.app.query(CREATE_SESSIONS)
    await host.app.insert('"Sessions"', [{ sessionId: 1, owner_id: 'carol', token: 'of carol' }])
    await host.withService((envelope) => envelope.encrypt('carol', 'x'))
    writeSchema(host.store.folder, dialect, SCHEMA)
    const args = [
      'reencrypt',
      '--schema',
      'schema.mjs',
      '--accept-v2',
      '--previous-context',
      '{"place":"old"}',
    ]
    const { status, report } = host.json<{
      complete: boolean
      tables: (ReencryptReport & { table: string })[]
    }>([...args, '--plaintext'])
    expect({ status, complete: report.complete }).toEqual({ status: 0, complete: true })
    expect(report.tables.map(({ table, changed, left }) => [table, changed, left])).toEqual([
      ['credentials', 3, 0],
      ['sessions', 1, 0],
    ])
    const [session] = await host.app.query('select token from "Sessions"')
    await host.withService(async (envelope) => {
      expect(await envelope.decrypt('carol', String(session?.token), { session: '1' })).toBe('of carol')
    })
    expect(host.run(args).stdout).toMatch(
      /credentials: re-encrypted 0 values[\s\S]*sessions: re-encrypted 0 values/,
    )
  })

  it('reencrypt and doctor take a registry whose owners are functions of the row', async () => {
    await host.app.insert('credentials', [
      { id: 1, user_id: 'alice', api_key: 'of alice', note: 'user' },
      { id: 2, user_id: 'red', api_key: 'of red', note: 'team' },
      { id: 3, user_id: null, api_key: 'of nobody', note: 'other' },
    ])
    await host.withService((envelope) => envelope.encrypt('alice', 'x'))
    writeSchema(
      host.store.folder,
      dialect,
      `const credentials = table('credentials', {
         id: integer('id').primaryKey(),
         userId: text('user_id'),
         apiKey: encryptedText('api_key', { context: 'credentials.api_key' }),
         note: text('note'),
       })
       const owner = ({ note, userId }) => (note === 'team' ? 'team:' + userId : userId)
       export const encrypted = defineEncrypted({ credentials: { table: credentials, owner } })`,
    )
    const sweep = ['reencrypt', '--schema', 'schema.mjs', '--plaintext']
    const { status, report } = host.json<{ tables: ReencryptReport[] }>(sweep)
    expect(status).toBe(1)
    expect(report.tables).toMatchObject([{ changed: 2, left: 1, failed: [{ key: 3, owner: null }] }])
    const token = (await host.stored())[1]?.api_key
    await host.withService(async (envelope) => {
      expect(await envelope.decrypt('team:red', String(token), { column: 'credentials.api_key' })).toBe(
        'of red',
      )
    })
    const found = host.json<VerifyReport>(['doctor', '--schema', 'schema.mjs', '--accept-v2'])
    expect(found.report.findings.filter(({ kind }) => kind === 'plaintext')).toHaveLength(1)
  })

  it('reencrypt says what is wrong with a schema file', async () => {
    writeFileSync(join(host.store.folder, 'none.mjs'), 'export const x = 1')
    // An enum is more than a type, so that even a Node that strips types cannot load it.
    writeFileSync(join(host.store.folder, 'schema.ts'), 'export enum X { A }')
    writeFileSync(join(host.store.folder, 'broken.mjs'), "throw new Error('it is broken')")
    const said = (file: string) => host.run(['reencrypt', '--schema', file])
    expect(said('none.mjs')).toMatchObject({ status: 2, stderr: expect.stringContaining('defineEncrypted') })
    expect(said('schema.ts')).toMatchObject({ status: 2, stderr: expect.stringContaining('--import tsx') })
    expect(said('broken.mjs')).toMatchObject({ status: 1, stderr: expect.stringContaining('it is broken') })
    expect(said('missing.mjs')).toMatchObject({ status: 1, stderr: expect.stringContaining('missing.mjs') })
  })

  it('reencrypt and doctor say that a casing may be missing', async () => {
    writeSchema(
      host.store.folder,
      dialect,
      `export const credentials = table('credentials', {
         id: integer().primaryKey(),
         userId: text(),
         apiKey: encryptedText({ context: 'credentials.api_key' }),
       })
       export const encrypted = defineEncrypted({ credentials })`,
    )
    await host.app.insert('credentials', [{ id: 1, user_id: 'alice', api_key: 'sk-1' }])
    for (const command of ['reencrypt', 'doctor']) {
      const { stdout, stderr } = host.run([command, '--schema', 'schema.mjs'])
      expect(stdout + stderr).toMatch(/no column "userId": it has "user_id".*--casing snake_case/)
    }
    const args = ['reencrypt', '--schema', 'schema.mjs', '--casing', 'snake_case', '--plaintext']
    expect(host.run(args)).toMatchObject({ status: 0 })
  })

  it('doctor finds plaintext in registered columns and tokens in others', async () => {
    await host.fill()
    await host.app.query(CREATE_SESSIONS)
    writeSchema(host.store.folder, dialect, SCHEMA)
    const doctor = ['doctor', '--schema', 'schema.mjs', '--accept-v2']
    const kinds = (findings: readonly Finding[]) =>
      findings
        .filter(({ kind }) => ['plaintext', 'malformedToken', 'unregistered'].includes(kind))
        .map(({ severity, kind }) => `${severity} ${kind}`)
    const found = host.json<VerifyReport>(doctor)
    expect(found.status).toBe(1)
    expect(kinds(found.report.findings)).toEqual(['error plaintext'])
    expect(found.report.counts.plaintext).toBe(1)
    expect(found.report.findings.find(({ kind }) => kind === 'plaintext')?.reason).toContain(
      'credentials, column api_key: 1 of 5 rows',
    )

    const token = await host.withService((envelope) => envelope.encrypt('alice', 'x'))
    await host.app.query(`update credentials set api_key = null where id = 1`)
    await host.app.query(`update credentials set note = '${token}' where id = 2`)
    await host.app.query(`update credentials set note = 'v3: is what I call it' where id = 3`)
    const warned = host.run(doctor)
    expect(warned.status).toBe(0)
    expect(warned.stdout).toContain('warning: unregistered (1)')
    expect(warned.stdout).toContain('credentials, column note: 1 of 5 rows looked at hold tokens')
    expect(warned.stdout).not.toContain(token.slice(0, 12))

    await host.app.query(`update credentials set api_key = 'v3:AAAAcut' where id = 5`)
    expect(kinds(host.json<VerifyReport>(doctor).report.findings)).toEqual([
      'error malformedToken',
      'warning unregistered',
    ])
    expect(host.store.run(doctor).status).toBe(2)
  })

  it('doctor and reencrypt look into the fields of JSON columns', async () => {
    const type = dialect === 'sqlite' ? 'text' : 'jsonb'
    await host.app.query(`create table integrations (id integer primary key, user_id text, settings ${type})`)
    writeSchema(
      host.store.folder,
      dialect,
      `const integrations = table('integrations', {
         id: integer('id').primaryKey(),
         userId: text('user_id'),
         settings: encryptedFields('settings', { context: 'integrations.settings', paths: ['apiKey', 'providers.*.secret'] }),
       })
       export const encrypted = defineEncrypted({ integrations })`,
    )
    const token = await host.withService((envelope) => envelope.encrypt('alice', 'x', { column: 'other' }))
    const json = {
      1: { apiKey: 'plain', providers: { a: { secret: 'plain' }, b: { secret: 'plain' } } },
      2: { apiKey: 'v3:AAAAcut', providers: { a: { secret: null } } },
      3: { apiKey: 5, note: 'v3: is what I call it', list: [{ old: token }] },
      4: { note: 'nothing' },
    }
    for (const [id, settings] of Object.entries(json))
      await host.app.query(`insert into integrations values (${id}, 'alice', '${JSON.stringify(settings)}')`)
    await host.app.query(`insert into integrations values (5, 'alice', null)`)
    const { status, report } = host.json<VerifyReport>(['doctor', '--schema', 'schema.mjs'])
    const found = report.findings.filter(({ kind }) =>
      ['plaintext', 'malformedToken', 'unregistered'].includes(kind),
    )
    expect(status).toBe(1)
    expect(
      found.map(
        ({ severity, kind, reason }) => `${severity} ${kind} ${reason.replace(/ (of|hold|are) .*/, '')}`,
      ),
    ).toEqual([
      'error plaintext integrations, column settings, field apiKey: 2',
      'error malformedToken integrations, column settings, field apiKey: 1',
      'error plaintext integrations, column settings, field providers.*.secret: 1',
      'warning unregistered integrations, column settings: 1',
    ])
    expect(found.at(-1)?.reason).toContain('such as list.*.old: name it in the paths of encryptedFields')
    for (const { reason } of found)
      for (const value of ['plain"', token, 'AAAAcut', 'call it']) expect(reason).not.toContain(value)

    const swept = host.run(['reencrypt', '--schema', 'schema.mjs', '--plaintext'])
    expect(swept.stdout).toContain('re-encrypted 3 values')
    expect(swept.stdout).toContain('settings.apiKey')
    await host.app.query('delete from integrations where id in (2, 3)')
    expect(host.run(['reencrypt', '--schema', 'schema.mjs'])).toMatchObject({ status: 0 })
    expect(host.run(['doctor', '--schema', 'schema.mjs'])).toMatchObject({ status: 0 })
    if (dialect === 'postgres') return
    await host.app.query(`update integrations set settings = 'no json' where id = 4`)
    expect(host.run(['doctor', '--schema', 'schema.mjs'])).toMatchObject({
      status: 1,
      stdout: expect.stringContaining('column settings: 1 of 3 rows looked at hold what is no JSON'),
    })
  })

  it('doctor reads the first and the last rows of a large table', async () => {
    writeSchema(host.store.folder, dialect, SCHEMA)
    await host.app.query(CREATE_SESSIONS)
    const many =
      dialect === 'sqlite'
        ? 'with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000) insert into credentials (id) select i from n'
        : 'insert into credentials (id) select generate_series(1, 5000)'
    await host.app.query(many)
    const doctor = ['doctor', '--schema', 'schema.mjs']
    await host.app.query(`update credentials set api_key = 'in the middle' where id = 3000`)
    expect(host.json<VerifyReport>(doctor).status).toBe(0)
    await host.app.query(`update credentials set api_key = 'the newest' where id = 5000`)
    const { status, report } = host.json<VerifyReport & { columns: object[] }>(doctor)
    expect(status).toBe(1)
    const found = report.findings.filter(({ kind }) => kind === 'plaintext')
    expect(found.map(({ reason }) => reason)).toEqual([expect.stringContaining('1 of 1,200 rows')])
    expect(report.columns).toEqual([
      { table: 'credentials', column: 'api_key', rowsLookedAt: 1200, rows: 5000 },
      { table: 'sessions', column: 'token', rowsLookedAt: 0, rows: 0 },
    ])
    expect(host.run(doctor).stdout).toContain('credentials.api_key: 1,200 of 5,000 rows looked at.\n')
  })

  it('doctor looks for the columns in the database of the store, if no other one is named', async () => {
    writeSchema(host.store.folder, dialect, SCHEMA)
    await host.app.query(CREATE_SESSIONS)
    await host.app.insert('credentials', [{ id: 1, user_id: 'alice', api_key: 'plain' }])
    const env = { DATABASE_URL: undefined, KEYSTORE_URL: host.app.url }
    expect(host.store.run(['init'], { env })).toMatchObject({ status: 0 })
    const doctor = ['doctor', '--schema', 'schema.mjs']
    const found = host.store.run(doctor, { env })
    expect(found.stdout).toContain('credentials, column api_key: 1 of 1 rows looked at hold plaintext')
    expect(found.stdout).toContain('credentials.api_key: 1 of 1 row looked at.')
    const elsewhere = host.store.run(doctor, { env: { DATABASE_URL: undefined } })
    expect(elsewhere).toMatchObject({ status: 2, stdout: '' })
    expect(elsewhere.stderr).toContain('that of the application is --db URL, or $DATABASE_URL')
  })

  it('doctor names encrypted columns and tokens that the registry leaves out, and a dry run reports nothing as done', async () => {
    await host.app.query(
      `insert into credentials (id, user_id, api_key) values (1, 'alice', 'secret'), (2, '', 'secret')`,
    )
    await host.app.query('create table other (id integer primary key, note text, motto text)')
    await host.app.query(
      `insert into other values (1, 'v3:AAAAAQ${'A'.repeat(96)}', 'v3: the third'), (2, null, 'hello')`,
    )
    writeSchema(
      host.store.folder,
      dialect,
      `const columns = (context) => ({
         id: integer('id').primaryKey(),
         userId: text('user_id'),
         apiKey: encryptedText('api_key', { context }),
       })
       export const credentials = table('credentials', columns('credentials.api_key'))
       export const forgotten = table('forgotten', columns('forgotten.api_key'))
       export const other = table('other', { id: integer('id').primaryKey(), note: text('note'), motto: text('motto') })
       export const encrypted = defineEncrypted({ credentials })`,
    )
    const { report } = host.json<VerifyReport>(['doctor', '--schema', 'schema.mjs'])
    expect(report.findings.filter(({ kind }) => kind === 'unregistered')).toEqual([
      expect.objectContaining({
        severity: 'warning',
        reason: expect.stringContaining('forgotten, column api_key'),
      }),
      expect.objectContaining({
        severity: 'warning',
        reason: expect.stringContaining('other, column note: 1 of 2 rows looked at hold tokens'),
      }),
    ])
    const { status, stdout } = host.run(['reencrypt', '--schema', 'schema.mjs', '--plaintext', '--dry-run'])
    expect(status).toBe(1)
    expect(stdout).toContain('would re-encrypt 1 value;')
    expect(stdout).toContain('1 value would be left in an old state.')
  })
})
