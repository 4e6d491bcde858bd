/** Fresh databases and folders for tests. TEST_BACKENDS=sqlite,postgres,memory chooses the backends to test. */
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readdirSync, rmSync, unlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { inject } from 'vitest'

/** A fresh, empty database: a URL for openKeyStore. */
export interface FreshDatabase {
  readonly url: string
  remove(): Promise<void>
}

export type Dialect = 'sqlite' | 'postgres'

const chosen = process.env.TEST_BACKENDS?.split(',')
export const isChosen = (backend: string) => chosen === undefined || chosen.includes(backend)

/** The chosen dialects, to loop over. */
export const dialects: readonly Dialect[] = (['sqlite', 'postgres'] as const).filter(isChosen)

export function freshDatabase(dialect: Dialect): Promise<FreshDatabase> {
  return dialect === 'sqlite' ? freshSqlite() : freshPostgres()
}

/** A fresh temporary folder. */
export function temporaryFolder(): { readonly path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), 'keystore-test-'))
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) }
}

async function freshSqlite(): Promise<FreshDatabase> {
  const folder = temporaryFolder()
  return { url: join(folder.path, 'keystore.db'), remove: async () => folder.remove() }
}

/**
 * Has an ICU locale, as production databases have a linguistic one: a database of locale C would hide a page that scans and
 * sorts the whole table.
 *
 * Making a database takes the server ten times as long as emptying one, so databases that can be emptied are used again.
 */
async function freshPostgres(): Promise<FreshDatabase> {
  const serverUrl = inject('postgresUrl')
  const reused = takeEmpty()
  const name = reused ?? `keystore_test_${randomBytes(6).toString('hex')}`
  if (reused === null) {
    await asAdmin(
      serverUrl,
      `create database ${name} template template0 encoding 'UTF8' locale_provider icu icu_locale 'en-US'`,
    )
  }
  const url = new URL(serverUrl)
  url.pathname = `/${name}`
  const remove = async () => {
    // A database that cannot be emptied is dropped.
    if (await emptied(url.href).catch(() => false)) writeFileSync(join(inject('emptyDatabases'), name), '')
    else await asAdmin(serverUrl, `drop database ${name} with (force)`)
  }
  return { url: url.href, remove }
}

/** Takes an empty database out of the folder that has a file for each. The process that removes the file owns the database. */
function takeEmpty(): string | null {
  const folder = inject('emptyDatabases')
  for (const name of readdirSync(folder)) {
    try {
      unlinkSync(join(folder, name))
      return name
    } catch {
      // Another process has taken it.
    }
  }
  return null
}

/** Empties a database. @returns whether it is as one that has just been made */
async function emptied(url: string): Promise<boolean> {
  const client = new pg.Client(url)
  await client.connect()
  try {
    await othersGone(client)
    await client.query(EMPTY)
    const { rows } = await client.query<{ isClean: boolean }>(IS_CLEAN)
    return rows[0]?.isClean === true
  } finally {
    await client.end()
  }
}

/**
 * Waits until nobody else is connected. A pool's `end()` resolves before the server has noticed, and such a connection must not be
 * terminated: its client would emit an error for which nobody listens any more.
 */
async function othersGone(client: pg.Client): Promise<void> {
  const others =
    'select 1 from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()'
  for (let tries = 0; tries < 100; tries++) {
    const { rowCount } = await client.query(`${others} and backend_type = 'client backend'`)
    if (rowCount === 0) return
    await sleep(20)
  }
  throw new Error('Another client is still connected')
}

/** Drops every schema, makes `public` as `create database` does, and resets the statistics, deadlocks above all. */
const EMPTY = `do $$
  declare name text;
  begin
    for name in select nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema' loop
      execute format('drop schema %I cascade', name);
    end loop;
    create schema public authorization pg_database_owner;
    grant usage on schema public to public;
    perform pg_stat_reset();
  end $$`

/** False if the database has what is in no schema: settings, privileges, extensions … */
const IS_CLEAN = `select datacl is null
    and not exists (select from pg_db_role_setting where setdatabase = d.oid)
    and not exists (select from pg_extension where extname <> 'plpgsql')
    and not exists (select from pg_event_trigger)
    and not exists (select from pg_publication)
    and not exists (select from pg_default_acl)
    and not exists (select from pg_largeobject_metadata)
    and not exists (select from pg_foreign_data_wrapper) as "isClean"
  from pg_database d where datname = current_database()`

/** Runs one statement on a connection of its own. @returns its rows */
export async function queryPostgres(url: string, text: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client(url)
  await client.connect()
  try {
    return (await client.query(text)).rows
  } finally {
    await client.end()
  }
}

/** Runs statements one after the other on a connection of its own: as the server's superuser, if the URL is a fresh database's. */
export async function asAdmin(url: string, ...statements: string[]): Promise<void> {
  const client = new pg.Client(url)
  await client.connect()
  try {
    for (const statement of statements) await client.query(statement)
  } finally {
    await client.end()
  }
}
