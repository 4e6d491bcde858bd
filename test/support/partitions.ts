/** A table of keys that the host's own migrations have partitioned by hash. */
import { postgresKeyStore } from '../../src/adapters/postgres/store.js'
import { asAdmin, queryPostgres } from './databases.js'

/**
 * Makes the schema with a table of two partitions, one of which has two of its own: `part_0`, `part_1_0` and `part_1_1`. Nothing, if the
 * table is there.
 */
export async function partitionByHash(url: string, schema: string): Promise<void> {
  const [found] = await queryPostgres(
    url,
    `select to_regclass('"${schema}".encryption_keys') is not null as is`,
  )
  if (found?.is === true) return
  const template = postgresKeyStore({ url }, { schema: `${schema}_template` })
  await template.ready()
  await template.close()
  const like = `like "${schema}_template".encryption_keys including defaults including constraints including storage`
  const table = (name: string) => `"${schema}"."${name}"`
  const part = (name: string, of: string, n: number, more = '') =>
    `create table ${table(name)} partition of ${table(of)} for values with (modulus 2, remainder ${n}) ${more}`
  await asAdmin(
    url,
    `create schema if not exists "${schema}"`,
    `create table ${table('encryption_keys')} (${like}, constraint encryption_keys_pk primary key (user_id, version)) partition by hash (user_id)`,
    part('part_0', 'encryption_keys', 0),
    part('part_1', 'encryption_keys', 1, 'partition by hash (user_id, version)'),
    part('part_1_0', 'part_1', 0),
    part('part_1_1', 'part_1', 1),
    `create index on ${table('encryption_keys')} ((kek_id collate "C"), user_id, version)
      where shredded_at is null and (user_id < E'\\\\001' or user_id >= E'\\\\002')`,
    `drop schema "${schema}_template" cascade`,
  )
}
