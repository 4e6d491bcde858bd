/** Checks what the factories of stores are given: where the database is, and the options. Each message says what to write instead. */
import { type DrizzleDialect, FACTORIES } from '../drivers/drizzle-db.js'
import { A_DRIZZLE_DB, misplaced } from '../drivers/misplaced.js'
import { assertUrl } from '../drivers/url.js'
import { invalidArgument, quoted } from '../errors.js'
import { kindOf, ownOptions } from '../validate.js'
import type { AsyncSqliteKeyStoreOptions, PostgresKeyStoreOptions, SqliteKeyStoreOptions } from './options.js'

/** Where the database is, and what may stand beside it. */
const SOURCES: Readonly<Record<DrizzleDialect, Readonly<Record<string, readonly string[]>>>> = {
  sqlite: { path: [], db: [] },
  postgres: { url: ['ssl', 'maxConnections', 'connectionTimeoutMs'], pool: [], db: ['transactional'] },
}
/** Typed by the options, so that none can be missing here. */
const SHARED = { migrate: true, deadlineMs: true } satisfies Record<keyof AsyncSqliteKeyStoreOptions, true>
const OPTIONS_OF_SQLITE = { ...SHARED, adopt: true, pollMs: true, journalMode: true } satisfies Record<
  keyof SqliteKeyStoreOptions,
  true
>
const OPTIONS_OF_POSTGRES = {
  ...SHARED,
  schema: true,
  namedStatements: true,
  listenUrl: true,
  notify: true,
} satisfies Record<keyof PostgresKeyStoreOptions, true>
const OPTIONS: Readonly<Record<DrizzleDialect, readonly string[]>> = {
  sqlite: Object.keys(OPTIONS_OF_SQLITE),
  postgres: Object.keys(OPTIONS_OF_POSTGRES),
}

/**
 * The arguments of a factory, as objects that inherit nothing.
 *
 * @returns the source, and the options of both arguments
 * @throws ERR_INVALID_ARGUMENT
 */
export function factoryOptions<Source extends object, Options extends object>(
  dialect: DrizzleDialect,
  source: Source,
  options: Options,
): { readonly source: Source; readonly options: Source & Options } {
  const names = Object.keys(SOURCES[dialect])
  refuseMisplaced(dialect, 'source', source)
  const own = ownOptions(source, `source (${names.map((name) => `{ ${name} }`).join(' or ')})`)
  const given = sourceName(dialect, names, own)
  for (const name of names) if (name !== given) Reflect.deleteProperty(own, name)
  refuseMisplaced(dialect, given, Reflect.get(own, given))
  // An option beside the source counts too: ignoring it would silently mean its default.
  const all = ownOptions({ ...own, ...ownOptions(options) })
  for (const [name, value] of Object.entries(all))
    if (value !== undefined) assertKnown(dialect, given, name, value)
  const deadlineMs: unknown = Reflect.get(all, 'deadlineMs')
  if (deadlineMs !== undefined && (typeof deadlineMs !== 'number' || Number.isNaN(deadlineMs)))
    throw invalidArgument(`deadlineMs must be a number of milliseconds, got ${kindOf(deadlineMs)}`)
  return { source: own, options: all }
}

/** The name of the one property that says where the database is. */
function sourceName(dialect: DrizzleDialect, names: readonly string[], source: object): string {
  const present = names.filter((name) => name in source)
  const [given, second] = present.filter((name) => !isUnset(name, source))
  if (second !== undefined)
    throw invalidArgument(`${given} and ${second} were both given: ${FACTORIES[dialect]} takes one of them`)
  if (given !== undefined) return given
  const [unset] = present
  if (unset === undefined && '$client' in source)
    throw invalidArgument(`source is a drizzle db: write ${FACTORIES[dialect]}({ db: { $client } })`)
  if (unset === undefined)
    throw invalidArgument(
      `${FACTORIES[dialect]} needs ${names.map((name) => `{ ${name} }`).join(' or ')}, got ${namesOf(source)}`,
    )
  if (unset === 'url' || unset === 'path') assertUrl(Reflect.get(source, unset), unset)
  throw invalidArgument(`${unset} is undefined`)
}

/** `process.env.DATABASE_URL ?? ''` is an empty string. */
function isUnset(name: string, source: object): boolean {
  const value: unknown = Reflect.get(source, name)
  return value === undefined || (name === 'url' && value === '')
}

function namesOf(source: object): string {
  const names = Object.keys(source)
  return names.length === 0 ? 'none of them' : names.slice(0, 5).map(quoted).join(', ')
}

/** A drizzle db that is given as one is left to the store, which knows more of it. */
function refuseMisplaced(dialect: DrizzleDialect, place: string, value: unknown): void {
  const found =
    typeof value === 'string' && place !== 'path' && place !== 'url'
      ? { what: 'a string', write: `${FACTORIES[dialect]}({ ${dialect === 'sqlite' ? 'path' : 'url'} })` }
      : misplaced(value)
  const isOfPlace = found?.write === `${FACTORIES[dialect]}({ ${place} })`
  if (found === null || isOfPlace || (place === 'db' && found.what === A_DRIZZLE_DB)) return
  throw invalidArgument(`${place} is ${found.what}: write ${found.write}`)
}

function assertKnown(dialect: DrizzleDialect, source: string, name: string, value: unknown): void {
  const beside = SOURCES[dialect][source] ?? []
  if (name === source || [...OPTIONS[dialect], ...beside].includes(name)) return
  const other = dialect === 'sqlite' ? 'postgres' : 'sqlite'
  const place = Object.entries(SOURCES[dialect]).find(([, names]) => names.includes(name))?.[0]
  // What is turned off may be off here too: openKeyStore and its callers pass the options of both dialects.
  if (value === false && (place !== undefined || OPTIONS[other].includes(name))) return
  if (place !== undefined)
    throw invalidArgument(`${name} goes with { ${place} }, and was given beside { ${source} }`)
  if (OPTIONS[other].includes(name)) throw invalidArgument(`${name} is an option of ${FACTORIES[other]}`)
  throw invalidArgument(
    `${quoted(name)} is no option of ${FACTORIES[dialect]}: beside { ${source} } it takes ${[...beside, ...OPTIONS[dialect]].join(', ')}`,
  )
}
