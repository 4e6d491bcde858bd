/** The seam by which a column sees the row that Drizzle writes: every way of writing, on both dialects. */
import Database from 'better-sqlite3'
import { eq, sql } from 'drizzle-orm'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
import { PgDialect, integer as pgInteger, pgTable, text as pgText } from 'drizzle-orm/pg-core'
import { integer, SQLiteDialect, sqliteTable, text } from 'drizzle-orm/sqlite-core'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { setRowRule, type WrittenRow, watchWrites } from '../../src/drizzle/written-row.js'
import { dialects, freshDatabase } from '../support/databases.js'
import { errorOf } from '../support/errors.js'

let made = 0
const make = () => `made ${++made}`
const pgTables = () =>
  pgTable('words', {
    // Derived from columns on both sides of it.
    pair: pgText('pair_of'),
    id: pgInteger('id').primaryKey(),
    left: pgText('left_word').$defaultFn(make),
    right: pgText('right_word'),
    plain: pgText('plain'),
  })
const sqliteTables = () =>
  sqliteTable('words', {
    pair: text('pair_of'),
    id: integer('id').primaryKey(),
    left: text('left_word').$defaultFn(make),
    right: text('right_word'),
    plain: text('plain'),
  })
const DDL =
  'create table words (pair_of text, id integer primary key, left_word text, right_word text, plain text)'

describe.each(dialects)('the row that is written on %s', (dialect) => {
  let words: ReturnType<typeof pgTables>
  let db: ReturnType<typeof drizzlePostgres>
  let close: () => Promise<void>
  let seen: string[]

  beforeEach(async () => {
    made = 0
    seen = []
    const database = await freshDatabase(dialect)
    if (dialect === 'sqlite') {
      const client = new Database(database.url)
      client.exec(DDL)
      db = drizzleSqlite({ client }) as never
      words = sqliteTables() as never
      watchWrites(SQLiteDialect.prototype)
      close = async () => {
        client.close()
        await database.remove()
      }
    } else {
      const pool = new pg.Pool({ connectionString: database.url, max: 2 })
      await pool.query(DDL)
      db = drizzlePostgres({ client: pool })
      words = pgTables()
      watchWrites(PgDialect.prototype)
      close = async () => {
        await pool.end()
        await database.remove()
      }
    }
    setRowRule(words, 'pair', () => {
      throw new Error('this rule is replaced by the next')
    })
    setRowRule(words, 'pair', pairRule)
  })
  afterEach(() => close())

  /** Fills `pair` with what `right` holds, in capitals. */
  function pairRule(row: WrittenRow): void {
    const right = row.read('right')
    seen.push(`${row.statement} ${right.kind}`)
    row.onEncode('left', (value) => seen.push(`left ${value}`))
    if ('value' in right) row.write('pair', right, (value) => String(value).toUpperCase())
  }

  const rows = () => db.select().from(words).orderBy(words.id)

  it('is read and written in inserts of one row and of many, whatever the order of columns', async () => {
    await db.insert(words).values([
      { id: 1, left: 'l', right: 'r' },
      { id: 2, right: null },
      { id: 3, right: 'other' },
      { id: 4, left: sql`'expression'`, right: sql`'unseen'` },
    ])
    expect(await rows()).toEqual([
      { pair: 'R', id: 1, left: 'l', right: 'r', plain: null },
      { pair: null, id: 2, left: 'made 1', right: null, plain: null },
      { pair: 'OTHER', id: 3, left: 'made 2', right: 'other', plain: null },
      { pair: null, id: 4, left: 'expression', right: 'unseen', plain: null },
    ])
    expect(new Set(seen)).toEqual(
      new Set(['insert value', 'insert unseen', 'left l', 'left made 1', 'left made 2']),
    )
  })

  it('is read and written in updates and upserts, and only if its columns are', async () => {
    await db.insert(words).values({ id: 1, right: 'r' })
    await db.update(words).set({ plain: 'p' })
    expect((await rows())[0]).toMatchObject({ pair: 'R', plain: 'p' })
    await db.update(words).set({ right: 'new' }).where(eq(words.id, 1))
    expect((await rows())[0]).toMatchObject({ pair: 'NEW' })
    await db.update(words).set({ right: null })
    expect((await rows())[0]).toMatchObject({ pair: null })
    const upserted = await db
      .insert(words)
      .values({ id: 1, right: 'x' })
      .onConflictDoUpdate({ target: words.id, set: { right: 'upserted' } })
      .returning()
    expect(upserted).toMatchObject([{ id: 1, right: 'upserted', pair: 'UPSERTED' }])
    expect(seen).toContain('update absent')
  })

  it('has the placeholders of each execution of a prepared statement', async () => {
    const insert = db
      .insert(words)
      .values({ id: sql.placeholder('id'), left: 'constant', right: sql.placeholder('right') })
      .prepare('insert_words')
    await insert.execute({ id: 1, right: 'one' })
    await insert.execute({ id: 2, right: null })
    await insert.execute({ id: 3, right: 'three' })
    expect((await rows()).map(({ right, left }) => [right, left])).toEqual([
      ['one', 'constant'],
      [null, 'constant'],
      ['three', 'constant'],
    ])
    expect(
      (await rows()).filter(({ pair, right }) => right !== null && pair !== right?.toUpperCase()),
    ).toEqual([])
  })

  it('is unseen in insert … select, of which the rule is told', async () => {
    await db.insert(words).values({ id: 1, right: 'r' })
    seen = []
    const { pair, left, right, plain } = words
    await db
      .insert(words)
      .select(db.select({ pair, id: sql`2`.as('id'), left, right, plain }).from(words) as never)
    expect(seen).toEqual(['insert-select unseen'])
  })

  it('leaves tables without a rule alone, and refuses a property that there is not', async () => {
    const other = dialect === 'sqlite' ? (sqliteTables() as never as typeof words) : pgTables()
    await db.insert(other).values({ id: 1, right: 'r' })
    expect((await rows())[0]).toMatchObject({ right: 'r', pair: null })
    setRowRule(words, 'pair', (row) => row.read('nothing'))
    expect(await errorOf((async () => await db.update(words).set({ right: 'x' }))())).toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
    })
  })
})
