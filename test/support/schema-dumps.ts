/** Dumps of a database's schema, to be compared with each other, and the migrations that make ours. */
import {
  type Migration,
  postgresMigrations,
  sqliteMigrations,
} from '../../src/adapters/generated/migrations.js'
import type { Dialect } from './databases.js'
import { connectRaw } from './raw-database.js'

export const migrationsOf = (dialect: Dialect): readonly Migration[] =>
  dialect === 'sqlite' ? sqliteMigrations : postgresMigrations

/** Everything in the schema but the ledger, to be compared with another's. */
export async function dumpSchema(dialect: Dialect, url: string, schema = 'public'): Promise<unknown> {
  const connection = await connectRaw(dialect, url)
  try {
    const dump = []
    for (const sql of dialect === 'sqlite' ? SQLITE_DUMP : postgresDump(schema)) {
      dump.push(await connection.run(sql))
    }
    return dump
  } finally {
    await connection.close()
  }
}

const OURS = `not like '\\_\\_drizzle\\_keystore%' escape '\\'`

const SQLITE_DUMP = [
  `select type, name, tbl_name, sql from sqlite_master where tbl_name ${OURS} order by type, name`,
  `select m.name as "table", c.* from sqlite_master m, pragma_table_xinfo(m.name) c
    where m.type = 'table' and m.name ${OURS} order by m.name, c.cid`,
]

const postgresDump = (schema: string) => {
  const of = `= '${schema.replaceAll("'", "''")}'`
  return [
    `select table_name, table_type from information_schema.tables where table_schema ${of} and table_name ${OURS} order by 1`,
    `select table_name, column_name, ordinal_position, column_default, is_nullable, data_type, datetime_precision, collation_name
      from information_schema.columns where table_schema ${of} and table_name ${OURS} order by 1, 3`,
    `select tablename, indexname, replace(indexdef, quote_ident(schemaname) || '.', '') as indexdef
      from pg_indexes where schemaname ${of} and tablename ${OURS} order by 1, 2`,
    `select c.relname, k.conname, k.contype, pg_get_constraintdef(k.oid) as def from pg_constraint k
      join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
      where n.nspname ${of} and c.relname ${OURS} order by 1, 2`,
  ]
}
