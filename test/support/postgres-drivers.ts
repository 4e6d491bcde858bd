/** Fresh databases of the host's on Postgres drivers other than node-postgres. */
import { PGlite } from '@electric-sql/pglite'
import type { PgDatabase, PgQueryResultHKT } from 'drizzle-orm/pg-core'
import { drizzle as drizzlePglite } from 'drizzle-orm/pglite'
import { drizzle as drizzlePostgresJs } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { freshDatabase, isChosen } from './databases.js'

export type PostgresDriver = 'postgres-js' | 'pglite'

/** To loop over. */
export const postgresDrivers: readonly PostgresDriver[] = isChosen('postgres')
  ? ['postgres-js', 'pglite']
  : []

type Row = Record<string, unknown>

export interface DriverDatabase {
  /** The host's drizzle db. */
  readonly db: PgDatabase<PgQueryResultHKT> & { readonly $client: postgres.Sql | PGlite }
  /** Runs statements without parameters, past Drizzle. @returns the rows of the last */
  query(text: string): Promise<Row[]>
  /** A further db, as another process has one. On PGlite it is on the same connection. */
  another(): DriverDatabase['db']
  /** Null where nobody else can connect. */
  readonly url: string | null
  /** Closes the connections, and removes the database. */
  remove(): Promise<void>
}

export function freshDriverDatabase(driver: PostgresDriver): Promise<DriverDatabase> {
  return driver === 'pglite' ? freshPglite() : freshPostgresJs()
}

/** @param options of postgres-js */
export async function freshPostgresJs(options: postgres.Options<never> = {}): Promise<DriverDatabase> {
  const database = await freshDatabase('postgres')
  const clients: postgres.Sql[] = []
  const another = () => {
    const client = postgres(database.url, { max: 3, onnotice: () => undefined, ...options })
    clients.push(client)
    return drizzlePostgresJs({ client })
  }
  const db = another()
  return {
    db,
    another,
    url: database.url,
    query: async (text) => [...(await db.$client.unsafe<Row[]>(text))],
    async remove() {
      for (const client of clients) await client.end({ timeout: 1 })
      await database.remove()
    },
  }
}

/** Starting PGlite takes seconds: all tests of a process share one, and each leaves it empty. */
let shared: PGlite | null = null

async function freshPglite(): Promise<DriverDatabase> {
  shared ??= new PGlite()
  const client = shared
  await client.waitReady
  const another = () => drizzlePglite({ client })
  return {
    db: another(),
    another,
    url: null,
    query: async (text) => (await client.exec(text)).at(-1)?.rows ?? [],
    async remove() {
      const schemas = await client.query<{ name: string }>(
        `select nspname as name from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'`,
      )
      for (const { name } of schemas.rows) await client.exec(`drop schema "${name}" cascade`)
      await client.exec('create schema public; select pg_stat_reset()')
    },
  }
}
