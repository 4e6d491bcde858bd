/** The Postgres table, derived from table.ts. Exported as `drizzle-keystore/schema/postgres`. */
import { sql } from 'drizzle-orm'
import {
  check,
  customType,
  type ExtraConfigColumn,
  index,
  integer,
  PgSchema,
  type PgTableExtraConfigValue,
  type PgTableFn,
  pgTable,
  primaryKey,
} from 'drizzle-orm/pg-core'
import { encryptionKeysDeclaration as declaration, type NotNull, type WithDefault } from '../../table.js'
import { MAX_USER_ID_BYTES } from '../../validate.js'

/** bytea. Copies what it reads: pg returns views into a buffer that rows share. */
const bytes = customType<{ data: Uint8Array; driverData: Uint8Array }>({
  dataType: () => 'bytea',
  fromDriver: (value) => new Uint8Array(value),
  toDriver: (value) => Buffer.from(value.buffer, value.byteOffset, value.byteLength),
})

/** Not Drizzle's own `text`, whose type 0.45 and 1.0 write in different ways. */
const plainText = customType<{ data: string; driverData: string }>({ dataType: () => 'text' })

/** Text ordered by bytes, as pages are. With a linguistic collation each page would scan and sort the whole table. */
const textByBytes = customType<{ data: string; driverData: string }>({ dataType: () => 'text COLLATE "C"' })

/**
 * A point in time. Not Drizzle's own `timestamp`: from 1.0 its column leaves the decoding to the driver, and only where Drizzle knows that
 * it selects that column.
 */
const instant = customType<{ data: Date; driverData: string | Date }>({
  dataType: () => 'timestamp (3) with time zone',
  fromDriver: (value) => new Date(value),
  toDriver: (value) => value.toISOString(),
})

type Column<Data, Driver> = ReturnType<ReturnType<typeof customType<{ data: Data; driverData: Driver }>>>

type ColumnBuilders = {
  userId: NotNull<Column<string, string>>
  version: WithDefault<NotNull<ReturnType<typeof integer>>>
  encryptedKey: NotNull<Column<Uint8Array, Uint8Array>>
  kekId: Column<string, string>
  createdAt: NotNull<Column<Date, string | Date>>
  wrappedAt: Column<Date, string | Date>
  shreddedAt: Column<Date, string | Date>
}

const { columns } = declaration

/** New builders at each call: a column builder of Drizzle's belongs to one table. */
const columnBuilders = (): ColumnBuilders => ({
  userId: textByBytes(columns.userId.name).notNull(),
  version: integer(columns.version.name).notNull().default(columns.version.default),
  encryptedKey: bytes(columns.encryptedKey.name).notNull(),
  kekId: plainText(columns.kekId.name),
  createdAt: instant(columns.createdAt.name).notNull(),
  wrappedAt: instant(columns.wrappedAt.name),
  shreddedAt: instant(columns.shreddedAt.name),
})

type Constrained = Record<'userId' | 'version' | 'kekId' | 'shreddedAt', ExtraConfigColumn>

const constraints = (table: Constrained): PgTableExtraConfigValue[] => [
  primaryKey({ name: declaration.primaryKey.name, columns: [table.userId, table.version] }),
  // By bytes, as tenants' KEK ids are skipped. With a linguistic collation they need not stand together.
  index(declaration.kekIndex.name)
    .on(sql`${table.kekId} collate "C"`, table.userId, table.version)
    .where(sql`${table.shreddedAt} is null and (${table.userId} < E'\\001' or ${table.userId} >= E'\\002')`),
  check(declaration.versionCheck, sql`${table.version} >= 1`),
  check(
    declaration.userIdCheck,
    sql`pg_catalog.octet_length(${table.userId}) <= ${sql.raw(String(MAX_USER_ID_BYTES))}`,
  ),
]

/**
 * The table `encryption_keys` for Postgres. List it in your own drizzle schema only if your own migrations make the table; then
 * open the store with `migrate: 'off'`.
 */
export const encryptionKeys: ReturnType<typeof pgTable<typeof declaration.name, ColumnBuilders>> = pgTable(
  declaration.name,
  columnBuilders(),
  constraints,
)

/**
 * The same table in a named schema. Queries name the schema, so that a connection's search_path has no effect. (Not
 * `pgSchema(schema)`, which refuses `public`; its class accepts it.)
 */
export function encryptionKeysIn(
  schema: string,
): ReturnType<typeof tableInSchema<typeof declaration.name, ColumnBuilders>> {
  return new PgSchema(schema).table(declaration.name, columnBuilders(), constraints)
}

/** For its type. */
declare const tableInSchema: PgTableFn<string>
