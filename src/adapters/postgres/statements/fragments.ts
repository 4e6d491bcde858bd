/**
 * What the statements on one schema share: the table, and pieces of SQL. `:name` stands for a placeholder, to which each run gives
 * a value.
 */
import { type SQL, sql } from 'drizzle-orm'
import type { KeyRecord } from '../../../table.js'
import type { AnyPostgresDb } from '../access.js'
import { castTo, EQUALS } from '../catalog.js'
import { encryptionKeysIn } from '../schema.js'

export type Fragments = ReturnType<typeof fragmentsFor>

export function fragmentsFor(db: AnyPostgresDb, schema: string, channel: string) {
  const keys = encryptionKeysIn(schema)
  /**
   * Notifies the listeners of a row's user. Part of the statement that changes the row, so that Postgres sends it when that
   * commits, and not at all if it is rolled back.
   */
  const notify = sql<string>`pg_catalog.pg_notify(${sql.raw(`'${channel}'`)},
    pg_catalog.json_build_array(${keys.userId})${castTo('text')})`
  return {
    db,
    keys,
    isLive: sql`${keys.shreddedAt} is null`,
    /** The rows of `:userId`. */
    isUser: sql`${keys.userId} ${EQUALS} ${sql.placeholder('userId')}`,
    notify,
    notifyIf: (condition: SQL) => sql<string | null>`case when ${condition} then ${notify} end`,
    /** Selects whole rows from a subquery. Drizzle itself selects columns only of tables that it knows to be in the query. */
    selectFrom: (subquery: SQL) => db.select(wholeRow(keys)).from(subquery),
  }
}

function wholeRow(keys: ReturnType<typeof encryptionKeysIn>) {
  const field = <K extends keyof KeyRecord>(column: K) =>
    sql<KeyRecord[K]>`${sql.identifier(keys[column].name)}`.mapWith(
      (value) => keys[column].mapFromDriverValue(value) as KeyRecord[K],
    )
  return {
    userId: field('userId'),
    version: field('version'),
    encryptedKey: field('encryptedKey'),
    kekId: field('kekId'),
    createdAt: field('createdAt'),
    wrappedAt: field('wrappedAt'),
    shreddedAt: field('shreddedAt'),
  }
}

type ArrayType = 'text[]' | 'integer[]' | 'timestamptz[]'

/** An array in a placeholder, to unnest. */
export function arrayOf(placeholder: string, type: ArrayType = 'text[]'): SQL {
  return sql`${sql.placeholder(placeholder)}${castTo(type)}`
}

/**
 * {@link arrayOf} as a subquery, whose length the planner cannot see. It then assumes a short array and finds each row by the primary
 * key. Else it would read a table of 100,000 rows as a whole for 1000 ids, and a larger one too while its statistics are out of date.
 */
export function shortArrayOf(placeholder: string, type?: ArrayType): SQL {
  return sql`(select ${arrayOf(placeholder, type)})`
}

/** `:ids`. The cast makes it one value: `any` of a bare subquery would compare with the subquery's rows. */
export const shortUserIds = sql`(${shortArrayOf('ids')})${castTo('text[]')}`

/** Arrays as the columns of rows. (`unnest` takes several arrays only under its bare name.) */
export function unnested(...arrays: readonly SQL[]): SQL {
  const columns = arrays.map((array) => sql`pg_catalog.unnest(${array})`)
  return sql`rows from (${sql.join(columns, sql`, `)})`
}
