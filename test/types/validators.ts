/** Compiled, never run: the types that drizzle-zod and its like infer of encrypted columns are those of the plaintexts. */

import type { Static } from '@sinclair/typebox'
import { integer as pgInteger, pgTable } from 'drizzle-orm/pg-core'
import { integer, sqliteTable } from 'drizzle-orm/sqlite-core'
import * as ofTypebox from 'drizzle-typebox'
import * as ofValibot from 'drizzle-valibot'
import * as ofZod from 'drizzle-zod'
import type { InferInput } from 'valibot'
import type { z } from 'zod/v4'
import * as onPostgres from '../../src/drizzle/postgres.js'
import * as onSqlite from '../../src/drizzle/sqlite.js'

const inSqlite = sqliteTable('t', {
  id: integer('id').primaryKey(),
  apiKey: onSqlite.encryptedText('api_key', { context: 't.api_key' }).notNull(),
  note: onSqlite.encryptedText({ context: 't.note' }),
  data: onSqlite.encryptedJson<{ n: number }>('data', { context: 't.data' }),
  token: onSqlite.tokenText(),
})
const inPostgres = pgTable('t', {
  id: pgInteger('id').primaryKey(),
  apiKey: onPostgres.encryptedText('api_key', { context: 't.api_key' }).notNull(),
  note: onPostgres.encryptedText({ context: 't.note' }),
  data: onPostgres.encryptedJson<{ n: number }>('data', { context: 't.data' }),
  token: onPostgres.tokenText(),
})
/** Both dialects, each package, and whether a property of the schema's type is exactly this one. */
const zod = [ofZod.createInsertSchema(inSqlite), ofZod.createInsertSchema(inPostgres)] as const
const valibot = [ofValibot.createInsertSchema(inSqlite), ofValibot.createInsertSchema(inPostgres)] as const
const typebox = [ofTypebox.createInsertSchema(inSqlite), ofTypebox.createInsertSchema(inPostgres)] as const
type Schemas =
  | z.infer<(typeof zod)[number]>
  | InferInput<(typeof valibot)[number]>
  | Static<(typeof typebox)[number]>
type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false

export const proofs: readonly true[] = [
  true satisfies Equal<Schemas['apiKey'], string>,
  true satisfies Equal<Schemas['note'], string | null | undefined>,
  true satisfies Equal<Schemas['data'], { n: number } | null | undefined>,
  true satisfies Equal<Schemas['token'], string | null | undefined>,
  // @ts-expect-error this control shows that other types are told apart
  true satisfies Equal<Schemas['apiKey'], unknown>,
]
