/** Our table as Postgres stores it: one table, or with partitions, and with partitions of these. */
import { type SQL, sql } from 'drizzle-orm'
import { printable } from '../../errors.js'
import { encryptionKeysDeclaration } from '../../table.js'
import { castTo, DIFFERS, EQUALS, GREATER } from './catalog.js'
import type { RunSql } from './migrate.js'

/** The common table expression `family(oid)`: our table, its partitions and the tables that inherit from it. To follow `with recursive`. */
export function familyOf(schema: string): SQL {
  return sql`family(oid) as (
      select c.oid from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid ${EQUALS} c.relnamespace
        where n.nspname ${EQUALS} ${schema} and c.relname ${EQUALS} ${encryptionKeysDeclaration.name}
      union
      select i.inhrelid from family f join pg_catalog.pg_inherits i on i.inhparent ${EQUALS} f.oid)`
}

export interface FamilyTable {
  readonly schema: string
  readonly name: string
  /** Whether it has rows, here or on another server. */
  readonly hasRows: boolean
  /** The index by which it can be rewritten; null if it has none. */
  readonly index: string | null
  /** Whether ANALYZE takes samples of wrapped keys: settings of a table's columns are not inherited by partitions that are made later. */
  readonly isSampled: boolean
}

/** Our table, and its partitions if it has any. Foreign tables too, which cannot be rewritten from here: without an index. */
export async function familyTables(run: RunSql, schema: string): Promise<FamilyTable[]> {
  // CLUSTER takes neither partial indexes nor those that cannot be scanned in order (postgresql.org/docs/current/sql-cluster.html).
  const rows = await run(sql`with recursive ${familyOf(schema)}
    select n.nspname${castTo('text')} as schema, c.relname${castTo('text')} as name,
      c.relkind ${EQUALS} 'f' or (c.relkind ${EQUALS} 'r' and pg_catalog.pg_relation_size(c.oid) ${GREATER} 0) as "hasRows",
      exists (select 1 from pg_catalog.pg_attribute a where a.attrelid ${EQUALS} c.oid and ${isSampled(sql`a`)}) as "isSampled", (
        select i.relname${castTo('text')} from pg_catalog.pg_index x join pg_catalog.pg_class i on i.oid ${EQUALS} x.indexrelid
          join pg_catalog.pg_am a on a.oid ${EQUALS} i.relam
          where x.indrelid ${EQUALS} c.oid and x.indisvalid and x.indpred is null and a.amname ${EQUALS} 'btree'
          order by x.indisprimary desc, x.indisunique desc, i.relname limit 1) as index
      from family f join pg_catalog.pg_class c on c.oid ${EQUALS} f.oid join pg_catalog.pg_namespace n on n.oid ${EQUALS} c.relnamespace
      order by 1, 2`)
  return rows.map(({ schema: own, name, hasRows, index, isSampled }) => ({
    schema: String(own),
    name: String(name),
    hasRows: hasRows === true,
    index: index === null ? null : String(index),
    isSampled: isSampled === true,
  }))
}

/** Whether a row of pg_attribute is the column of wrapped keys, and ANALYZE takes samples of it. */
export function isSampled(attribute: SQL): SQL {
  return sql`${attribute}.attname ${EQUALS} ${encryptionKeysDeclaration.columns.encryptedKey.name}
    and (${attribute}.attstattarget is null or ${attribute}.attstattarget ${DIFFERS} 0)`
}

/** How a table is named in errors and statements. */
export type TableName = Pick<FamilyTable, 'schema' | 'name'>

/** As it is written in a statement that an operator is to run: names may have capitals, quotes and semicolons. */
export function quotedTable({ schema, name }: TableName): string {
  return `${quotedName(schema)}.${/^[a-z_][a-z_0-9]*$/.test(name) ? name : quotedName(name)}`
}

/** The same in a literal, such as for regclass. It begins with E where it has a backslash, which some settings take for an escape. */
export function tableLiteral(table: TableName): string {
  const text = quotedTable(table).replaceAll("'", "''")
  return text.includes('\\') ? `E'${text.replaceAll('\\', '\\\\')}'` : `'${text}'`
}

// postgresql.org/docs/current/sql-syntax-lexical.html, "Quoted identifiers".
function quotedName(name: string): string {
  return `"${printable(name.replaceAll('"', '""'))}"`
}
