/**
 * Finds what may copy wrapped keys out of our table, where an erasure does not reach: triggers, rules, materialized views, publications,
 * indexes, and statistics of which ANALYZE keeps samples.
 */
import { sql } from 'drizzle-orm'
import { printable } from '../../errors.js'
import { encryptionKeysDeclaration } from '../../table.js'
import { copiedBy } from '../erasure.js'
import { DIFFERS, EQUALS } from './catalog.js'
import { familyOf } from './family.js'
import type { RunSql } from './migrate.js'

/**
 * Why erased keys may still be elsewhere, or null. Looks at the table with its partitions and the tables that inherit from it; for
 * materialized views and publications also at the tables of which it is a partition or from which it inherits. A view is no copy, but a
 * materialized view may read our table through it.
 */
export async function copiersOf(run: RunSql, schema: string): Promise<string | null> {
  const { name, columns } = encryptionKeysDeclaration
  const rows = await run(sql`with recursive ${familyOf(schema)},
    lineage(oid) as (
      select c.oid from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid ${EQUALS} c.relnamespace
        where n.nspname ${EQUALS} ${schema} and c.relname ${EQUALS} ${name}
      union
      select i.inhparent from lineage l join pg_catalog.pg_inherits i on i.inhrelid ${EQUALS} l.oid),
    sources(oid) as (select oid from family union select oid from lineage),
    reading(oid, refoid, refcolumn) as (
      select r.ev_class, d.refobjid, d.refobjsubid from pg_catalog.pg_rewrite r
        join pg_catalog.pg_depend d on d.objid ${EQUALS} r.oid join pg_catalog.pg_class c on c.oid ${EQUALS} r.ev_class
        where d.classid ${EQUALS} 'pg_catalog.pg_rewrite'::pg_catalog.regclass
          and d.refclassid ${EQUALS} 'pg_catalog.pg_class'::pg_catalog.regclass
          and c.relkind ${EQUALS} any (array['v', 'm']::pg_catalog."char"[])),
    views(oid) as (
      select r.oid from reading r join sources s on r.refoid ${EQUALS} s.oid
        join pg_catalog.pg_attribute a on a.attrelid ${EQUALS} s.oid and a.attname ${EQUALS} ${columns.encryptedKey.name}
        where r.refcolumn ${EQUALS} 0 or r.refcolumn ${EQUALS} a.attnum
      union
      select r.oid from views v join reading r on r.refoid ${EQUALS} v.oid),
    readers(catalog, oid) as (
      select d.classid, d.objid from family f
        join pg_catalog.pg_attribute a on a.attrelid ${EQUALS} f.oid and a.attname ${EQUALS} ${columns.encryptedKey.name}
        join pg_catalog.pg_depend d on d.refobjid ${EQUALS} f.oid and d.refobjsubid ${EQUALS} a.attnum
        where d.refclassid ${EQUALS} 'pg_catalog.pg_class'::pg_catalog.regclass)
    select pg_catalog.concat('trigger ', t.tgname) as copier from pg_catalog.pg_trigger t join family f on t.tgrelid ${EQUALS} f.oid
      where not t.tgisinternal
    union all
    select pg_catalog.concat('rule ', r.rulename) from pg_catalog.pg_rewrite r join family f on r.ev_class ${EQUALS} f.oid
      where r.rulename ${DIFFERS} '_RETURN'
    union all
    select pg_catalog.concat('materialized view ', c.relname) from views v join pg_catalog.pg_class c on c.oid ${EQUALS} v.oid
      where c.relkind ${EQUALS} 'm'
    union all
    select pg_catalog.concat('index ', c.relname) from readers r join pg_catalog.pg_class c on c.oid ${EQUALS} r.oid
      where r.catalog ${EQUALS} 'pg_catalog.pg_class'::pg_catalog.regclass and c.relkind ${EQUALS} any (array['i', 'I']::pg_catalog."char"[])
    union all
    select pg_catalog.concat('statistics ', s.stxname) from readers r join pg_catalog.pg_statistic_ext s on s.oid ${EQUALS} r.oid
      where r.catalog ${EQUALS} 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass
    union all
    select pg_catalog.concat('publication ', p.pubname) from sources s join pg_catalog.pg_class c on c.oid ${EQUALS} s.oid
      join pg_catalog.pg_namespace n on n.oid ${EQUALS} c.relnamespace
      join pg_catalog.pg_publication_tables p on p.schemaname ${EQUALS} n.nspname and p.tablename ${EQUALS} c.relname
    order by 1`)
  const copiers = new Set(rows.map(({ copier }) => printable(String(copier))))
  return copiers.size === 0 ? null : copiedBy([...copiers])
}
