/** Builds the statements that count rows. */
import { type SQL, sql } from 'drizzle-orm'
import { MANY_TENANTS } from '../../../store.js'
import { EQUALS } from '../catalog.js'
import { shownText } from './decode.js'
import { arrayOf, type Fragments, text, unnested } from './fragments.js'

/** Counts by KEK id, version and tombstone, tenants' own rows apart. `:named` are the KEK ids that are named for those. */
export function countRows(fragments: Fragments) {
  return fragments.db
    .select(COUNTS)
    .from(counted(fragments))
    .groupBy(...GROUPS)
}

/** {@link countRows} with the oldest and newest `created_at` of each group. Null where all of them are infinite. */
export function countRowsWithAges(fragments: Fragments) {
  const ofFinite = (aggregate: SQL) =>
    sql<Date | null>`${aggregate}(created_at) filter (where pg_catalog.isfinite(created_at))`.mapWith(
      fragments.keys.createdAt,
    )
  const ages = { oldest: ofFinite(sql`pg_catalog.min`), newest: ofFinite(sql`pg_catalog.max`) }
  return fragments.db
    .select({ ...COUNTS, ...ages })
    .from(counted(fragments))
    .groupBy(...GROUPS)
}

/** For each of the KEK ids in `:ids` how many live rows of users are under it. */
export function countUnderKeks({ db, keys, isLiveOfUser, kekIdByBytes }: Fragments) {
  const count = sql<number>`(select pg_catalog.count(*)::int from ${keys} where ${isLiveOfUser} and ${kekIdByBytes} ${EQUALS} kek.id)`
  return db.select({ kekId: sql<string>`kek.id`, count }).from(sql`${unnested(arrayOf('ids'))} kek(id)`)
}

/** The rows with the KEK ids by which they are counted. Their number must not grow with that of tenants: each has keys, and maybe a root. */
function counted({ keys, isOfUser, isUnderTenant, kekIdByBytes }: Fragments): SQL {
  const isNamed = sql`${keys.kekId} is null or ${kekIdByBytes} ${EQUALS} any(${arrayOf('named')})`
  return sql`(select case
      when ${isOfUser} then case when ${isUnderTenant} then ${text(MANY_TENANTS)} else ${keys.kekId} end
      when ${isNamed} then ${keys.kekId} else ${text(MANY_TENANTS)} end as kek_id,
    ${keys.version}, ${keys.shreddedAt} is not null as shredded, not ${isOfUser} as of_tenants, ${keys.createdAt} from ${keys}) counted`
}

const COUNTS = {
  kekId: shownText(sql`kek_id`),
  version: sql<number>`version`,
  shredded: sql<boolean>`shredded`,
  count: sql<number>`pg_catalog.count(*)::int`,
  ofTenants: sql<boolean>`of_tenants`,
}
const GROUPS = [sql`kek_id`, sql`version`, sql`shredded`, sql`of_tenants`]
