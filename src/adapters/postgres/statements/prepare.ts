/** Prepares the statements of the Postgres store, once. */
import { sha256 } from '../../../format/aead.js'
import type { KeyRecord } from '../../../table.js'
import { activeOf } from '../../records.js'
import type { AnyPostgresDb } from '../connection.js'
import { countRows, countRowsWithAges } from './counts.js'
import { fragmentsFor } from './fragments.js'
import {
  selectActiveOfUsers,
  selectIsLive,
  selectOfUser,
  selectOfUsers,
  selectPage,
  selectPageNotUnderKek,
  selectSample,
} from './reads.js'
import {
  insertRows,
  insertRowsAndNotify,
  insertTombstone,
  removeRows,
  removeTombstones,
  replaceWrapped,
  restoreRows,
  shredUser,
} from './writes.js'

export type PostgresStatements = ReturnType<typeof prepareStatements>

export function prepareStatements(db: AnyPostgresDb, schema: string, named: boolean) {
  const fragments = fragmentsFor(db, schema, channelOf(schema))
  // The schema is part of the name: one pool may serve several schemas, and pg requires that a name always has the same text.
  const prefix = `keystore_${shortHash(schema)}`
  const name = (statement: string) => (named ? `${prefix}_${statement}` : '')
  return {
    ofUser: selectOfUser(fragments).prepare(name('of_user')),
    ofUsers: selectOfUsers(fragments).prepare(name('of_users')),
    activeOfUsers: selectActiveOfUsers(fragments).prepare(name('active_of_users')),
    list: selectPage(fragments).prepare(name('list')),
    listNotKek: selectPageNotUnderKek(fragments).prepare(name('list_not_kek')),
    sample: selectSample(fragments).prepare(name('sample')),
    isLive: selectIsLive(fragments).prepare(name('is_live')),
    insert: insertRows(fragments).prepare(name('insert')),
    insertAndNotify: insertRowsAndNotify(fragments).prepare(name('insert_and_notify')),
    restore: restoreRows(fragments).prepare(name('restore')),
    insertTombstone: insertTombstone(fragments).prepare(name('insert_tombstone')),
    replace: replaceWrapped(fragments).prepare(name('replace')),
    shred: shredUser(fragments).prepare(name('shred')),
    remove: removeRows(fragments).prepare(name('remove')),
    removeTombstones: removeTombstones(fragments).prepare(name('remove_tombstones')),
    census: countRows(fragments).prepare(name('census')),
    datedCensus: countRowsWithAges(fragments).prepare(name('dated_census')),
  }
}

/** Every row of some users. For one user, the most frequent case, by a query that is simple to plan. */
export function selectVersions(
  statements: PostgresStatements,
  userIds: readonly string[],
): Promise<KeyRecord[]> {
  const [userId] = userIds
  if (userIds.length === 1) return statements.ofUser.execute({ userId })
  return statements.ofUsers.execute({ ids: [...new Set(userIds)] })
}

/** For each user the active row: a tombstone if there is any, else the highest version. */
export async function selectActive(
  statements: PostgresStatements,
  userIds: readonly string[],
): Promise<KeyRecord[]> {
  if (userIds.length === 1) return activeOf(await selectVersions(statements, userIds))
  return statements.activeOfUsers.execute({ ids: [...new Set(userIds)] })
}

/** The notification channel that all stores of one schema use. */
export function channelOf(schema: string): string {
  return `drizzle_keystore_${shortHash(schema)}`
}

function shortHash(schema: string): string {
  return sha256([schema]).toString('hex', 0, 4)
}
