/** A host application with encrypted columns: tables made by drizzle-kit, a connection of its own, and a service beside it. */
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import Database from 'better-sqlite3'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import { type EnvelopeCrypto, generateMasterKey, localMasterKey, type MasterKey } from '../../src/index.js'
import * as postgresSchema from '../fixtures/host-schema-postgres.js'
import * as sqliteSchema from '../fixtures/host-schema-sqlite.js'
import { type Dialect, freshDatabase, temporaryFolder } from './databases.js'
import { freshService } from './fresh-store.js'

/** The type of both dialects' connections, on which the same queries run: that of Postgres. */
export type HostDb = ReturnType<typeof drizzlePostgres<typeof postgresSchema>>
export type HostSchema = typeof postgresSchema

export interface HostApp {
  readonly db: HostDb
  readonly schema: HostSchema
  readonly envelope: EnvelopeCrypto
  /** For another service on the same database. */
  readonly url: string
  readonly masterKeys: MasterKey
  /** Runs SQL past Drizzle. */
  rows(sql: string): Promise<Record<string, unknown>[]>
  close(): Promise<void>
}

/** What drizzle-kit has generated: it takes a second, and the result is the same each time. */
const hostSql: Partial<Record<Dialect, string[]>> = {}

/** Its table `owners` has alice and bob. */
export async function hostApp(dialect: Dialect): Promise<HostApp> {
  const app = await openApp(dialect)
  await app.db.insert(app.schema.owners).values([{ id: 'alice' }, { id: 'bob' }])
  return app
}

async function openApp(dialect: Dialect): Promise<HostApp> {
  const database = await freshDatabase(dialect)
  const ddl = hostSql[dialect] ?? generateSql(dialect, `test/fixtures/host-schema-${dialect}.ts`)
  hostSql[dialect] = ddl
  const masterKeys = localMasterKey(generateMasterKey())
  const envelope = await freshService(database.url, { masterKeys })
  const service = { envelope, url: database.url, masterKeys }
  if (dialect === 'sqlite') {
    const client = new Database(database.url)
    for (const statement of ddl) client.exec(statement)
    return {
      ...service,
      db: drizzleSqlite({ client, schema: sqliteSchema }) as unknown as HostDb,
      schema: sqliteSchema as unknown as HostSchema,
      rows: async (sql) => {
        const statement = client.prepare(sql)
        if (statement.reader) return statement.all() as Record<string, unknown>[]
        statement.run()
        return []
      },
      async close() {
        await envelope.close()
        client.close()
        await database.remove()
      },
    }
  }
  const pool = new pg.Pool({ connectionString: database.url, max: 3 })
  for (const statement of ddl) await pool.query(statement)
  return {
    ...service,
    db: drizzlePostgres({ client: pool, schema: postgresSchema }),
    schema: postgresSchema,
    rows: async (sql) => (await pool.query(sql)).rows,
    async close() {
      await envelope.close()
      await pool.end()
      await database.remove()
    },
  }
}

/** Lets drizzle-kit generate the SQL of a schema file. @throws with what it printed, if it made nothing */
export function generateSql(
  dialect: Dialect,
  schemaFile: string,
  options: { casing?: 'snake_case' } = {},
): string[] {
  const folder = temporaryFolder()
  try {
    const kit = resolve('node_modules/drizzle-kit/bin.cjs')
    // As JSON, drizzle-kit 1.0 cannot import it.
    const config = join(folder.path, 'drizzle.config.ts')
    mkdirSync(join(folder.path, 'out'))
    writeFileSync(
      config,
      `export default ${JSON.stringify({
        dialect: dialect === 'sqlite' ? 'sqlite' : 'postgresql',
        schema: resolve(schemaFile),
        out: join(folder.path, 'out'),
        ...options,
      })}`,
    )
    const run = spawnSync(process.execPath, [kit, 'generate', '--config', config], { encoding: 'utf8' })
    // drizzle-kit 1.0 makes a folder for each migration.
    const names = readdirSync(join(folder.path, 'out'), { recursive: true, encoding: 'utf8' })
    const files = names.filter((name) => name.endsWith('.sql'))
    const [file] = files
    if (file === undefined) throw new Error(`drizzle-kit generated nothing: ${run.stdout}${run.stderr}`)
    return readFileSync(join(folder.path, 'out', file), 'utf8').split('--> statement-breakpoint')
  } finally {
    folder.remove()
  }
}
