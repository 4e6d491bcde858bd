/** Prepares the statements of the SQLite store, once: prepared they are about ten times as fast as built for each run. */
import type { SqliteClient } from '../../../drivers/sqlite-client.js'
import { activeOf } from '../../records.js'
import type { StoredRow } from '../../stored-rows.js'
import { prepareDirect, prepareRowsDirect } from './direct.js'
import { preparePages } from './pages.js'
import { type SqliteQueries, sqliteQueries } from './queries.js'

export type SqliteStatements = ReturnType<typeof prepareStatements>

export function prepareStatements(client: SqliteClient) {
  const queries = sqliteQueries()
  const prepare = (name: Exclude<keyof SqliteQueries, 'pages' | 'rows' | 'restoreRows'>) =>
    prepareDirect(client, queries[name])
  return {
    selectVersionsOfUser: prepare('selectVersionsOfUser'),
    selectVersionsOfUsers: prepare('selectVersionsOfUsers'),
    selectActiveOfUsers: prepare('selectActiveOfUsers'),
    selectSampleOfKek: prepare('selectSampleOfKek'),
    insertRow: prepare('insertRow'),
    restoreRow: prepare('restoreRow'),
    restoreRows: prepareRowsDirect(client, queries.restoreRows),
    insertTombstone: prepare('insertTombstone'),
    replaceWrappedKey: prepare('replaceWrappedKey'),
    shredRows: prepare('shredRows'),
    removeRow: prepare('removeRow'),
    removeRowsOfUser: prepare('removeRowsOfUser'),
    selectKekIds: prepare('selectKekIds'),
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
