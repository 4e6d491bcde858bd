/** The registry of encrypted columns that a schema file exports, and the application's database. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { type Command, Option } from 'commander'
import { type TablePlan, tablePlan } from '../drizzle/drizzle-source.js'
import { columnName, tablePartsOrNull } from '../drizzle/drizzle-table.js'
import { markOf } from '../drizzle/encrypted-column.js'
import { type EncryptedTable, isRegistry } from '../drizzle/registry.js'
import { invalidArgument } from '../errors.js'
import { assertFilePath } from '../folders.js'
import { type HostDatabase, openHostDatabase } from '../sources/sql.js'
import type { SqlTable } from '../sources/table.js'
import { tableOn } from '../sources/table-on.js'
import { tableSource } from '../sources/table-source.js'
import type { ValueSource } from '../sources/value-source.js'
import { storeFile } from './git-ignore.js'
import { closeAfter } from './options.js'

export interface SchemaOptions {
  readonly schema?: string
  readonly db?: string
  readonly casing?: 'snake_case' | 'camelCase'
}

/** A table of the registry. */
export interface RegisteredTable {
  readonly name: string
  readonly plan: TablePlan<never>
  /** The table in the database, with these columns. */
  withColumns(columns: readonly string[]): SqlTable
  source(): ValueSource<never>
}

export function withSchema(command: Command, what: string): Command {
  return command
    .option('--schema <file>', `the ES module that exports the registry (defineEncrypted): ${what}`)
    .addOption(
      new Option(
        '--db <url>',
        "the application's database: a path, sqlite:…, libsql://… or postgres://…; put a URL with a password into the environment variable",
      ).env('DATABASE_URL'),
    )
    .addOption(
      new Option(
        '--casing <casing>',
        "drizzle's casing option, for columns that the schema gives no name",
      ).choices(['snake_case', 'camelCase']),
    )
}

/** @throws ERR_INVALID_ARGUMENT */
export function databaseUrl({ db }: SchemaOptions): string {
  if (db === undefined)
    throw invalidArgument('Name the database of the application: --db URL, or $DATABASE_URL')
  const file = storeFile(db)
  if (file !== null) assertFilePath(file, 'the database', 'app.db')
  return db
}

/** Finds out at once what would only fail after long work. @throws ERR_INVALID_ARGUMENT if there is no such file, or no database is named */
export function assertSchemaFile(options: SchemaOptions): void {
  const { schema } = options
  if (schema === undefined) return
  if (!existsSync(schema)) throw invalidArgument(`There is no schema file ${schema}`)
  databaseUrl(options)
}

/** Opens the application's database, uses it and closes it. */
export async function withHost<T>(
  options: SchemaOptions,
  use: (host: HostDatabase) => Promise<T>,
): Promise<T> {
  return closeAfter(await openHostDatabase(databaseUrl(options)), use)
}

/** A table that the schema file exports and no registry names. */
export interface UnregisteredTable {
  readonly name: string
  /** Its encrypted columns. No sweep reaches them. */
  readonly encrypted: readonly string[]
  /** Null if the rows cannot be paged, because Drizzle declares no primary key of one column. */
  readonly withColumns: ((columns: readonly string[]) => SqlTable) | null
}

/** @throws ERR_INVALID_ARGUMENT if the file exports no registry */
export async function schemaTables(
  file: string,
  { casing }: SchemaOptions,
  { client }: HostDatabase,
): Promise<{ readonly registered: RegisteredTable[]; readonly unregistered: UnregisteredTable[] }> {
  const exports = await importFile(file)
  const db = casing === undefined ? null : { dialect: { casing: await casingOf(casing) } }
  const registered = registeredIn(exports)
  if (registered.length === 0)
    throw invalidArgument(`${file} exports no registry: export const encrypted = defineEncrypted({ … })`)
  const others = new Set<unknown>(Object.values(exports))
  for (const { table } of registered) others.delete(table)
  return {
    registered: registered.map((table) => registeredTable(table, db, client)),
    unregistered: [...others].flatMap((exported) => unregisteredTable(exported, db, client) ?? []),
  }
}

function registeredTable(
  { name, table, ...options }: EncryptedTable,
  db: unknown,
  client: unknown,
): RegisteredTable {
  const plan = tablePlan<never>(table, options as never, db)
  const withColumns = (columns: readonly string[]) => tableOn(client, { ...plan.shape, columns })
  return { name, plan, withColumns, source: () => tableSource(withColumns(plan.shape.columns), plan) }
}

/** @returns null unless the export is a Drizzle table */
function unregisteredTable(exported: unknown, db: unknown, client: unknown): UnregisteredTable | null {
  const parts = tablePartsOrNull(exported)
  if (parts === null) return null
  const { name, schema } = parts
  const columns = [...parts.columns.values()]
  const namesOf = (some: typeof columns) => some.map((column) => columnName(column, db))
  const key = namesOf(columns.filter(({ primary }) => primary))
  const withColumns = (columns: readonly string[]) =>
    tableOn(client, { table: name, schema, key, owner: null, wholeRows: false, columns })
  const encrypted = namesOf(columns.filter((column) => markOf(column) !== null))
  return { name, encrypted, withColumns: key.length === 1 ? withColumns : null }
}

function registeredIn(exports: object): EncryptedTable[] {
  return Object.values(exports).flatMap((exported) => (isRegistry(exported) ? [...exported] : []))
}

async function importFile(file: string): Promise<object> {
  try {
    return await import(pathToFileURL(resolve(file)).href)
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : null
    if (code === 'ERR_UNKNOWN_FILE_EXTENSION' || /\.[cm]?tsx?$/.test(file)) {
      throw invalidArgument(
        `Node.js cannot import ${file} as it is: give the compiled file, or load TypeScript with NODE_OPTIONS='--import tsx' npx keystore … ` +
          '(npm install --save-dev tsx)',
      )
    }
    throw error
  }
}

/** @throws ERR_INVALID_ARGUMENT with drizzle-orm 1.0, which has no such option: its tables know the names of their columns */
async function casingOf(casing: 'snake_case' | 'camelCase'): Promise<object> {
  const { CasingCache } = await import('drizzle-orm/casing')
  if (typeof CasingCache !== 'function')
    throw invalidArgument(
      '--casing is for drizzle-orm 0.45: leave it out, since from 1.0 tables know the names of their columns',
    )
  return new CasingCache(casing)
}
