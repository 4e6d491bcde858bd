/** `keystore reencrypt --table`, as a user runs it. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { isToken } from '../../src/index.js'
import type { ReencryptReport } from '../../src/reencrypt/index.js'
import { dialects } from '../support/databases.js'
import { CONTEXT, type HostCommands, hostCommands } from '../support/host-commands.js'

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
  let host: HostCommands
  beforeEach(async () => {
    host = await hostCommands(dialect)
  })
  afterEach(() => host.remove())
  const json = (args: readonly string[]) => host.json<ReencryptReport>(args)

  it('sweeps a table, and reports the values it leaves and what to do about them', async () => {
    await host.fill()
    const { status, stdout, stderr } = host.run(SWEEP)
    expect(status).toBe(1)
    expect(stdout).toContain(
      'credentials: re-encrypted 0 values; 0 skipped (changed by others meanwhile), 3 failed.',
    )
    expect(stdout).toContain('1, api_key, of "alice": It is no token')
    expect(stdout).toMatch(/│ current +│ 1 +│ 1 +│/)
    expect(stdout).toMatch(/--plaintext encrypts[\s\S]*--accept-v2[\s\S]*3 values left in an old state/)
    expect(stderr).toMatch(/^credentials: counting …\ncredentials: sweeping: 5 of 5/)
    expect(stdout).not.toMatch(/of 1|v[23]:/)

    const all = [...SWEEP, '--plaintext', '--accept-v2', '--previous-context', '{"place":"old"}']
    const before = await host.stored()
    expect(json([...all, '--dry-run'])).toMatchObject({
      status: 0,
      report: { dryRun: true, changed: 3, left: 0 },
    })
    expect(await host.stored()).toEqual(before)

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
    await host.withService(async (envelope) => {
      for (const { id, user_id, api_key } of (await host.stored()).slice(0, 4))
        expect(await envelope.decrypt(String(user_id), String(api_key), CONTEXT)).toBe(`of ${id}`)
    })
    const again = host.run(SWEEP)
    expect([again.status, again.stdout]).toEqual([
      0,
      expect.stringContaining('No value is left in an old state.'),
    ])
  })

  it('reports rows without an owner, and gives their values to the pool with --pool beside --owner', async () => {
    await host.app.insert('credentials', [
      { id: 1, user_id: 'alice', api_key: 'of alice' },
      { id: 2, user_id: null, api_key: 'of nobody' },
    ])
    const refused = host.run([...SWEEP, '--plaintext'])
    expect(refused.status).toBe(1)
    expect(refused.stdout).toMatch(/2, api_key, of no user: It has no owner \(null\).*--pool/)
    const [, left] = await host.app.query('select api_key from credentials order by id')
    expect(left?.api_key).toBe('of nobody')
    expect(json([...SWEEP, '--plaintext', '--pool'])).toMatchObject({
      status: 0,
      report: { changed: 1, left: 0 },
    })
    const [, row] = await host.app.query('select api_key from credentials order by id')
    await host.withService(async (envelope) => {
      expect(await envelope.pool.decrypt(String(row?.api_key), CONTEXT)).toBe('of nobody')
    })
  })

  it('leaves what looks like ciphertext of others, and says for whom it encrypts and where old plaintexts are', async () => {
    const foreign = 'U2FsdGVkX18AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='
    await host.app.insert('credentials', [
      { id: 1, user_id: 'alice', api_key: foreign },
      { id: 2, user_id: 'bob', api_key: 'sk-plain' },
    ])
    const dry = host.run([...SWEEP, '--plaintext', '--dry-run'])
    expect(dry.status).toBe(1)
    expect(dry.stdout).toMatch(/^For 1 owner, who has no key yet, and would get one\.$/m)
    expect(dry.stdout).toMatch(/warning: column api_key: 1 value looks like ciphertext of .*n8nReader/)
    expect(dry.stdout).not.toMatch(/Old plaintexts|--plaintext encrypts/)
    const ran = host.run([...SWEEP, '--plaintext'])
    expect(ran.status).toBe(1)
    expect(ran.stdout).toMatch(/^For 1 owner, who had no key, and got one\.$/m)
    expect(ran.stdout.trimEnd().split('\n').at(-1)).toMatch(
      dialect === 'sqlite' ? /^Old plaintexts .*VACUUM and then PRAGMA/ : /^Old plaintexts .*VACUUM FULL/,
    )
    const [first, second] = await host.stored()
    expect(first?.api_key).toBe(foreign)
    expect(isToken(second?.api_key)).toBe(true)
    const told = host.run([...SWEEP, '--plaintext', '--ciphertext-as-plaintext'])
    expect(told.status).toBe(0)
    await host.withService(async (envelope) => {
      const [row] = await host.stored()
      expect(await envelope.decrypt('alice', String(row?.api_key), CONTEXT)).toBe(foreign)
    })
    expect(host.run([...SWEEP, '--ciphertext-as-plaintext']).status).toBe(2)
    expect(host.run(SWEEP).stdout).not.toContain('Old plaintexts')
  })

  it('a dry run says what the database will refuse, and its exit code is 1 then', async () => {
    await host.app.query('drop table credentials')
    await host.app.query(
      'create table credentials (id integer primary key, user_id text, api_key text, note text, constraint short check (length(api_key) < 40))',
    )
    await host.app.insert('credentials', [{ id: 7, user_id: 'alice', api_key: 'sk-of-alice' }])
    await host.withService((envelope) => envelope.encrypt('alice', 'x'))
    const dry = [...SWEEP, '--plaintext', '--dry-run']
    const ran = host.run(dry)
    expect(ran.status).toBe(1)
    expect(ran.stdout).toMatch(/error: column api_key \(row 7\): a CHECK constraint refuses tokens.*short/)
    expect(ran.stdout + ran.stderr).not.toContain('sk-of-alice')
    expect(json(dry)).toMatchObject({
      status: 1,
      report: { findings: [{ severity: 'error', kind: 'check' }], left: 0 },
    })
    expect((await host.stored()).map(({ api_key }) => api_key)).toEqual(['sk-of-alice'])
  })

  it('sweeps the pool’s values, by composite keys, several columns, without a context', async () => {
    await host.withService(async (envelope) => {
      await envelope.pool.encrypt('x')
    })
    await host.app.query(
      'create table pool (a integer not null, b text not null, c text, d text, primary key (a, b))',
    )
    await host.app.insert('pool', [{ a: 1, b: 'x', c: 'one', d: 'two' }])
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
    const [row] = await host.app.query('select * from pool')
    await host.withService(async (envelope) => {
      expect(await envelope.pool.decrypt(String(row?.c))).toBe('one')
      expect(await envelope.pool.decrypt(String(row?.d))).toBe('two')
    })
  })

  it('refuses incomplete commands and a missing store, and shows no password', async () => {
    // Refused before a database is opened, so that one dialect is enough.
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
    for (const args of wrong) expect([args, host.run(args).status]).toEqual([args, 2])
    expect(host.store.run(SWEEP).status).toBe(2)
    expect(
      host.store.run([...SWEEP, '--store', 'missing.db'], { env: { DATABASE_URL: host.app.url } }),
    ).toMatchObject({ status: 1 })
    const planted = 'Pw-planted-9'
    const { status, stdout, stderr } = host.run([
      ...SWEEP,
      '--db',
      `postgres://u:${planted}@127.0.0.1:1/x`,
      '--plaintext',
    ])
    expect(status).toBe(1)
    expect(stdout + stderr).not.toContain(planted)
  })

  it('shows keys of rows that are too large for a number', async () => {
    await host.app.query(
      `create table big (id ${dialect === 'postgres' ? 'bigint' : 'integer'} primary key, user_id text, api_key text)`,
    )
    await host.app.insert('big', [{ id: 9_007_199_254_740_993n, user_id: 'alice', api_key: 'v3:cut' }])
    const args = [...SWEEP, '--table', 'big']
    expect(json(args).report.failed).toMatchObject([{ key: '9007199254740993', code: 'ERR_NOT_ENCRYPTED' }])
    expect(host.run(args).stdout).toContain('9007199254740993, api_key')
  })

  it('ends after the current page when it is interrupted, and goes on when it is run again', async () => {
    const rows = 3000
    const values =
      dialect === 'sqlite'
        ? `with recursive n(i) as (select 1 union all select i + 1 from n where i < ${rows}) insert into credentials (id, user_id, api_key) select i, 'alice', 'of ' || i from n`
        : `insert into credentials (id, user_id, api_key) select i, 'alice', 'of ' || i from generate_series(1, ${rows}) i`
    await host.app.query(values)
    await host.withService((envelope) => envelope.encrypt('alice', 'x'))
    const args = [...SWEEP, '--plaintext', '--json']
    const { child, ended } = host.store.start([...args, '--batch-size', '5', '--db', host.app.url])
    const done = async () =>
      (await host.app.query("select count(*) as n from credentials where api_key like 'v3:%'"))[0]?.n
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
    expect((await host.stored()).every(({ api_key }) => isToken(api_key))).toBe(true)
  })
})
