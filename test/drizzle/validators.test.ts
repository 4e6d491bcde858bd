/** Schemas that drizzle-zod, drizzle-valibot and drizzle-typebox make of tables with encrypted columns: they check the plaintext. */
import { type TSchema, Type } from '@sinclair/typebox'
import { Value } from '@sinclair/typebox/value'
import { integer as pgInteger, pgTable } from 'drizzle-orm/pg-core'
import { integer, sqliteTable } from 'drizzle-orm/sqlite-core'
import * as ofTypebox from 'drizzle-typebox'
import * as ofValibot from 'drizzle-valibot'
import * as ofZod from 'drizzle-zod'
import * as v from 'valibot'
import { describe, expect, it } from 'vitest'
import { z } from 'zod/v4'
import * as onPostgres from '../../src/drizzle/postgres.js'
import * as onSqlite from '../../src/drizzle/sqlite.js'

const inSqlite = sqliteTable('credentials', {
  id: integer('id').primaryKey(),
  apiKey: onSqlite.encryptedText('api_key', { context: 'credentials.api_key' }).notNull(),
  note: onSqlite.encryptedText({ context: 'credentials.note' }),
  settings: onSqlite.encryptedJson<{ model: string }>({ context: 'credentials.settings' }).notNull(),
  backup: onSqlite.tokenText('backup'),
  fingerprint: onSqlite.fingerprintText('fingerprint', { of: 'apiKey' }),
})
const inPostgres = pgTable('credentials', {
  id: pgInteger('id').primaryKey(),
  apiKey: onPostgres.encryptedText('api_key', { context: 'credentials.api_key' }).notNull(),
  note: onPostgres.encryptedText({ context: 'credentials.note' }),
  settings: onPostgres.encryptedJson<{ model: string }>({ context: 'credentials.settings' }).notNull(),
  backup: onPostgres.tokenText('backup'),
  fingerprint: onPostgres.fingerprintText('fingerprint', { of: 'apiKey' }),
})

type Accepts = (value: unknown) => boolean
const byZod =
  (schema: z.ZodType): Accepts =>
  (value) =>
    schema.safeParse(value).success
const byValibot =
  (schema: v.GenericSchema): Accepts =>
  (value) =>
    v.safeParse(schema, value).success
const byTypebox =
  (schema: TSchema): Accepts =>
  (value) =>
    Value.Check(schema, value)
const tables = [
  ['SQLite', inSqlite],
  // Both have the same types of rows.
  ['Postgres', inPostgres as unknown as typeof inSqlite],
] as const

describe.each(tables)('schemas of a table on %s', (_, table) => {
  const model = { model: 'm' }
  const refinedByZod = ofZod.createInsertSchema(table, {
    apiKey: (key) => key.min(3),
    settings: z.object({ model: z.string() }),
  })
  const makers = [
    {
      name: 'drizzle-zod',
      insert: byZod(ofZod.createInsertSchema(table)),
      update: byZod(ofZod.createUpdateSchema(table)),
      select: byZod(ofZod.createSelectSchema(table)),
      refined: byZod(refinedByZod),
    },
    {
      name: 'drizzle-valibot',
      insert: byValibot(ofValibot.createInsertSchema(table)),
      update: byValibot(ofValibot.createUpdateSchema(table)),
      select: byValibot(ofValibot.createSelectSchema(table)),
      refined: byValibot(
        ofValibot.createInsertSchema(table, {
          apiKey: (key) => v.pipe(key, v.minLength(3)),
          settings: v.object({ model: v.string() }),
        }),
      ),
    },
    {
      name: 'drizzle-typebox',
      insert: byTypebox(ofTypebox.createInsertSchema(table)),
      update: byTypebox(ofTypebox.createUpdateSchema(table)),
      select: byTypebox(ofTypebox.createSelectSchema(table)),
      refined: byTypebox(
        ofTypebox.createInsertSchema(table, {
          apiKey: (key) => ({ ...key, minLength: 3 }),
          settings: Type.Object({ model: Type.String() }),
        }),
      ),
    },
  ]

  it.each(makers)(
    '$name takes strings for text and tokens, and JSON for JSON',
    ({ insert, update, select }) => {
      const row = { id: 1, apiKey: 'sk-1', note: null, settings: model, backup: 'v3:…', fingerprint: null }
      expect([insert(row), update(row), select(row)]).toEqual([true, true, true])
      expect([insert({ id: 1, apiKey: 'sk-1', settings: [1, 'two', null] }), update({}), select({})]).toEqual(
        [true, true, false],
      )
      for (const wrong of [
        { apiKey: 123 },
        { note: 123 },
        { note: {} },
        { backup: 123 },
        { fingerprint: 123 },
        { apiKey: null },
      ]) {
        for (const accepts of [insert, update, select])
          expect(accepts({ ...row, ...wrong }), JSON.stringify(wrong)).toBe(false)
      }
      for (const wrong of [{ settings: () => 1 }, { settings: 1n }])
        expect(insert({ ...row, ...wrong })).toBe(false)
    },
  )

  it.each(makers)('$name refines them like its own columns', ({ refined }) => {
    expect(refined({ id: 1, apiKey: 'sk-1', settings: model })).toBe(true)
    expect(refined({ id: 1, apiKey: 'sk', settings: model })).toBe(false)
    expect(refined({ id: 1, apiKey: 'sk-1', settings: { model: 1 } })).toBe(false)
  })
})
