/**
 * What the statements on one schema share: the table, and pieces of SQL. `:name` stands for a placeholder, to which each run gives
 * a value.
 */
import { type SQL, type SQLWrapper, sql } from 'drizzle-orm'
import { type KeyRecord, TENANT_KEK_IDS } from '../../../table.js'
import type { AnyPostgresDb } from '../access.js'
import { BY_BYTES, castTo, EQUALS, LESS, NOT_LESS } from '../catalog.js'
import { encryptionKeysIn } from '../schema.js'

export type Fragments = ReturnType<typeof fragmentsFor>

/** @param channel null: nobody is notified */
export function fragmentsFor(db: AnyPostgresDb, schema: string, channel: string | null) {
  const keys = encryptionKeysIn(schema)
  /**
   * Notifies the listeners of a row's user. Part of the statement that changes the row, so that Postgres sends it when that
   * commits, and not at all if it is rolled back.
   */
  const notifyWith = (payload: SQL) =>
    channel === null
      ? sql<string | null>`null${castTo('text')}`
      : sql<string | null>`pg_catalog.pg_notify(${sql.raw(`'${channel}'`)}, ${payload}${castTo('text')})`
  const userIds = sql`pg_catalog.json_build_array(${keys.userId})`
  const notify = notifyWith(userIds)
  return {
    db,
    keys,
    isLive: sql`${keys.shreddedAt} is null`,
    isOfUser: isOfUser(keys.userId),
    /** The live rows in the index on KEK ids: those of users. */
    isLiveOfUser: sql`${keys.shreddedAt} is null and ${isOfUser(keys.userId)}`,
    /** As it is in the index on KEK ids. */
    kekIdByBytes: sql`${keys.kekId} ${BY_BYTES}`,
    /** Users' rows under tenants' keys. */
    isUnderTenant: sql`(${keys.kekId} ${BY_BYTES} ${NOT_LESS} ${text(TENANT_KEK_IDS.from)}
      and ${keys.kekId} ${BY_BYTES} ${LESS} ${text(TENANT_KEK_IDS.below)})`,
    /** The rows of `:userId`. */
    isUser: sql`${keys.userId} ${EQUALS} ${sql.placeholder('userId')}`,
    notify,
    /** {@link notify} for a user who is forgotten. */
    notifyForgotten: notifyWith(sql`pg_catalog.json_build_object('forgotten'${castTo('text')}, ${userIds})`),
    notifyIf: (condition: SQL) => sql<string | null>`case when ${condition} then ${notify} end`,
    /** Selects whole rows from a subquery. Drizzle itself selects columns only of tables that it knows to be in the query. */
    selectFrom: (subquery: SQL) => db.select(wholeRow(keys)).from(subquery),
    /** {@link selectFrom} with the stored bytes, for a table or a subquery. */
    selectBytesFrom: (source: SQL) => db.select(wholeRowWithBytes(keys)).from(source),
  }
}

/**
 * A text's bytes. In a database with the encoding SQL_ASCII a text may be any bytes, and as text Postgres sends only those that are UTF-8:
 * with others it refuses the whole answer (22021). It converts nothing there.
 */
export function bytesOf(text: SQLWrapper): SQL<Uint8Array> {
  const encoding = sql`case when pg_catalog.getdatabaseencoding()${castTo('text')} ${EQUALS} 'SQL_ASCII'${castTo('text')}
    then 'SQL_ASCII' else 'UTF8' end`
  return sql<Uint8Array>`pg_catalog.convert_to(${text}, (${encoding})::pg_catalog.name)`
}

/** The columns of a row, with texts as bytes and the version as text: nothing of them is refused or rounded. */
function wholeRowWithBytes(keys: ReturnType<typeof encryptionKeysIn>) {
  const { encryptedKey, createdAt, wrappedAt, shreddedAt } = wholeRow(keys)
  const column = (name: 'userId' | 'version' | 'kekId') => sql`${sql.identifier(keys[name].name)}`
  return {
    userId: bytesOf(column('userId')).as('user_id_bytes'),
    version: sql<string>`${column('version')}${castTo('text')}`.as('version_text'),
    kekId: sql<Uint8Array | null>`${bytesOf(column('kekId'))}`.as('kek_id_bytes'),
    ...{ encryptedKey, createdAt, wrappedAt, shreddedAt },
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

/** Whether a row is a user's or the pool's, and not a tenant's own: to the planner the same condition as in the index. */
function isOfUser(userId: SQLWrapper): SQL {
  return sql`(${userId} ${LESS} E'\\001' or ${userId} ${NOT_LESS} E'\\002')`
}

/** One of our constants as it stands in a statement. */
export function text(constant: string): SQL {
  return sql.raw(`'${constant}'`)
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
