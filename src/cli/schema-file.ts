/** The registry of encrypted columns that a module of the user's exports, and the database that it is about. */
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { type Command, Option } from 'commander'
import { type TablePlan, tablePlan } from '../drizzle/drizzle-source.js'
import { columnName, tablePartsOrNull } from '../drizzle/drizzle-table.js'
import { markOf } from '../drizzle/encrypted-column.js'
import { type EncryptedTable, isRegistry } from '../drizzle/registry.js'
import { invalidArgument } from '../errors.js'
import { type OpenedHost, openHost } from '../sources/sql.js'
import type { SqlTable } from '../sources/table.js'
import { tableOn } from '../sources/table-on.js'
import { tableSource } from '../sources/table-source.js'
import type { ValueSource } from '../sources/value-source.js'
import { closing } from './options.js'

export interface SchemaOptions {
  readonly schema?: string
  readonly db?: string
  readonly casing?: 'snake_case' | 'camelCase'
}

/** A table of the registry in the database. */
export interface RegisteredTable {
  readonly name: string
  readonly plan: TablePlan<never>
  /** The same table with other columns. */
  withColumns(columns: readonly string[]): SqlTable
  source(): ValueSource<never>
}

export function withSchema(command: Command, what: string): Command {
  return command
    .option('--schema <file>', `${what} the ES module FILE exports, made by defineEncrypted`)
    .addOption(
      new Option(
        '--db <url>',
        "the application's database: a path, sqlite:… or postgres://…; put a URL with a password into the environment",
      ).env('DATABASE_URL'),
    )
    .addOption(
      new Option('--casing <casing>', 'how the schema names columns that it gives no name').choices([
        'snake_case',
        'camelCase',
      ]),
    )
}

/** @throws ERR_INVALID_ARGUMENT */
export function databaseUrl({ db }: SchemaOptions): string {
  if (db === undefined)
    throw invalidArgument('Name the database of the application: --db URL, or $DATABASE_URL')
  return db
}

/** Opens the database and closes it after `work`. */
export async function withHost<T>(
  options: SchemaOptions,
  work: (host: OpenedHost) => Promise<T>,
): Promise<T> {
  return closing(await openHost(databaseUrl(options)), work)
}

/** A table that the file exports and no registry of it names. */
export interface OtherTable {
  readonly name: string
  /** Its encrypted columns: nobody sweeps or samples those. */
  readonly encrypted: readonly string[]
  /** Null where its rows cannot be paged: without a primary key of one column, as Drizzle has it. */
  readonly withColumns: ((columns: readonly string[]) => SqlTable) | null
}

/** @throws ERR_INVALID_ARGUMENT if the file exports no registry */
export async function schemaTables(
  file: string,
  { casing }: SchemaOptions,
  { client }: OpenedHost,
): Promise<{ readonly registered: RegisteredTable[]; readonly others: OtherTable[] }> {
  const exports = await importFile(file)
  const db = casing === undefined ? null : { dialect: { casing: await casingOf(casing) } }
  const registered = registeredIn(exports)
  if (registered.length === 0)
    throw invalidArgument(`${file} exports no registry: export const encrypted = defineEncrypted({ … })`)
  const others = new Set<unknown>(Object.values(exports))
  for (const { table } of registered) others.delete(table)
  return {
    registered: registered.map((table) => registeredTable(table, db, client)),
    others: [...others].flatMap((table) => otherTable(table, db, client) ?? []),
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

/** @returns null unless a table of Drizzle's */
function otherTable(exported: unknown, db: unknown, client: unknown): OtherTable | null {
  const parts = tablePartsOrNull(exported)
  if (parts === null) return null
  const { name, schema } = parts
  const columns = [...parts.columns.values()]
  const names = (some: typeof columns) => some.map((column) => columnName(column, db))
  const key = names(columns.filter(({ primary }) => primary))
  const withColumns = (columns: readonly string[]) =>
    tableOn(client, { table: name, schema, key, owner: null, wholeRows: false, columns })
  const encrypted = names(columns.filter((column) => markOf(column) !== null))
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
        `Node.js cannot import ${file} as it is. With a loader for TypeScript it can: NODE_OPTIONS='--import tsx' keystore … ` +
          '(npm install --save-dev tsx), or give the compiled file',
      )
    }
    throw error
  }
}

async function casingOf(casing: 'snake_case' | 'camelCase'): Promise<object> {
  const { CasingCache } = await import('drizzle-orm/casing')
  return new CasingCache(casing)
}
