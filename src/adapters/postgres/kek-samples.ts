/**
 * Samples of each KEK id for `open`, in a bounded time whatever the index holds.
 *
 * A rewrapped row leaves its entry under the old KEK id in the index. Until a vacuum removes it, and while any transaction has an older snapshot
 * none can, whoever reads the index goes through all of them and finds nothing: 0.2 s for a million, and 1 s the first time. No statement can
 * tell beforehand where these are. So each is cut off by the server after some milliseconds, and where one was, the rest is looked for around it:
 *
 * 1. All at once, by jumps from one KEK id to the next: exact, and all that is done on a table that is vacuumed.
 * 2. If that was cut off: rows in a few blocks of the table chosen at random, which show every KEK id that has a share of the rows worth naming;
 *    the ids that the caller knows; and those in the planner's statistics. Then the jumps in each gap between two of these ids.
 * 3. What was cut off there too is said. It may be that nothing is there.
 *
 * Only entries of an index are passed over so. Where something else takes the time, such as a lock, or nothing at all was found, all of the index is
 * looked through: nobody may take what was not looked at for an empty table.
 */
import { type SQL, sql } from 'drizzle-orm'
import type { SampleOptions, UnsearchedKeks } from '../../store.js'
import {
  compareUtf8,
  encryptionKeysDeclaration as declaration,
  isTenantKekId,
  type KeyRecord,
} from '../../table.js'
import { isReadable, storedRow } from '../stored-rows.js'
import { castTo, DIVIDED, EQUALS } from './catalog.js'
import type { PostgresConnection } from './connection.js'
import { isTextRefused, isUnsupported } from './statements/decode.js'
import type { KekGap, SampleQueries } from './statements/samples.js'

/** For all jumps at once. They take one or two milliseconds. */
const ALL_MS = 25
/** For one KEK id, or one gap between two. */
const PART_MS = 20
/** Once so many parts besides the caller's own ids have been cut off, the others are not tried. */
const MOST_CUT_OFF = 3
/** For what reads a bounded number of rows. */
const BOUNDED_MS = 2000
/** So many blocks of 8 KiB are read for a sample of the table. */
const BLOCKS = 100
const BLOCK_BYTES = 8192

export interface KekSampling extends Pick<SampleOptions, 'kekIds'> {
  readonly limit: number
  readonly schema: string
  readonly onUnsearched: (part: UnsearchedKeks) => void
}

/**
 * @returns null if all of the index has to be looked through after all, with the time and the waiting that it takes: somebody has locked the table,
 *   or the server gives not even a few blocks of it in time, or nothing was found, so that nothing shows whose rows these are; also if
 *   the server cannot send a text, so that the rows have to be read as bytes
 * @throws ERR_STORE
 */
export async function sampleKeks(
  connection: PostgresConnection,
  queries: SampleQueries,
  options: KekSampling,
): Promise<KeyRecord[] | null> {
  try {
    const { records, unsearched } = await new KekSampler(connection, queries, options).sample()
    if (records.length === 0 && unsearched.length > 0) return null
    for (const part of unsearched) options.onUnsearched(part)
    return records
  } catch (error) {
    if (error instanceof NotBriefly || isUnsupported(error) || isTextRefused(error)) return null
    throw error
  }
}

/** What must be known cannot be learnt in a short time. */
class NotBriefly extends Error {}

class KekSampler {
  readonly #connection: PostgresConnection
  readonly #queries: SampleQueries
  readonly #options: KekSampling
  readonly #unsearched: UnsearchedKeks[] = []
  #cutOff = 0

  constructor(connection: PostgresConnection, queries: SampleQueries, options: KekSampling) {
    this.#connection = connection
    this.#queries = queries
    this.#options = options
  }

  /** @throws NotBriefly · ERR_STORE */
  async sample(): Promise<{ records: KeyRecord[]; unsearched: readonly UnsearchedKeks[] }> {
    const { limit, schema, kekIds = [] } = this.#options
    const all = await this.#read(this.#queries.all(limit), ALL_MS)
    if (all !== null) return { records: all, unsearched: [] }

    const sampled = await this.#read(this.#queries.ofBlocks(limit, percentOf(schema)), BOUNDED_MS)
    // Not a table without rows.
    if (sampled === null) throw new NotBriefly()
    const found = new Map<string | null, KeyRecord[]>()
    for (const row of sampled) found.set(row.kekId, [...(found.get(row.kekId) ?? []), row])
    // First the caller's own, each of them: they show whether it has the right master keys.
    for (const kekId of new Set(kekIds)) {
      if (!found.has(kekId) && !isTenantKekId(kekId))
        found.set(kekId, await this.#part(this.#queries.ofKek(limit, kekId), { kekId }))
    }
    const [statistics] = (await this.#run(commonIds(schema), BOUNDED_MS)) ?? []
    const known = [...new Set([...textsOf(statistics?.ids), ...found.keys()])].filter(
      (id) => id !== null && !isTenantKekId(id),
    ) as string[]
    const records: KeyRecord[] = []
    for (const gap of gapsBetween(known.sort(compareUtf8)))
      records.push(...(await this.#partOfSome(this.#queries.inGap(limit, gap), { ...gap })))
    for (const kekId of [...known, null]) {
      const rows = found.get(kekId) ?? (await this.#partOfSome(this.#queries.ofKek(limit, kekId), { kekId }))
      records.push(...rows)
    }
    return { records, unsearched: this.#unsearched }
  }

  async #part(query: SQL, unsearched: UnsearchedKeks): Promise<KeyRecord[]> {
    const rows = await this.#read(query, PART_MS)
    if (rows === null) this.#unsearched.push(unsearched)
    return rows ?? []
  }

  /** Not tried any more once many have been cut off. */
  async #partOfSome(query: SQL, unsearched: UnsearchedKeks): Promise<KeyRecord[]> {
    if (this.#cutOff < MOST_CUT_OFF) {
      const before = this.#unsearched.length
      const rows = await this.#part(query, unsearched)
      this.#cutOff += this.#unsearched.length - before
      return rows
    }
    this.#unsearched.push(unsearched)
    return []
  }

  /** @returns null if the server has ended it */
  async #read(query: SQL, ms: number): Promise<KeyRecord[] | null> {
    const rows = await this.#run(query, ms)
    return rows?.map((row) => storedRow(this.#queries.decode(row))).filter(isReadable) ?? null
  }

  async #run(query: SQL, ms: number): Promise<readonly Record<string, unknown>[] | null> {
    const answer = await this.#connection.runBriefly('sample keys', query, ms)
    // A lock says nothing of what the index holds. Who looks at all of it waits for its end.
    if (answer === 'locked') throw new NotBriefly()
    return answer === 'ended' ? null : answer
  }
}

/** What is before, between and after the ids. @param ids sorted */
function gapsBetween(ids: readonly string[]): KekGap[] {
  return [null, ...ids].map((above, index) => ({ above, below: ids[index] ?? null }))
}

/** Which part of the table's blocks {@link BLOCKS} are: of partitions too. */
function percentOf(schema: string): SQL {
  const { name } = declaration
  const bytes = sql`(select pg_catalog.sum(size)${castTo('float8')} from (
    select pg_catalog.pg_relation_size(c.oid) as size, c.oid from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid ${EQUALS} c.relnamespace
      where n.nspname ${EQUALS} ${schema} and c.relname ${EQUALS} ${name}
    union select pg_catalog.pg_relation_size(p.relid), p.relid from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid ${EQUALS} c.relnamespace
      cross join lateral pg_catalog.pg_partition_tree(c.oid) p
      where n.nspname ${EQUALS} ${schema} and c.relname ${EQUALS} ${name}) sizes)`
  const wanted = sql.raw(`${100 * BLOCKS * BLOCK_BYTES}`)
  const least = sql.raw(`${BLOCKS * BLOCK_BYTES}`)
  return sql`(${wanted}${castTo('float8')} ${DIVIDED} greatest(${bytes}, ${least}${castTo('float8')}))`
}

/** The most frequent KEK ids at the last ANALYZE, which the table may have no more. */
function commonIds(schema: string): SQL {
  const { name, columns } = declaration
  return sql`select pg_catalog.array_to_json(most_common_vals${castTo('text')}${castTo('text[]')})${castTo('text')} as ids
    from pg_catalog.pg_stats where schemaname ${EQUALS} ${schema} and tablename ${EQUALS} ${name}
      and attname ${EQUALS} ${columns.kekId.name}`
}

function textsOf(json: unknown): string[] {
  const texts: unknown = typeof json === 'string' ? JSON.parse(json) : []
  return Array.isArray(texts) ? texts.filter((text) => typeof text === 'string') : []
}
