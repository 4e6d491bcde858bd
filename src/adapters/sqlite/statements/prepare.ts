/** Prepares the statements of the SQLite store, once: prepared they are about ten times as fast as built for each run. */
import type { SqliteClient } from '../../../drivers/sqlite-client.js'
import { activeOf } from '../../records.js'
import type { StoredRow } from '../../stored-rows.js'
import { encryptionKeys as keys } from '../schema.js'
import { countRows, countRowsWithAges, selectKekIds } from './counts.js'
import { prepareDirect } from './direct.js'
import { queryBuilder } from './fragments.js'
import { preparePages } from './pages.js'
import {
  selectActiveOfUsers,
  selectSampleOfKek,
  selectSampleWithoutKek,
  selectVersionsOfUser,
  selectVersionsOfUsers,
} from './reads.js'
import {
  insertRow,
  insertTombstone,
  removeRow,
  removeRowsOfUser,
  replaceWrappedKey,
  restoreRow,
  shredRows,
} from './writes.js'

export type SqliteStatements = ReturnType<typeof prepareStatements>

export function prepareStatements(client: SqliteClient) {
  const db = queryBuilder(client)
  return {
    selectVersionsOfUser: prepareDirect(client, selectVersionsOfUser(db)),
    selectVersionsOfUsers: prepareDirect(client, selectVersionsOfUsers(db)),
    selectActiveOfUsers: prepareDirect(client, selectActiveOfUsers(db)),
    selectSampleOfKek: prepareDirect(client, selectSampleOfKek(db)),
    selectSampleWithoutKek: prepareDirect(client, selectSampleWithoutKek(db)),
    insertRow: prepareDirect(client, insertRow(db)),
    restoreRow: prepareDirect(client, restoreRow(db)),
    insertTombstone: insertTombstone(db).prepare(),
    replaceWrappedKey: prepareDirect(client, replaceWrappedKey(db)),
    shredRows: shredRows(db).returning({ version: keys.version, kekId: keys.kekId }).prepare(),
    removeRow: removeRow(db).prepare(),
    removeRowsOfUser: removeRowsOfUser(db).prepare(),
    selectKekIds: selectKekIds(db).prepare(),
    countRows: countRows(db).prepare(),
    countRowsWithAges: countRowsWithAges(db).prepare(),
    pages: preparePages(client),
  }
}

/** Every row of some users. For one user, the most frequent case, without a list in JSON. */
export function selectVersions(statements: SqliteStatements, userIds: readonly string[]): StoredRow[] {
  const [userId] = userIds
  if (userId === undefined) return []
  return userIds.length === 1
    ? statements.selectVersionsOfUser.all({ userId })
    : statements.selectVersionsOfUsers.all({ ids: JSON.stringify(userIds) })
}

/** For each user the active row: a tombstone if there is any, else the highest version. */
export function selectActive(statements: SqliteStatements, userIds: readonly string[]): StoredRow[] {
  if (userIds.length !== 1) return statements.selectActiveOfUsers.all({ ids: JSON.stringify(userIds) })
  return activeOf(selectVersions(statements, userIds))
}
