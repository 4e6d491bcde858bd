/** What a role that may CREATE in a schema of our search_path has planted there is never run: each name of Postgres's own has its schema. */
import { drizzle } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import { sqlSource } from '../../../src/sources/sql.js'
import { isAnything, isExactly, listenTo } from '../../support/change-listener.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { asAdmin, type FreshDatabase, freshDatabase, isChosen } from '../../support/databases.js'
import { errorOf } from '../../support/errors.js'
import { storeMaintenance } from '../../support/maintenance.js'
import { PLANTED, plantNames } from '../../support/planted-names.js'
import { type FreshRole, freshRole } from '../../support/postgres-roles.js'
import { randomRecord } from '../../support/rows.js'

describe.runIf(isChosen('postgres'))('names that another role has planted', () => {
  const cleanups = cleanUpAfterEach()
  let database: FreshDatabase
  let planter: FreshRole
  let application: FreshRole
  // Once for all tests: it takes seconds.
  beforeAll(async () => {
    database = await freshDatabase('postgres')
    planter = await freshRole(database.url, ['grant create, usage on schema public to ROLE'])
    await plantNames(planter.url)
    application = await freshRole(database.url, [
      'grant create, usage on schema public to ROLE',
      'alter role ROLE set search_path = public, pg_catalog',
    ])
  })
  afterAll(async () => {
    await application?.remove()
    await planter?.remove()
    await database?.remove()
  })

  it('are run by whoever names no schema', async () => {
    const client = new pg.Client(application.url)
    await client.connect()
    cleanups.add(() => client.end())
    for (const statement of [
      `select json_build_array('x'::pg_catalog.text)`,
      `select * from unnest(array['x']::pg_catalog.text[])`,
      `select set_config('a.b', 'c', true)`,
      `select pg_notify('a', 'b')`,
      `select 'x'::pg_catalog.text = 'x'::pg_catalog.text`,
      `select 1 - 1`,
      `select 'x'::pg_catalog.text in ('x'::pg_catalog.text)`,
      `select '\\x00'::pg_catalog.bytea = '\\x00'::pg_catalog.bytea`,
      'select count(*)',
      `select 'x'::text`,
      'select relname from pg_class',
    ])
      expect((await errorOf(client.query(statement))).message, statement).toMatch(
        new RegExp(`${PLANTED}|does not exist|invalid input`),
      )
  })

  it('are not run by the store, its migrator and its maintenance', async () => {
    const store = cleanups.closing(postgresKeyStore({ url: application.url }))
    expect((await store.ready()).applied).toHaveLength(5)
    const listener = listenTo(store)
    await listener.next(isAnything)
    const row = randomRecord('alice', { kekId: 'k' })
    const bob = randomRecord('bob')
    const rows = [row, randomRecord('alice', { version: 2, kekId: 'k' }), bob]
    expect(await store.insertIfAbsent(rows)).toHaveLength(3)
    await listener.next(isExactly('alice'))
    expect((await store.getAll(['alice'])).get('alice')).toHaveLength(2)
    expect((await store.getAll(['alice', 'bob'])).size).toBe(2)
    expect((await store.getActive(['alice', 'bob'])).get('alice')?.version).toBe(2)
    expect((await store.getActive(['bob'])).size).toBe(1)
    const change = { ...row, from: row.encryptedKey, encryptedKey: new Uint8Array(60), wrappedAt: new Date() }
    expect(await store.replaceWrapped([change])).toHaveLength(1)
    expect(await store.list({ limit: 2 })).toHaveLength(2)
    expect(await store.list({ limit: 2, notKekId: 'k', after: row })).toHaveLength(1)
    expect(await store.list({ limit: 2, kekId: 'k' })).toHaveLength(2)
    expect(await store.list({ limit: 2, kekId: null })).toHaveLength(1)
    expect(await store.replaceWrapped([{ ...change, whileLive: bob }])).toHaveLength(1)
    expect(await store.sampleByKek(1)).toHaveLength(2)
    expect(await store.census({ rootIds: ['k'] })).toHaveLength(3)
    expect((await storeMaintenance(store).countUnder(['k'])).get('k')).toBe(2)
    expect((await store.shred('alice', { forget: false })).versions).toEqual([1, 2])
    expect((await store.shred('nobody', { forget: false })).versions).toEqual([])
    expect((await store.shred('nobody', { forget: true })).versions).toEqual([])
    expect(await store.remove([row])).toBe(1)
    const maintenance = storeMaintenance(store)
    expect(await maintenance.restore([randomRecord('carol'), randomRecord('alice')])).toHaveLength(2)
    expect(await maintenance.datedCensus()).toHaveLength(2)
    for (const { reason } of await maintenance.inspect()) expect(reason).toContain('fsync')
    expect(await maintenance.finishErasure()).toEqual({ erased: 'file', pending: null })

    for (const migrate of ['check', 'off'] as const) {
      const other = cleanups.closing(postgresKeyStore({ url: application.url }, { migrate }))
      expect((await other.ready()).applied).toEqual([])
      await storeMaintenance(other).inspect()
    }
    const pool = new pg.Pool({ connectionString: application.url })
    cleanups.add(() => pool.end())
    await drizzle({ client: pool }).transaction(async (tx) => {
      expect(await postgresKeyStore({ db: tx }).insertIfAbsent([randomRecord('dave')])).toHaveLength(1)
    })
  })

  it.each([
    ['text', `'k1', 'k2', 'k3'`],
    ['integer', '1, 2, 3'],
    ['varchar(20)', `'k1', 'k2', 'k3'`],
    ['character(4)', `'k1', 'k2', 'k3'`],
    ['uuid', [1, 2, 3].map((n) => `'00000000-0000-0000-0000-00000000000${n}'`).join(', ')],
    ['timestamp with time zone', [1, 2, 3].map((n) => `'2026-01-0${n}'`).join(', ')],
    ['numeric(10,2)', '1.5, 2.5, 3.5'],
  ])('are not run by the sweep: a key of %s', async (type, keys) => {
    const sqlType = type
      .replace(/^(text|uuid)/, 'pg_catalog.$1')
      .replace('varchar', 'character varying')
      .replace('numeric', 'numeric')
    cleanups.add(() => asAdmin(application.url, 'drop table secrets'))
    await asAdmin(
      application.url,
      `create table secrets (id ${sqlType} not null, part integer not null, owner pg_catalog.text, value pg_catalog.text, primary key (id, part))`,
      ...keys.split(', ').map((key) => `insert into secrets values (${key}, 1, 'alice', 'old')`),
    )
    const options = { table: 'secrets', owner: 'owner', column: 'value', key: ['id', 'part'] }
    const source = cleanups.closing(await sqlSource(application.url, options))
    const cells = []
    for await (const page of source.pages({ limit: 1 })) cells.push(...page)
    expect(cells).toHaveLength(3)
    expect(await source.count?.()).toBe(3)
    const changes = cells.map(({ key, column }) => ({ key, column, owner: 'alice', from: 'old', to: 'new' }))
    expect(await source.replace(changes)).toHaveLength(3)
    expect(await source.replace(changes)).toHaveLength(0)
  })
})
