/** Finds what may copy wrapped keys out of our table, where an erasure does not reach: triggers, rules, publications. */
import { sql } from 'drizzle-orm'
import { printable } from '../../errors.js'
import { encryptionKeysDeclaration } from '../../table.js'
import { copiedBy } from '../erasure.js'
import { DIFFERS, EQUALS } from './catalog.js'
import type { RunSql } from './migrate.js'

/** Why erased keys may still be elsewhere, or null. Looks at the table with its partitions and the tables that inherit from it. */
export async function copiersOf(run: RunSql, schema: string): Promise<string | null> {
  const rows = await run(sql`with recursive family(oid, nspname, relname) as (
      select c.oid, n.nspname, c.relname from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid ${EQUALS} c.relnamespace
        where n.nspname ${EQUALS} ${schema} and c.relname ${EQUALS} ${encryptionKeysDeclaration.name}
      union all
      select c.oid, n.nspname, c.relname from family f join pg_catalog.pg_inherits i on i.inhparent ${EQUALS} f.oid
        join pg_catalog.pg_class c on c.oid ${EQUALS} i.inhrelid join pg_catalog.pg_namespace n on n.oid ${EQUALS} c.relnamespace)
    select pg_catalog.concat('trigger ', t.tgname) as copier from pg_catalog.pg_trigger t join family f on t.tgrelid ${EQUALS} f.oid
      where not t.tgisinternal
    union all
    select pg_catalog.concat('rule ', r.rulename) from pg_catalog.pg_rewrite r join family f on r.ev_class ${EQUALS} f.oid
      where r.rulename ${DIFFERS} '_RETURN'
    union all
    select pg_catalog.concat('publication ', p.pubname) from pg_catalog.pg_publication_tables p
      join family f on p.schemaname ${EQUALS} f.nspname and p.tablename ${EQUALS} f.relname
    order by 1`)
  const copiers = new Set(rows.map(({ copier }) => printable(String(copier))))
  return copiers.size === 0 ? null : copiedBy([...copiers])
}
