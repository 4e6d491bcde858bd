/** What the operator's commands do with a Postgres store. */
import { sql } from 'drizzle-orm'
import type { Deadline } from '../../drivers/deadline.js'
import { arrayLiteral } from '../../drivers/postgres-array.js'
import { isKeystoreError } from '../../errors.js'
import type {
  CensusOptions,
  DatedCensusRow,
  ErasureState,
  SampledRef,
  StoreFinding,
  StoreMaintenance,
} from '../../store.js'
import { encryptionKeysDeclaration as declaration, isTombstone, type KeyRecord } from '../../table.js'
import { distinctUserIds, groupByUser, tombstonesFirst, winnersOf } from '../records.js'
import { requireReadable, storedRow } from '../stored-rows.js'
import { castTo, EQUALS } from './catalog.js'
import type { PostgresConnection } from './connection.js'
import { copiersOf } from './copiers.js'
import { finishPostgresErasure } from './erasure.js'
import { familyOf, isSampled, quotedTable, type TableName } from './family.js'
import { type RunSql, schemaProblem } from './migrate.js'
import { namedKekIds, recordArrays, refArrays } from './statements/arrays.js'
import { censusRow, isTextRefused, isUnsupported } from './statements/decode.js'
import { type PostgresStatements, selectVersions } from './statements/prepare.js'

export class PostgresMaintenance implements StoreMaintenance {
  readonly #connection: PostgresConnection
  readonly #statements: PostgresStatements
  readonly #schema: string

  constructor(connection: PostgresConnection, statements: PostgresStatements, schema: string) {
    this.#connection = connection
    this.#statements = statements
    this.#schema = schema
  }

  async restore(records: readonly KeyRecord[]): Promise<KeyRecord[]> {
    const s = this.#statements
    const deadline = this.#connection.newDeadline()
    const inserted = new Set<KeyRecord>()
    for (const rows of tombstonesFirst(records)) {
      if (rows.length === 0) continue
      const restored = await this.#connection.run(
        'restore keys',
        () => s.restoreRows.execute(recordArrays(rows)),
        { deadline },
      )
      // Of some that were left out it is not said which: then all are read.
      if (restored.length === rows.length) for (const record of rows) inserted.add(record)
    }
    const others = recordsToRead(records, inserted)
    if (others.length === 0) return winnersOf(records, NO_ROWS, inserted)
    const stored = await this.#storedFor(others, deadline)
    const unwanted = others.filter((record) => isBesideTombstone(record, stored.get(record.userId) ?? []))
    const own = new Set([...inserted].filter((record) => !stored.has(record.userId)))
    if (unwanted.length === 0) return winnersOf(records, stored, own)
    await this.#connection.run('restore keys', () => s.removeRows.execute(refArrays(unwanted)), {
      deadline,
    })
    return winnersOf(records, await this.#storedFor(others, deadline), own)
  }

  async inspect(): Promise<StoreFinding[]> {
    try {
      const deadline = this.#connection.newDeadline()
      const run: RunSql = (query) => this.#connection.query('inspect the database', query, { deadline })
      const findings = await this.#settingFindings(run)
      const copies = await copiersOf(run, this.#schema)
      if (copies !== null) findings.push({ severity: 'warning', kind: 'copies', reason: copies })
      const problem = await schemaProblem(run, this.#schema, this.#connection.migrate)
      if (problem === null) return findings
      return [...findings, schemaFinding(problem)]
    } catch (error) {
      if (!isKeystoreError(error) || error.code !== 'ERR_SCHEMA') throw error
      return [schemaFinding(error.message)]
    }
  }

  /**
   * Rewrites the table, and waits for older transactions first, because they may still see the erased rows. Nobody can use the table
   * meanwhile: about one second for 100,000 rows. The write-ahead log, replicas and backups keep erased bytes until they expire.
   */
  finishErasure(): Promise<Required<ErasureState>> {
    return finishPostgresErasure(this.#connection, this.#schema)
  }

  async datedCensus(options: CensusOptions = {}): Promise<DatedCensusRow[]> {
    const named = namedKekIds(options)
    const rows = await this.#connection.run(
      'count keys',
      () => this.#statements.countRowsWithAges.execute({ named }),
      { mayTakeLong: true },
    )
    const unreadable = () => new Date(Number.NaN)
    return rows.map(({ oldest, newest, ...row }) => ({
      ...censusRow(row),
      oldest: oldest ?? unreadable(),
      newest: newest ?? unreadable(),
    }))
  }

  async countUnder(kekIds: readonly string[]): Promise<Map<string, number>> {
    const ids = arrayLiteral([...new Set(kekIds)])
    const rows = await this.#connection.run(
      'count keys',
      () => this.#statements.countUnderKeks.execute({ ids }),
      { mayTakeLong: true },
    )
    return new Map(rows.filter(({ count }) => count > 0).map(({ kekId, count }) => [kekId, count]))
  }

  async sampleRefs(limit: number, total: number): Promise<SampledRef[]> {
    // A sample of whole blocks, of which few rows have few: it could be none at all.
    const percent = total <= FEW_ROWS ? 100 : Math.min(100, (100 * limit * ROWS_PER_SAMPLE) / total)
    try {
      return await this.#connection.run('sample keys', () =>
        this.#statements.selectSampledRefs.execute({ percent, limit }),
      )
    } catch (error) {
      if (isTextRefused(error) || isUnsupported(error)) return []
      throw error
    }
  }

  async #storedFor(records: readonly KeyRecord[], deadline: Deadline): Promise<Map<string, KeyRecord[]>> {
    const stored = await this.#connection.run(
      'read keys',
      () => selectVersions(this.#statements, distinctUserIds(records)),
      { deadline },
    )
    return groupByUser(stored.map(storedRow).map(requireReadable))
  }

  /** Not synchronous_commit, which the store's own writes do not depend on. */
  async #settingFindings(run: RunSql): Promise<StoreFinding[]> {
    const rows = await run(
      sql`with recursive ${familyOf(this.#schema)}
        select name${castTo('text')}, setting, null as schema from pg_catalog.pg_settings
          where name ${EQUALS} any (array['fsync', 'full_page_writes']) and setting ${EQUALS} 'off'
        union all
        select c.relname${castTo('text')}, 'statistics', n.nspname${castTo('text')} from family f
          join pg_catalog.pg_attribute a on a.attrelid ${EQUALS} f.oid
          join pg_catalog.pg_class c on c.oid ${EQUALS} a.attrelid join pg_catalog.pg_namespace n on n.oid ${EQUALS} c.relnamespace
          where ${isSampled(sql`a`)}
        order by 1`,
    )
    const [server] = await run(sql`select pg_catalog.version() as version`)
    const isPglite = String(server?.version).includes('Emscripten')
    return rows.map(({ name, schema }): StoreFinding => {
      if (typeof schema === 'string') {
        const reason = samplesAreTaken({ schema, name: String(name) })
        return { severity: 'warning', kind: 'setting', reason }
      }
      if (isPglite) return { severity: 'note', kind: 'setting', reason: offInPglite(String(name)) }
      return { severity: 'warning', kind: 'setting', reason: `${name} is off: a crash can lose keys` }
    })
  }
}

/** Rows looked at for each one of a sample: blocks are chosen at random, and rows of one block may be neighbours. */
const ROWS_PER_SAMPLE = 4
const FEW_ROWS = 10_000

const NO_ROWS: ReadonlyMap<string, readonly KeyRecord[]> = new Map()

/**
 * Those whose users' rows are to be read after the insert: all but inserted rows of users whose first version was inserted. A user without rows
 * has none that a concurrent shred and a restore could both lock, so that each may miss what the other inserted: whichever of them reads later
 * finds it. But the tombstone of such a shred has version 1, and only one of the two can insert that.
 */
function recordsToRead(records: readonly KeyRecord[], inserted: ReadonlySet<KeyRecord>): KeyRecord[] {
  const others = records.filter((record) => record.version !== 1 || !inserted.has(record))
  if (others.length === 0) return others
  const first = [...inserted].filter(({ version }) => version === 1)
  const withFirst = new Set(first.map(({ userId }) => userId))
  return others.filter((record) => !inserted.has(record) || !withFirst.has(record.userId))
}

/** Whether exactly this live row is stored although its user has a tombstone. */
function isBesideTombstone(record: KeyRecord, stored: readonly KeyRecord[]): boolean {
  if (isTombstone(record) || !stored.some(isTombstone)) return false
  return stored.some(
    (row) =>
      row.version === record.version &&
      !isTombstone(row) &&
      Buffer.compare(row.encryptedKey, record.encryptedKey) === 0,
  )
}

function schemaFinding(reason: string): StoreFinding {
  return { severity: 'error', kind: 'schemaVersion', reason }
}

function offInPglite(setting: string): string {
  return (
    `${setting} is off, as PGlite has it: a power cut can lose the last keys, and with them what was encrypted under them. A key log outside ` +
    'the database (keyLog) shows which'
  )
}

function samplesAreTaken(table: TableName): string {
  const { name } = declaration.columns.encryptedKey
  return (
    `ANALYZE copies some of ${name} into pg_statistic, where a shred leaves it: ` +
    `alter table ${quotedTable(table)} alter column ${name} set statistics 0`
  )
}
