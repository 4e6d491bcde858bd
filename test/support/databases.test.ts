/** A fresh database is like one that was just made, whatever an earlier test has left in it. */
import { describe, expect, inject, it } from 'vitest'
import { asAdmin, freshDatabase, isChosen, queryPostgres } from './databases.js'

/** Everything outside the system schemas, and the rights on schemas. */
const CONTENT = `
  select 'schema' as kind, nspname::text as name, nspowner::regrole::text || coalesce(nspacl::text, '') as more
    from pg_namespace where nspname !~ '^pg_'
  union all
  select 'relation', relname, relnamespace::regnamespace::text from pg_class
    where relnamespace::regnamespace::text !~ '^(pg_|information_schema)'
  union all
  select 'function', proname, pronamespace::regnamespace::text from pg_proc
    where pronamespace::regnamespace::text !~ '^(pg_|information_schema)'
  union all
  select 'type', typname, typnamespace::regnamespace::text from pg_type
    where typnamespace::regnamespace::text !~ '^(pg_|information_schema)'
  union all
  select 'deadlocks', deadlocks::text, '' from pg_stat_database where datname = current_database()
  union all
  select 'search path', current_setting('search_path'), ''
  order by 1, 2`

describe.runIf(isChosen('postgres'))('a database of Postgres', () => {
  it('is empty, whatever an earlier test has left in it', async () => {
    const url = inject('postgresUrl')
    const made = `keystore_test_made_${process.pid}`
    await asAdmin(url, `create database ${made} template template0 locale_provider icu icu_locale 'en-US'`)
    const asMade = await queryPostgres(url.replace(/\/\w+$/, `/${made}`), CONTENT)
    await asAdmin(url, `drop database ${made}`)
    for (let round = 0; round < 3; round += 1) {
      const database = await freshDatabase('postgres')
      expect(await queryPostgres(database.url, CONTENT)).toEqual(asMade)
      await asAdmin(
        database.url,
        `create schema "Mine, too"; create table "Mine, too".t (a text); create table t (a text);
         create type mood as enum ('good'); revoke usage on schema public from public;
         create function f() returns int language sql as 'select 1'`,
      )
      await database.remove()
    }
  })

  it.each([
    'alter database NAME set search_path = decoy',
    'alter database NAME set default_transaction_read_only = on',
    'grant create on database NAME to pg_monitor',
    'alter default privileges grant select on tables to public',
    'create publication p',
  ])('is not used again after: %s', async (statement) => {
    const database = await freshDatabase('postgres')
    const name = new URL(database.url).pathname.slice(1)
    await asAdmin(database.url, statement.replace('NAME', name))
    await database.remove()
    const there = `select 1 from pg_database where datname = '${name}'`
    expect(await queryPostgres(inject('postgresUrl'), there)).toEqual([])
  })
})
