/** The sweep of JSON columns with encrypted fields: each field is a value, and nothing else in the JSON changes. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type LegacyReader, reencrypt, type ValueSource } from '../../src/reencrypt/index.js'
import { itIf } from '../support/conditional.js'
import { dialects } from '../support/databases.js'
import { type FieldsApp, fieldsApp } from '../support/fields-app.js'
import { versionOf } from '../support/tokens.js'

const reversed: LegacyReader<never> = {
  name: 'reversed',
  test: (value) => value.startsWith('rev:'),
  decrypt: (value) => value.slice(4).split('').reverse().join(''),
}

const SHORT_ON_SQLITE = [
  `create trigger short before update on integrations when length(new.settings ->> 'apiKey') > 20
     begin select raise(abort, 'too long'); end`,
]
const SHORT_ON_POSTGRES = [`alter table integrations add check (length(settings ->> 'apiKey') <= 20)`]

describe.each(dialects)('the sweep of encryptedFields on %s', (dialect) => {
  let app: FieldsApp
  beforeEach(async () => {
    app = await fieldsApp(dialect)
  })
  afterEach(() => app.close())

  const source = () => app.schema.encrypted.sources(app.db).get('integrations') as ValueSource<never>
  const sweep = (more: Partial<Parameters<typeof reencrypt<never>>[0]> = {}) =>
    reencrypt<never>({ envelope: app.envelope, source: source(), plaintext: true, ...more })
  const store = (id: number, settings: string | null, extra: string | null = null) =>
    app.rows(
      `insert into integrations (id, user_id, settings, extra) values ($1, 'alice', $2::jsonb, $3::json)`,
      id,
      settings,
      extra,
    )
  const stored = async () =>
    (
      await app.rows(
        'select id, settings::text as settings, extra::text as extra from integrations order by id',
      )
    ).map(({ settings, extra }) => ({ settings: String(settings), extra: String(extra) }))
  const read = () =>
    app.envelope.scope('alice', () =>
      app.db.select().from(app.schema.integrations).orderBy(app.schema.integrations.id),
    )
  /** A stored text without its tokens. */
  const shape = (text: string) => text.replaceAll(/v3:[\w-]{102,}/g, 'TOKEN')

  it('encrypts plaintext and values of other libraries in each field, and the columns read it', async () => {
    await store(
      1,
      JSON.stringify({
        model: 'gpt',
        apiKey: 'plain',
        providers: { a: { secret: 'rev:dlo', url: 'rev:url' }, b: { secret: null } },
        hooks: [{ secret: 'one' }, { secret: 'two' }],
        'dotted.name': '',
      }),
    )
    await store(2, null, '{"password": "pass", "theme": "light"}')
    await store(3, '{"model": "none"}')
    const report = await sweep({ legacy: [reversed], batchSize: 1 })
    expect(report).toMatchObject({
      complete: true,
      changed: 6,
      before: { plaintext: 5, 'legacy:reversed': 1, current: 0 },
      after: { plaintext: 0, 'legacy:reversed': 0, current: 6 },
      failed: [],
      left: 0,
    })
    expect(await read()).toMatchObject([
      {
        settings: {
          model: 'gpt',
          apiKey: 'plain',
          providers: { a: { secret: 'old', url: 'rev:url' }, b: { secret: null } },
          hooks: [{ secret: 'one' }, { secret: 'two' }],
          'dotted.name': '',
        },
        extra: null,
      },
      { settings: null, extra: { password: 'pass', theme: 'light' } },
      { settings: { model: 'none' }, extra: null },
    ])
    expect(await sweep()).toMatchObject({ changed: 0, left: 0 })
  })

  it('tries new values in a dry run, takes them back, and names the field whose value is refused', async () => {
    await store(1, '{"apiKey": "plain", "hooks": [{"secret": "one"}, {"secret": "two"}]}')
    const before = await stored()
    expect(await sweep({ dryRun: true })).toMatchObject({ changed: 3, findings: [] })
    expect(await stored()).toEqual(before)
    // As a CHECK would, which SQLite cannot add to a table.
    for (const statement of dialect === 'sqlite' ? SHORT_ON_SQLITE : SHORT_ON_POSTGRES)
      await app.rows(statement)
    const { findings } = await sweep({ dryRun: true })
    expect(findings.filter(({ severity }) => severity === 'error').map(({ column }) => column)).toEqual([
      'settings.apiKey',
    ])
    expect(findings[0]?.reason).toContain('(row 1)')
    expect(await stored()).toEqual(before)
  })

  it('takes twice as long for twice as many elements of an array, and lets the event loop turn', async () => {
    const sweepTimes = async (count: number): Promise<number[]> => {
      await app.rows('delete from integrations')
      await store(1, JSON.stringify({ hooks: Array.from({ length: count }, () => ({ secret: 's' })) }))
      const times: number[] = []
      for (const dryRun of [true, false]) {
        const began = performance.now()
        expect(await sweep({ dryRun })).toMatchObject({ changed: count, left: 0, findings: [] })
        times.push(performance.now() - began)
      }
      return times
    }
    await sweepTimes(500)
    const few = await sweepTimes(6000)
    let turns = 0
    const timer = setInterval(() => {
      turns += 1
    }, 1)
    const many = await sweepTimes(12_000).finally(() => clearInterval(timer))
    // Quadratic, it took minutes. The bound is wide, since the machine may be busy.
    for (const [index, time] of many.entries()) expect(time).toBeLessThan(3 * (few[index] ?? 0) + 300)
    expect(turns).toBeGreaterThan(10)
    expect(await read()).toMatchObject([{ settings: { hooks: { length: 12_000 } } }])
  })

  it('brings tokens under the newest version, and from an earlier context', async () => {
    await app.envelope.scope('alice', () =>
      app.db.insert(app.schema.integrations).values({
        id: 1,
        userId: 'alice',
        settings: { model: 'x', apiKey: 'one', hooks: [{ url: 'u', secret: 'two' }] },
      }),
    )
    await app.envelope.rotateUserKey('alice')
    const old = await app.envelope.encrypt('alice', 'three', { column: 'old', path: 'apiKey' })
    await store(2, JSON.stringify({ apiKey: old }))
    expect(await sweep({ previousContexts: [{ column: 'old', path: 'apiKey' }] })).toMatchObject({
      before: { oldVersion: 2, oldContext: 1 },
      changed: 3,
      left: 0,
    })
    for (const { settings } of await stored())
      for (const token of settings.match(/v3:[\w-]+/g) ?? []) expect(versionOf(token)).toBe(2)
    expect((await read()).map(({ settings }) => settings?.apiKey)).toEqual(['one', 'three'])
  })

  it('damages no number, no order and no text beside the fields', async () => {
    const numbers =
      '{"big": 123456789012345678901234567890, "exact": 1.10, "tiny": 1e-7, "id": 9007199254740993, "text": "ä😀 \\\\ \\" / b", "apiKey": "plain", "model": "m"}'
    await store(
      1,
      numbers,
      '{ "n" : 9007199254740993,\n\t"e":1E400, "password" : "\\u0070ass" , "u":"\\u00e4" }',
    )
    const [before] = await stored()
    expect(await sweep()).toMatchObject({ changed: 2, left: 0 })
    const [after] = await stored()
    expect(shape(after?.settings ?? '')).toBe(before?.settings.replace('"plain"', '"TOKEN"'))
    expect(shape(after?.extra ?? '')).toBe(
      '{ "n" : 9007199254740993,\n\t"e":1E400, "password" : "TOKEN" , "u":"\\u00e4" }',
    )
    expect(after?.settings).toContain('123456789012345678901234567890')
    expect((await read())[0]?.extra).toMatchObject({ password: 'pass' })
  })

  it('encrypts every property of one name: the database keeps those that JSON.parse does not read', async () => {
    // jsonb keeps the last, json and text all.
    await store(1, null, '{"password": "first", "theme": "x", "password": "last"}')
    expect(await sweep()).toMatchObject({ changed: 2, left: 0 })
    const [row] = await stored()
    expect(shape(row?.extra ?? '')).toBe('{"password": "TOKEN", "theme": "x", "password": "TOKEN"}')
    expect((await read())[0]?.extra).toEqual({ password: 'last', theme: 'x' })
    expect(await sweep()).toMatchObject({ before: { current: 2 }, changed: 0 })
  })

  it('loses nothing that another writer changes meanwhile, also beside the field', async () => {
    await store(1, '{"apiKey": "one", "model": "old"}')
    await store(2, '{"apiKey": "two", "model": "old"}')
    const { replace, ...rest } = source()
    let isFirst = true
    const raced: ValueSource<never> = {
      ...rest,
      async replace(changes) {
        if (isFirst)
          await app.rows(
            `update integrations set settings = $1::jsonb where id = 1`,
            '{"apiKey": "one", "model": "new"}',
          )
        isFirst = false
        return replace(changes)
      },
    }
    expect(await sweep({ source: raced })).toMatchObject({ changed: 2, skipped: 1, left: 0 })
    expect((await read()).map(({ settings }) => settings)).toEqual([
      { apiKey: 'one', model: 'new' },
      { apiKey: 'two', model: 'old' },
    ])
  })

  it('reports what is no text at a path, by the name of the field, and leaves it; the fields beside it are encrypted', async () => {
    await store(
      1,
      '{"apiKey": 5, "providers": {"p": {"secret": {"deep": "x"}}, "q": {"secret": "fine"}}, "hooks": [{"secret": true}]}',
    )
    await store(2, '{"apiKey": "v3:AAAAcut"}')
    await store(3, '"a text"')
    const report = await sweep()
    expect(report).toMatchObject({ changed: 1, left: 4, failedCount: 4 })
    expect(report.failed.map(({ key, column }) => [key, column]).sort()).toEqual([
      [1, 'settings.apiKey'],
      [1, 'settings.hooks.*.secret'],
      [1, 'settings.providers.p.secret'],
      [2, 'settings.apiKey'],
    ])
    const numbers = report.failed.filter(({ key, column }) => key === 1 && column === 'settings.apiKey')
    expect(numbers).toMatchObject([{ reason: expect.stringMatching(/got number: .*out of encryptedFields/) }])
    const [row] = await stored()
    expect(JSON.parse(row?.settings ?? '')).toMatchObject({
      apiKey: 5,
      providers: { p: { secret: { deep: 'x' } } },
    })
    expect(await sweep({ plaintext: false, dryRun: true })).toMatchObject({ left: 4 })
  })

  itIf(dialect === 'sqlite', 'Postgres lets no text that is no JSON into such a column')(
    'reports what is no JSON at all, and leaves it',
    async () => {
      await store(1, 'no json')
      const token = await app.envelope.encrypt('alice', 'x', { column: 'integrations.settings' })
      await store(2, token)
      const report = await sweep()
      expect(report).toMatchObject({ changed: 0, left: 2, failedCount: 2 })
      expect(report.failed.map(({ column, code }) => [column, code])).toEqual([
        ['settings', 'ERR_INVALID_ARGUMENT'],
        ['settings', 'ERR_INVALID_ARGUMENT'],
      ])
      expect((await stored()).map(({ settings }) => settings)).toEqual(['no json', token])
    },
  )

  it('encrypts nothing of a row without an owner', async () => {
    await app.rows(`insert into integrations (id, user_id, settings) values (1, null, '{"apiKey": "plain"}')`)
    expect(await sweep()).toMatchObject({ changed: 0, left: 1, failedCount: 1 })
  })
})
