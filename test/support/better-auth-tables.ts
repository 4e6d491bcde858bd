/** Better Auth's tables in Drizzle, for both dialects, made of the data model that Better Auth's options declare. */
import type { BetterAuthOptions } from 'better-auth'
import { getAuthTables } from 'better-auth/db'
import { getTableName, relations } from 'drizzle-orm'
import * as postgres from 'drizzle-orm/pg-core'
import * as sqlite from 'drizzle-orm/sqlite-core'
import type { Dialect } from './databases.js'

type AuthTables = ReturnType<typeof getAuthTables>
type AuthField = AuthTables[string]['fields'][string]
type Columns = Record<string, sqlite.SQLiteColumnBuilderBase>
type AuthTable = sqlite.SQLiteTableWithColumns<{
  name: string
  schema: undefined
  columns: Record<string, sqlite.SQLiteColumn>
  dialect: 'sqlite'
}>

/** A column of a dialect, of which those of SQLite and of Postgres have this much in common. */
interface ColumnBuilder {
  notNull(): ColumnBuilder
  unique(): ColumnBuilder
  primaryKey(options?: { autoIncrement: boolean }): ColumnBuilder
  default(value: unknown): ColumnBuilder
  references(column: () => unknown, options: { onDelete: 'cascade' }): ColumnBuilder
}

export interface BetterAuthTables {
  /** By the names that drizzleAdapter looks for, with relations for joins. */
  readonly schema: Record<string, AuthTable>
  /** Makes the tables anew. */
  readonly sql: readonly string[]
}

export function betterAuthTables(
  dialect: Dialect,
  options: BetterAuthOptions,
  usePlural = false,
): BetterAuthTables {
  const models = getAuthTables(options)
  const nameOf = (model: string) => {
    const own = models[model] ?? Object.values(models).find(({ modelName }) => modelName === model)
    return `${own?.modelName ?? model}${usePlural ? 's' : ''}`
  }
  const ids = options.advanced?.database?.generateId
  const tables: Record<string, AuthTable> = {}
  for (const [model, { fields }] of Object.entries(models)) {
    const columns: Record<string, unknown> = { id: idColumn(dialect, ids) }
    for (const [field, attributes] of Object.entries(fields)) {
      const { fieldName, references } = attributes
      const isId = references?.field === 'id'
      let column = isId ? idReference(dialect, ids) : valueColumn(dialect, attributes)
      if (attributes.required !== false) column = column.notNull()
      if (attributes.unique) column = column.unique()
      if (isId && references !== undefined)
        column = column.references(() => tables[nameOf(references.model)]?.id, { onDelete: 'cascade' })
      columns[fieldName || field] = column
    }
    tables[nameOf(model)] = tableOf(dialect, nameOf(model), columns as Columns)
  }
  const order = Object.keys(tables)
  return {
    schema: { ...tables, ...relationsOf(models, tables, nameOf) },
    sql: [
      ...order
        .map((name) => `drop table if exists "${name}"${dialect === 'postgres' ? ' cascade' : ''}`)
        .reverse(),
      ...order.map((name) => createTable(dialect, tables[name] as AuthTable)),
    ],
  }
}

function tableOf(dialect: Dialect, name: string, columns: Columns): AuthTable {
  if (dialect === 'sqlite') return sqlite.sqliteTable(name, columns) as AuthTable
  return postgres.pgTable(
    name,
    columns as unknown as Record<string, postgres.PgColumnBuilderBase>,
  ) as unknown as AuthTable
}

function idColumn(dialect: Dialect, ids: unknown): ColumnBuilder {
  if (dialect === 'sqlite') {
    const column = ids === 'serial' ? sqlite.integer() : sqlite.text()
    return (column as unknown as ColumnBuilder).primaryKey(
      ...(ids === 'serial' ? [{ autoIncrement: true }] : []),
    )
  }
  if (ids === 'serial') return (postgres.serial() as unknown as ColumnBuilder).primaryKey()
  if (ids === 'uuid') return (postgres.uuid().defaultRandom() as unknown as ColumnBuilder).primaryKey()
  return (postgres.text() as unknown as ColumnBuilder).primaryKey()
}

function idReference(dialect: Dialect, ids: unknown): ColumnBuilder {
  const text = dialect === 'sqlite' ? sqlite.text() : postgres.text()
  if (ids === 'serial') return (dialect === 'sqlite' ? sqlite.integer() : postgres.integer()) as never
  return (dialect === 'postgres' && ids === 'uuid' ? postgres.uuid() : text) as unknown as ColumnBuilder
}

function valueColumn(dialect: Dialect, { type, bigint }: AuthField): ColumnBuilder {
  const column =
    dialect === 'sqlite'
      ? type === 'number'
        ? sqlite.integer()
        : type === 'boolean'
          ? sqlite.integer({ mode: 'boolean' })
          : type === 'date'
            ? sqlite.integer({ mode: 'timestamp_ms' })
            : sqlite.text()
      : type === 'number'
        ? bigint
          ? postgres.bigint({ mode: 'number' })
          : postgres.integer()
        : type === 'boolean'
          ? postgres.boolean()
          : type === 'date'
            ? postgres.timestamp({ precision: 3 })
            : type === 'json'
              ? postgres.jsonb()
              : type === 'string[]'
                ? postgres.text().array()
                : type === 'number[]'
                  ? postgres.integer().array()
                  : postgres.text()
  return column as unknown as ColumnBuilder
}

/** As the command of Better Auth generates them: each reference is one relation here and one there. */
function relationsOf(
  models: AuthTables,
  tables: Record<string, AuthTable>,
  nameOf: (model: string) => string,
): Record<string, never> {
  const storedField = (model: string, field: string) =>
    Object.entries(models).find(([name]) => nameOf(name) === nameOf(model))?.[1].fields[field]?.fieldName ||
    field
  const made: Record<string, unknown> = {}
  for (const [model, { fields }] of Object.entries(models)) {
    const table = tables[nameOf(model)] as AuthTable
    made[`${nameOf(model)}Relations`] = relations(table as never, ({ one, many }) => {
      const found: Record<string, unknown> = {}
      for (const [field, { references, fieldName }] of Object.entries(fields)) {
        if (references === undefined) continue
        const other = tables[nameOf(references.model)] as AuthTable
        const target = other[storedField(references.model, references.field)]
        found[nameOf(references.model)] = one(
          other as never,
          { fields: [table[fieldName || field]], references: [target] } as never,
        )
      }
      for (const [child, { fields: childFields }] of Object.entries(models)) {
        for (const { references, unique } of Object.values(childFields)) {
          if (references === undefined || nameOf(references.model) !== nameOf(model)) continue
          const name = nameOf(child)
          const childTable = tables[name] as never
          if (unique) found[name] = one(childTable)
          else found[name.endsWith('s') ? name : `${name}s`] = many(childTable)
        }
      }
      return found as never
    })
  }
  return made as Record<string, never>
}

function createTable(dialect: Dialect, table: AuthTable): string {
  const config =
    dialect === 'sqlite'
      ? sqlite.getTableConfig(table)
      : postgres.getTableConfig(table as unknown as postgres.PgTable)
  const columns = config.columns.map((column) =>
    [
      `"${column.name}" ${column.getSQLType()}`,
      column.primary ? 'primary key' : '',
      'autoIncrement' in column && column.autoIncrement ? 'autoincrement' : '',
      column.notNull && !column.primary ? 'not null' : '',
      column.isUnique ? 'unique' : '',
      column.getSQLType() === 'uuid' && column.primary ? 'default gen_random_uuid()' : '',
    ].join(' '),
  )
  const keys = config.foreignKeys.map((key) => {
    const { columns: from, foreignTable } = key.reference()
    return `foreign key ("${from[0]?.name}") references "${getTableName(foreignTable)}" ("id") on delete cascade`
  })
  return `create table "${config.name}" (${[...columns, ...keys].join(', ')})`
}
