/**
 * Names of Postgres's own operators and types, with their schema. An unqualified name is looked up along the session's search_path: a
 * role that may CREATE in a schema of that path could have its own `=` or `text` used by us (CVE-2018-1058,
 * wiki.postgresql.org/wiki/A_Guide_to_CVE-2018-1058). Functions are written out as `pg_catalog.name`. `in`, `case x when` and
 * `is distinct from` look up `=` in the same way, and are not used.
 */
import { type SQL, sql } from 'drizzle-orm'
import { MAKE_DURABLE as durability } from '../../drivers/postgres-durability.js'

/**
 * `operator(pg_catalog.=)` and so on. All of them bind as strongly as each other, more strongly than `is`, `not`, `and` and `or`: put
 * parentheses around an operand that has an operator of its own.
 */
export const EQUALS = sql.raw('operator(pg_catalog.=)')
export const DIFFERS = sql.raw('operator(pg_catalog.<>)')
export const LESS = sql.raw('operator(pg_catalog.<)')
export const NOT_GREATER = sql.raw('operator(pg_catalog.<=)')
export const GREATER = sql.raw('operator(pg_catalog.>)')
export const NOT_LESS = sql.raw('operator(pg_catalog.>=)')
export const MODULO = sql.raw('operator(pg_catalog.%)')
export const DIVIDED = sql.raw('operator(pg_catalog./)')
export const MINUS = sql.raw('operator(pg_catalog.-)')

/** A cast to a type of Postgres's own. */
export function castTo(
  type: 'text' | 'bytea' | 'timestamptz' | 'int8' | 'float8' | 'text[]' | 'integer[]' | 'timestamptz[]',
): SQL {
  // "integer" is a word of the grammar, and always means pg_catalog.int4.
  return sql.raw(type.startsWith('integer') ? `::${type}` : `::pg_catalog.${type}`)
}

/** See drivers/postgres-durability.ts. */
export const MAKE_DURABLE = sql.raw(durability)

/** {@link MAKE_DURABLE} as a condition that is always true. */
export const IS_DURABLE = sql`(select ${MAKE_DURABLE}) is not null`

/** The order of bytes, whatever the database's own collation is. */
export const BY_BYTES = sql.raw('collate pg_catalog."C"')
