/** Builds the statements that count rows. */
import { type SQL, sql } from 'drizzle-orm'
import { shownText } from './decode.js'
import type { Fragments } from './fragments.js'

/** Counts by KEK id, version and tombstone. */
export function countRows({ db, keys }: Fragments) {
  return db
    .select(countColumns(keys))
    .from(keys)
    .groupBy(...groups(keys))
}

/** {@link countRows} with the oldest and newest `created_at` of each group. Null where all of them are infinite. */
export function countRowsWithAges({ db, keys }: Fragments) {
  const ofFinite = (aggregate: SQL) =>
    sql<Date | null>`${aggregate}(${keys.createdAt}) filter (where pg_catalog.isfinite(${keys.createdAt}))`.mapWith(
      keys.createdAt,
    )
  const ages = { oldest: ofFinite(sql`pg_catalog.min`), newest: ofFinite(sql`pg_catalog.max`) }
  return db
    .select({ ...countColumns(keys), ...ages })
    .from(keys)
    .groupBy(...groups(keys))
}

type KeysTable = Fragments['keys']

function isTombstone({ shreddedAt }: KeysTable) {
  return sql<boolean>`${shreddedAt} is not null`
}

function countColumns(keys: KeysTable) {
  const { kekId, version } = keys
  return {
    kekId: shownText(kekId),
    version,
    shredded: isTombstone(keys),
    count: sql<number>`pg_catalog.count(*)::int`,
  }
}

function groups(keys: KeysTable) {
  return [keys.kekId, keys.version, isTombstone(keys)] as const
}
