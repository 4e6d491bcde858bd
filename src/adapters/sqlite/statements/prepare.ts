/** Prepares the statements of the SQLite store, once: prepared they are about ten times as fast as built for each run. */
import type { SqliteClient } from '../../../drivers/sqlite-client.js'
import type { KeyRecord } from '../../../table.js'
import { activeOf } from '../../records.js'
import { countRows, countRowsWithAges, selectKekIds } from './counts.js'
import { prepareDirect } from './direct.js'
import { queryBuilder } from './fragments.js'
import {
  selectActiveOfUsers,
  selectOfUser,
  selectOfUsers,
  selectPage,
  selectPageNotUnderKek,
  selectSampleOfKek,
  selectSampleWithoutKek,
} from './reads.js'
import {
  insertRow,
  insertTombstone,
  removeRow,
  removeUser,
  replaceWrapped,
  restoreRow,
  shredUser,
} from './writes.js'

export type SqliteStatements = ReturnType<typeof prepareStatements>

export function prepareStatements(client: SqliteClient) {
  const db = queryBuilder(client)
  return {
    ofUser: prepareDirect(client, selectOfUser(db)),
    ofUsers: prepareDirect(client, selectOfUsers(db)),
    activeOfUsers: prepareDirect(client, selectActiveOfUsers(db)),
    list: prepareDirect(client, selectPage(db)),
    listNotKek: prepareDirect(client, selectPageNotUnderKek(db)),
    sampleOfKek: prepareDirect(client, selectSampleOfKek(db)),
    sampleWithoutKek: prepareDirect(client, selectSampleWithoutKek(db)),
    insert: prepareDirect(client, insertRow(db)),
    restore: prepareDirect(client, restoreRow(db)),
    insertTombstone: insertTombstone(db).prepare(),
    replace: prepareDirect(client, replaceWrapped(db)),
    shred: shredUser(db).prepare(),
    remove: removeRow(db).prepare(),
    removeUser: removeUser(db).prepare(),
    kekIds: selectKekIds(db).prepare(),
    census: countRows(db).prepare(),
    datedCensus: countRowsWithAges(db).prepare(),
  }
}

/** Every row of some users. For one user, the most frequent case, without a list in JSON. */
export function selectVersions(statements: SqliteStatements, userIds: readonly string[]): KeyRecord[] {
  const [userId] = userIds
  if (userId === undefined) return []
  return userIds.length === 1
    ? statements.ofUser.all({ userId })
    : statements.ofUsers.all({ ids: JSON.stringify(userIds) })
}

/** For each user the active row: a tombstone if there is any, else the highest version. */
export function selectActive(statements: SqliteStatements, userIds: readonly string[]): KeyRecord[] {
  if (userIds.length !== 1) return statements.activeOfUsers.all({ ids: JSON.stringify(userIds) })
  return activeOf(selectVersions(statements, userIds))
}
