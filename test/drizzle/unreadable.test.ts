/** Stored values that cannot be read: one of many rows, by every way of reading, and what a scope makes of it. */
import { inspect } from 'node:util'
import { eq, sql } from 'drizzle-orm'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { isUnreadable, type OnUnreadable, type UnreadableValue } from '../../src/index.js'
import { dialects } from '../support/databases.js'
import { columnErrorOf } from '../support/errors.js'
import { freshService } from '../support/fresh-store.js'
import { type HostApp, hostApp } from '../support/host-app.js'
import { withVersion } from '../support/tokens.js'

const ROWS = 20
const BROKEN = 7

describe.each(dialects)('a value that cannot be read on %s', (dialect) => {
  let app: HostApp
  beforeEach(async () => {
    app = await hostApp(dialect)
    const values = Array.from({ length: ROWS }, (_, id) => ({
      id,
      ownerId: 'alice',
      apiKey: `sk-${id}`,
      data: { n: id },
    }))
    await app.envelope.scope('alice', () => app.db.insert(app.schema.vault).values(values))
  })
  afterEach(() => app.close())

  const store = (column: 'api_key' | 'data', value: string, id = BROKEN) =>
    app.rows(`update vault set ${column} = '${value}' where id = ${id}`)
  const read = (onUnreadable?: OnUnreadable) =>
    app.envelope.scope('alice', () => app.db.select().from(app.schema.vault).orderBy(app.schema.vault.id), {
      onUnreadable,
    })
  const tokenOf = async (id: number) =>
    String((await app.rows(`select api_key from vault where id = ${id}`))[0]?.api_key)
  const changed = (token: string) => token.slice(0, -5) + (token.endsWith('AAAAA') ? 'BBBBB' : 'AAAAA')

  it('names its column in the error and in the event, and makes the query fail by default', async () => {
    await store('api_key', changed(await tokenOf(BROKEN)))
    const error = await columnErrorOf(() => read())
    expect(error).toMatchObject({ code: 'ERR_DECRYPTION_FAILED', column: 'vault.api_key' })
    expect(error.message).toContain('"vault.api_key"')
    expect(await columnErrorOf(() => read('throw'))).toMatchObject({ column: 'vault.api_key' })
    const events: unknown[] = []
    const { subscribe, unsubscribe } = await import('node:diagnostics_channel')
    const listen = (event: unknown) => events.push(event)
    subscribe('drizzle-keystore:decryptFailed', listen)
    await read('null')
    unsubscribe('drizzle-keystore:decryptFailed', listen)
    expect(events).toEqual([
      { type: 'decryptFailed', userId: 'alice', version: 1, format: 'v3', column: 'vault.api_key' },
    ])
  })

  it('leaves the other 19 rows readable, in selects, joins, relational queries and returning', async () => {
    const { db, schema, envelope } = app
    const { vault, owners } = schema
    await store('api_key', changed(await tokenOf(BROKEN)))
    const expected = Array.from({ length: ROWS }, (_, id) => (id === BROKEN ? null : `sk-${id}`))
    const results = await envelope.scope(
      'alice',
      async () => ({
        selected: await db.select().from(vault).orderBy(vault.id),
        joined: (
          await db
            .select()
            .from(owners)
            .leftJoin(vault, eq(vault.ownerId, owners.id))
            .where(eq(owners.id, 'alice'))
            .orderBy(vault.id)
        ).map((row) => row.vault),
        related: (
          await db.query.owners.findFirst({
            where: (t, operators) => operators.eq(t.id, 'alice'),
            with: { vault: true },
          })
        )?.vault.toSorted((a, b) => a.id - b.id),
        returned: (await db.update(vault).set({ file: null }).returning()).toSorted((a, b) => a.id - b.id),
        prepared: await db
          .select({ apiKey: vault.apiKey, id: vault.id })
          .from(vault)
          .orderBy(vault.id)
          .prepare('prepared_vault')
          .execute(),
      }),
      { onUnreadable: 'null' },
    )
    for (const [way, rows] of Object.entries(results)) {
      const keys = rows?.map((row) => row?.apiKey)
      // Drizzle makes the whole object of a join null if its first column is: docs/COLUMNS.md says so.
      if (way === 'joined') keys?.splice(BROKEN, 1, null)
      expect(keys, way).toEqual(expected)
    }
    expect(results.selected[BROKEN]).toMatchObject({ id: BROKEN, data: { n: BROKEN } })
    const marked = await read('marker')
    expect(marked.filter(({ apiKey }) => isUnreadable(apiKey)).map(({ id }) => id)).toEqual([BROKEN])
    expect(marked.filter(({ apiKey }) => typeof apiKey === 'string')).toHaveLength(ROWS - 1)
  })

  it('as a marker cannot be taken for a text, a token or a secret', async () => {
    await store('api_key', 'sk-plaintext')
    const [row] = (await read('marker')).filter(({ id }) => id === BROKEN)
    const marker: unknown = row?.apiKey
    expect(isUnreadable(marker)).toBe(true)
    const failed = expect.objectContaining({ code: 'ERR_NOT_ENCRYPTED', column: 'vault.api_key' })
    for (const use of [
      () => `${marker}`,
      () => String(marker),
      () => (marker as object).toString(),
      () => `x`.concat(marker as string),
    ])
      expect(use).toThrow(failed)
    expect(JSON.stringify(row)).toContain(
      '"apiKey":{"unreadable":"vault.api_key","code":"ERR_NOT_ENCRYPTED"}',
    )
    expect(inspect(row, { depth: 9, showHidden: true })).not.toContain('sk-plaintext')
    expect(inspect(marker)).toBe('[unreadable vault.api_key: ERR_NOT_ENCRYPTED]')
    for (const other of [null, undefined, 'text', {}, new Error('x')]) expect(isUnreadable(other)).toBe(false)
    expect(() => structuredClone(marker)).toThrow(/clone/)
    expect(isUnreadable({ ...(marker as object) })).toBe(true)
    // It is refused by the column, too: the row cannot be written back by mistake.
    const { db, schema, envelope } = app
    expect(
      await columnErrorOf(() =>
        envelope.scope('alice', () => db.update(schema.vault).set({ apiKey: marker as string })),
      ),
    ).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
  })

  it('as a marker is written to no column, alone or inside a value, and what is stored stays', async () => {
    const { db, schema, envelope } = app
    const { vault, secrets } = schema
    const tokens = () => app.rows(`select api_key, data from vault where id = ${BROKEN}`)
    const [{ data } = {}] = await tokens()
    await store('data', changed(String(data)))
    const damaged = await tokens()
    const [row] = (await read('marker')).filter(({ id }) => id === BROKEN)
    const marker = row?.data as never
    expect(isUnreadable(marker)).toBe(true)
    const nested = { toJSON: () => ({ n: [marker] }) }
    const writes = [
      () => db.update(vault).set({ data: marker }),
      () => db.update(vault).set({ data: { copy: [marker] } as never }),
      () => db.update(vault).set({ data: nested as never }),
      () => db.update(vault).set({ data: { toJSON: () => marker } as never }),
      // Sent to a client, and back.
      () => db.update(vault).set({ data: JSON.parse(JSON.stringify(row)).data }),
      () => db.update(vault).set({ apiKey: marker }),
      () => db.update(vault).set({ file: marker }),
      () => db.insert(vault).values({ id: 99, ownerId: 'alice', data: marker }),
      () => db.insert(secrets).values({ id: 99, ownerId: 'alice', token: marker }),
      () =>
        db
          .update(vault)
          .set({ data: sql.placeholder('data') as never })
          .prepare('marker_update')
          .execute({ data: marker }),
    ]
    for (const [index, write] of writes.entries()) {
      const error = await columnErrorOf(() => envelope.scope('alice', write as () => PromiseLike<unknown>))
      expect(error, `write ${index}`).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
      expect(error.message, `write ${index}`).toMatch(/unreadable value .* leave the column out/)
    }
    // Nor is it a text of a column that is not encrypted.
    const plain = () => envelope.scope('alice', () => db.insert(secrets).values({ id: 98, plain: marker }))
    await expect(plain()).rejects.toThrow()
    expect(await tokens()).toEqual(damaged)
    expect(await app.rows('select id from secrets')).toEqual([])
    await envelope.scope('alice', () => db.update(vault).set({ data: { n: 1, unreadable: 'x' } as never }))
  })

  it('is given to a function, which tells leftovers from damage', async () => {
    const { envelope } = app
    const seen: Record<string, Pick<UnreadableValue, 'column' | 'leftover'>[]> = {}
    await store('data', '{}', 1)
    await store('data', '', 2)
    await store('api_key', 'sk-plaintext', 3)
    await store('api_key', 'v3:cut', 4)
    await store('api_key', changed(await tokenOf(5)), 5)
    await store('api_key', await envelope.encrypt('bob', 'x', { column: 'vault.api_key' }), 6)
    await store('data', await envelope.encrypt('alice', 'no { json', { column: 'vault.data' }), 7)
    await store('api_key', `v2:${'A'.repeat(60)}`, 8)
    const rows = await read((value) => {
      const { column, error, leftover } = value
      expect(JSON.stringify(value)).not.toContain('leftover')
      seen[error.code] = [...(seen[error.code] ?? []), { column, leftover }]
      expect(error.message).not.toContain('sk-plaintext')
      return leftover === '{}' ? { n: 0 } : error.code
    })
    const [data, apiKey] = ['vault.data', 'vault.api_key']
    expect(seen).toEqual({
      ERR_NOT_ENCRYPTED: [
        { column: data, leftover: '{}' },
        { column: data, leftover: '' },
        { column: apiKey, leftover: 'sk-plaintext' },
      ],
      ERR_MALFORMED_TOKEN: [{ column: apiKey, leftover: null }],
      ERR_DECRYPTION_FAILED: [
        { column: apiKey, leftover: null },
        { column: apiKey, leftover: null },
        { column: data, leftover: null },
      ],
      ERR_FORMAT_NOT_ACCEPTED: [{ column: apiKey, leftover: null }],
    })
    expect(rows[1]?.data).toEqual({ n: 0 })
    expect(rows[2]?.data).toBe('ERR_NOT_ENCRYPTED')
    expect(rows.filter(({ apiKey: read }) => read?.startsWith('sk-'))).toHaveLength(ROWS - 5)
    expect(await columnErrorOf(() => read(async () => Promise.reject(new Error('late'))))).toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
      message: expect.stringContaining('asynchronous'),
    })
    const thrown = await columnErrorOf(() =>
      read(() => {
        throw new TypeError('the caller’s own')
      }),
    ).catch((error) => error)
    expect(String(thrown)).toContain('the caller’s own')
  })

  it('says what a leftover is, and does not show it', async () => {
    const { data } = (await app.rows(`select data from vault where id = ${BROKEN}`))[0] ?? {}
    await store('data', changed(String(data)))
    expect((await columnErrorOf(() => read())).message).toMatch(/onUnreadable of the scope/)
    await store('data', String(data))
    await store('api_key', '')
    expect((await columnErrorOf(() => read())).message).toMatch(/empty text.*sweep/)
    await store('api_key', 'sk-plaintext')
    const { message } = await columnErrorOf(() => read())
    expect(message).toMatch(/plaintext, such as a default/)
    expect(message).not.toContain('sk-plaintext')
  })

  it('is no outage, no closed service, no missing scope and no key that is merely newer: they throw always', async () => {
    const { envelope, db, schema } = app
    const anything: OnUnreadable = () => 'never'
    const readVault = () => db.select().from(schema.vault)
    await store('api_key', withVersion(await tokenOf(BROKEN), 2))
    expect(await columnErrorOf(() => read(anything))).toMatchObject({
      code: 'ERR_KEY_NOT_FOUND',
      retryable: true,
    })
    await store('api_key', 'leftover')
    expect(await columnErrorOf(() => envelope.pool.scope(readVault, { onUnreadable: 'null' }))).toMatchObject(
      { code: 'ERR_NO_SCOPE' },
    )
    const closing = envelope.scope(
      'alice',
      async () => {
        await envelope.close()
        return readVault()
      },
      { onUnreadable: anything },
    )
    expect(await columnErrorOf(() => closing)).toMatchObject({ code: 'ERR_CLOSED' })
  })

  it('is one that names a version which nobody can have made yet: it was changed', async () => {
    await store('api_key', withVersion(await tokenOf(BROKEN), 320_715_386))
    expect(await columnErrorOf(() => read())).toMatchObject({ code: 'ERR_KEY_NOT_FOUND', retryable: false })
    const rows = (await read('null')) as readonly { readonly apiKey: string | null }[]
    expect(rows.filter(({ apiKey }) => apiKey === null)).toHaveLength(1)
    expect(rows).toHaveLength(ROWS)
  })

  it('is one under a version that was pruned, but not all of a user whose keys were lost', async () => {
    const { envelope, db, schema } = app
    const { vault } = schema
    await envelope.rotateUserKey('alice')
    const old = await tokenOf(BROKEN)
    await envelope.scope('alice', () => db.update(vault).set({ apiKey: 'newer', data: null }))
    await store('api_key', old)
    await app.rows("delete from encryption_keys where user_id = 'alice' and version = 1")
    const codes: string[] = []
    const note: OnUnreadable = ({ error }) => codes.push(`${error.code} ${error.message}`)
    const fresh = await freshService(app.url, { masterKeys: app.masterKeys, cache: false })
    try {
      const rows = await fresh.scope('alice', () => db.select().from(vault), { onUnreadable: note })
      expect(codes).toEqual([expect.stringMatching(/^ERR_KEY_NOT_FOUND .*version 1 .*not there any more/)])
      expect(rows.filter(({ apiKey }) => apiKey === 'newer')).toHaveLength(ROWS - 1)
    } finally {
      await fresh.close()
    }
    const lost = envelope.scope(
      'alice',
      async () => {
        await app.rows("delete from encryption_keys where user_id = 'alice'")
        await envelope.decrypt('alice', withVersion(old, 9)).catch(() => {})
        return db.select().from(vault)
      },
      { onUnreadable: () => 'never' },
    )
    expect(await columnErrorOf(() => lost)).toMatchObject({
      code: 'ERR_KEY_NOT_FOUND',
      message: expect.stringMatching(/lost/),
    })
  })

  it('is every value of a user who is shredded meanwhile', async () => {
    const { envelope, db, schema } = app
    const codes = new Set<string>()
    const rows = await envelope.scope(
      'alice',
      async () => {
        await envelope.shredUser('alice')
        return db.select().from(schema.vault)
      },
      {
        onUnreadable({ error }) {
          codes.add(error.code)
          return null
        },
      },
    )
    expect([...codes]).toEqual(['ERR_KEY_SHREDDED'])
    expect(rows.map(({ apiKey }) => apiKey)).toEqual(Array(ROWS).fill(null))
  })

  it('follows the scope whose key it needs, and options are checked before a key is read', async () => {
    const { envelope, db, schema } = app
    const { vault } = schema
    await store('api_key', 'leftover')
    await app.rows(`update vault set shared = 'leftover'`)
    const readVault = () => db.select().from(vault).where(eq(vault.id, BROKEN))
    const [row] = await envelope.scope(
      'alice',
      () => envelope.pool.scope(readVault, { onUnreadable: 'marker' }),
      { onUnreadable: 'null' },
    )
    expect(row?.apiKey).toBeNull()
    expect(isUnreadable(row?.shared)).toBe(true)
    const inner = () =>
      envelope.scope('alice', () => envelope.pool.scope(readVault, { onUnreadable: 'null' }))
    expect(await columnErrorOf(inner)).toMatchObject({ column: 'vault.api_key' })
    for (const onUnreadable of ['ignore', null, {}])
      for (const scope of [
        () => envelope.scope('nobody', readVault, { onUnreadable: onUnreadable as never }),
        () => envelope.pool.scope(readVault, { onUnreadable: onUnreadable as never }),
      ])
        expect(await columnErrorOf(scope)).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    expect(await db.select({ n: sql`count(*)` }).from(sql`vault`)).toHaveLength(1)
  })
})
