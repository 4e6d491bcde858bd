/** The two schemas are one, and the migrations make it. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  generateDrizzleJson,
  generateMigration,
  generateSQLiteDrizzleJson,
  generateSQLiteMigration,
} from 'drizzle-kit/api'
import { getTableColumns, is, Table } from 'drizzle-orm'
import { describe, expect, expectTypeOf, it } from 'vitest'
import * as postgres from '../src/schema/postgres.js'
import * as sqlite from '../src/schema/sqlite.js'

type Rows<Schema> = {
  [Name in keyof Schema]: Schema[Name] extends { $inferSelect: infer Row; $inferInsert: infer New }
    ? [Row, New]
    : never
}
const columnsOf = (schema: object) =>
  Object.entries(schema)
    .filter(([, table]) => is(table, Table))
    .map(([name, table]) => [
      name,
      Object.entries(getTableColumns(table as Table)).map(([property, column]) => [
        property,
        column.name,
        column.notNull,
      ]),
    ])

describe('the schema', () => {
  it('has the same tables and columns on both databases', () => {
    expect(columnsOf(postgres)).toEqual(columnsOf(sqlite))
    expect(columnsOf(sqlite)).toHaveLength(6)
    // database.ts counts on it. Checked by the compiler.
    expectTypeOf<Rows<typeof postgres>>().toEqualTypeOf<Rows<typeof sqlite>>()
  })

  it('is what the migrations make', async () => {
    const snapshot = (dialect: string) =>
      JSON.parse(
        readFileSync(
          join(import.meta.dirname, '..', 'migrations', dialect, 'meta', '0000_snapshot.json'),
          'utf8',
        ),
      )
    expect(
      await generateSQLiteMigration(snapshot('sqlite'), await generateSQLiteDrizzleJson(sqlite)),
    ).toEqual([])
    expect(await generateMigration(snapshot('postgres'), generateDrizzleJson(postgres))).toEqual([])
  })
})
