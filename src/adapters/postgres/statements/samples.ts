/** Builds the statements that take samples of each KEK id in parts. They are run rarely, in transactions of their own, and are not prepared. */
import { type SQL, sql } from 'drizzle-orm'
import { type KeyRecord, TENANT_KEK_IDS } from '../../../table.js'
import type { AnyPostgresDb } from '../access.js'
import { BY_BYTES, castTo, EQUALS, GREATER, LESS, NOT_GREATER, NOT_LESS } from '../catalog.js'
import { type Fragments, fragmentsFor, text } from './fragments.js'

/** KEK ids between two others; null: from the first, or to the last. */
export interface KekGap {
  readonly above: string | null
  readonly below: string | null
}

export type SampleQueries = ReturnType<typeof sampleQueries>

export function sampleQueries(db: AnyPostgresDb, schema: string) {
  const fragments = fragmentsFor(db, schema, '')
  const { keys } = fragments
  return {
    /** Up to `limit` users' live rows of each KEK id but those of tenants' keys, null included. */
    all: (limit: number) => sql`select * from ${samplesOf(fragments, sql`${limit}`)}`,
    /** Of the rows in some of the table's blocks up to `limit` of each KEK id. */
    ofBlocks: (limit: number, percent: SQL) => sql`select * from (select ${keys}.*,
      pg_catalog.row_number() over (partition by ${keys.kekId}) as n from ${keys} tablesample system ${percent}
      where ${fragments.isLiveOfUser} and not coalesce(${fragments.isUnderTenant}, false)) sampled
      where n ${NOT_GREATER} ${limit}${castTo('int8')}`,
    /** {@link all}, of the KEK ids in a gap. */
    inGap: (limit: number, gap: KekGap) => sql`select * from ${samplesInGap(fragments, sql`${limit}`, gap)}`,
    /** Of one KEK id, or of none. */
    ofKek: (limit: number, kekId: string | null) =>
      sql`select * from ${keys} where ${fragments.isLiveOfUser} and ${isUnder(fragments, kekId)}
        order by ${fragments.kekIdByBytes} limit ${limit}${castTo('int8')}`,
    /** A row of these statements. */
    decode(row: Record<string, unknown>): KeyRecord {
      const field = <Name extends keyof KeyRecord>(name: Name) => {
        const value = row[keys[name].name]
        return (value === null ? null : keys[name].mapFromDriverValue(value)) as KeyRecord[Name]
      }
      return {
        userId: field('userId'),
        version: field('version'),
        encryptedKey: field('encryptedKey'),
        kekId: field('kekId'),
        createdAt: field('createdAt'),
        wrappedAt: field('wrappedAt'),
        shreddedAt: field('shreddedAt'),
      }
    },
  }
}

/** The samples as a subquery. @param limit rows of each KEK id */
export function samplesOf(fragments: Fragments, limit: SQL): SQL {
  const { keys, isLiveOfUser, kekIdByBytes } = fragments
  return sql`(${samplesOfRange(fragments, limit, {})}
    union all
    (select * from ${keys} where ${isLiveOfUser} and kek_id is null order by ${kekIdByBytes} limit ${limit}::int)) sample`
}

function samplesInGap(fragments: Fragments, limit: SQL, { above, below }: KekGap): SQL {
  const { kekIdByBytes } = fragments
  const range = {
    ...(above === null ? {} : { above: sql`${kekIdByBytes} ${GREATER} ${above}${castTo('text')}` }),
    ...(below === null ? {} : { below: sql`${kekIdByBytes} ${LESS} ${below}${castTo('text')}` }),
  }
  return sql`(${samplesOfRange(fragments, limit, range)}) sample`
}

function samplesOfRange(
  { keys, isLiveOfUser, kekIdByBytes }: Fragments,
  limit: SQL,
  { above: isAbove, below: isBelow }: { readonly above?: SQL; readonly below?: SQL },
): SQL {
  const inRange = [isAbove, isBelow].filter((condition) => condition !== undefined)
  // Jumps from one KEK id to the next. "order by … limit" leaves the planner only the partial index. With a comparison for equality, and
  // statistics that are out of date, it would scan the table for the first rows that match.
  const first = (
    condition: SQL,
  ) => sql`(select ${kekIdByBytes} from ${keys} where ${isLiveOfUser} and ${sql.join([condition, ...inRange], sql` and `)}
    order by ${kekIdByBytes} limit 1)`
  const jumps = (name: string, isInRange: SQL) => {
    const kek = sql.raw(name)
    const next = first(sql`${isInRange} and ${kekIdByBytes} ${GREATER} ${kek}.id`)
    return sql`${kek}(id) as (${first(isInRange)} union all select ${next} from ${kek} where ${kek}.id is not null)`
  }
  // Over all tenants' keys at once.
  const before = jumps('below', sql`${kekIdByBytes} ${LESS} ${text(TENANT_KEK_IDS.from)}`)
  const behind = jumps('above', sql`${kekIdByBytes} ${NOT_LESS} ${text(TENANT_KEK_IDS.below)}`)
  return sql`with recursive ${before}, ${behind}, kek(id) as (select id from below union all select id from above)
      select row.* from kek cross join lateral (
        select * from ${keys} where ${isLiveOfUser} and ${kekIdByBytes} ${NOT_LESS} kek.id order by ${kekIdByBytes} limit ${limit}::int
      ) row where kek.id is not null and row.kek_id ${BY_BYTES} ${EQUALS} kek.id`
}

/** Bounds on both sides: a comparison for equality could be served by the primary key. */
function isUnder({ keys, kekIdByBytes }: Fragments, kekId: string | null): SQL {
  if (kekId === null) return sql`${keys.kekId} is null`
  const id = sql`${kekId}${castTo('text')}`
  return sql`${kekIdByBytes} ${NOT_LESS} ${id} and ${kekIdByBytes} ${NOT_GREATER} ${id}`
}
