/** encryptedFields on Postgres drivers other than node-postgres, which differ in what they make of JSON. */
import { eq, sql } from 'drizzle-orm'
import { integer, pgTable, text } from 'drizzle-orm/pg-core'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { encryptedFields } from '../../src/drizzle/postgres.js'
import { drizzleSource, reencrypt } from '../../src/reencrypt/index.js'
import { freshStoreOfEachTest } from '../support/fresh-store.js'
import { type DriverDatabase, freshDriverDatabase, postgresDrivers } from '../support/postgres-drivers.js'

interface Settings {
  readonly model: string
  readonly apiKey?: string
}

const paths = ['apiKey'] as const
const integrations = pgTable('integrations', {
  id: integer('id').primaryKey(),
  userId: text('user_id').notNull(),
  inJsonb: encryptedFields<Settings>('in_jsonb', { context: 'integrations.in_jsonb', paths }),
  inJson: encryptedFields<Settings>('in_json', { context: 'integrations.in_json', paths, type: 'json' }),
})

describe.each(postgresDrivers)('encryptedFields on %s', (driver) => {
  const of = freshStoreOfEachTest('memory')
  let host: DriverDatabase
  beforeEach(async () => {
    host = await freshDriverDatabase(driver)
    await host.query(
      'create table integrations (id int primary key, user_id text not null, in_jsonb jsonb, in_json json)',
    )
  })
  afterEach(() => host.remove())

  it('are written, read, queried and swept', async () => {
    const { db } = host
    const envelope = await of.test.open()
    const value = { model: 'gpt', apiKey: 'sk-1' }
    await envelope.scope('alice', () =>
      db.insert(integrations).values({ id: 1, userId: 'alice', inJsonb: value, inJson: value }),
    )
    const big = '{"id": 12345678901234567890, "model": "gpt", "apiKey": "plain"}'
    await host.query(`insert into integrations values (2, 'alice', '${big}', '${big}')`)
    const read = () =>
      envelope.scope('alice', () =>
        db
          .select()
          .from(integrations)
          .where(eq(sql`${integrations.inJsonb} ->> 'model'`, 'gpt'))
          .orderBy(integrations.id),
      )
    const source = drizzleSource(db, integrations, {
      key: 'id',
      owner: 'userId',
      columns: ['inJsonb', 'inJson'],
    })
    expect(await reencrypt({ envelope, source, plaintext: true })).toMatchObject({ changed: 2, left: 0 })
    expect(await read()).toMatchObject([
      { id: 1, inJsonb: value, inJson: value },
      { id: 2, inJsonb: { model: 'gpt', apiKey: 'plain' }, inJson: { apiKey: 'plain' } },
    ])
    const rows = await host.query(
      'select in_jsonb::text as b, in_json::text as j from integrations order by id',
    )
    for (const { b, j } of rows)
      for (const stored of [b, j]) expect(stored).toMatch(/"apiKey": ?"v3:[\w-]{102,}"/)
    for (const stored of [rows[1]?.b, rows[1]?.j]) expect(stored).toContain('12345678901234567890')
  })
})
