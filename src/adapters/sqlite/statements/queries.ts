/** The statements of the SQLite store, built once. A synchronous driver prepares them, an asynchronous one is given their text. */
import { encryptionKeys as keys } from '../schema.js'
import { rowsStatementOf, type Statement, statementOf } from './bind.js'
import {
  countRows,
  countRowsOfPart,
  countRowsOfPartWithAges,
  countRowsWithAges,
  countUnderKeks,
  countUnderKeksToMost,
  countUsersBelow,
  countUsersFrom,
  selectKekIds,
  selectUserBehind,
} from './counts.js'
import { type QueryBuilder, queryBuilder } from './fragments.js'
import {
  type PageOptions,
  selectActiveOfUsers,
  selectPage,
  selectRefBehind,
  selectRefsAt,
  selectRowNumbers,
  selectRowsWithBytes,
  selectSampleOfKek,
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
  restoreRows,
  shredRows,
} from './writes.js'

export type SqliteQueries = ReturnType<typeof buildQueries>

/** Of a page: whether it is the first; whether it has all rows, or only those that are not, or are, under one KEK id, and perhaps only those before a ref. */
export type PageKind = `${'first' | 'next'}${'' | `${'NotUnderKek' | 'UnderKek'}${'' | 'Before'}`}`

let built: SqliteQueries | null = null

export function sqliteQueries(): SqliteQueries {
  built ??= buildQueries(queryBuilder())
  return built
}

function buildQueries(db: QueryBuilder) {
  return {
    selectVersionsOfUser: statementOf(selectVersionsOfUser(db)),
    selectVersionsOfUsers: statementOf(selectVersionsOfUsers(db)),
    selectActiveOfUsers: statementOf(selectActiveOfUsers(db)),
    selectSampleOfKek: statementOf(selectSampleOfKek(db)),
    insertRow: statementOf(insertRow(db)),
    restoreRow: statementOf(restoreRow(db)),
    restoreRows: rowsStatementOf(restoreRows(db, ROWS_A_STATEMENT), ROWS_A_STATEMENT),
    insertTombstone: statementOf(insertTombstone(db)),
    replaceWrappedKey: statementOf(replaceWrappedKey(db)),
    shredRows: statementOf(shredRows(db).returning({ version: keys.version, kekId: keys.kekId })),
    removeRow: statementOf(removeRow(db)),
    removeRowsOfUser: statementOf(removeRowsOfUser(db)),
    selectKekIds: statementOf(selectKekIds(db)),
    countRows: statementOf(countRows(db)),
    countRowsWithAges: statementOf(countRowsWithAges(db)),
    countRowsOfPart: statementOf(countRowsOfPart(db)),
    countRowsOfPartWithAges: statementOf(countRowsOfPartWithAges(db)),
    countUnderKeks: statementOf(countUnderKeks(db)),
    countUnderKeksToMost: statementOf(countUnderKeksToMost(db)),
    selectUserBehind: statementOf(selectUserBehind(db)),
    countUsersBelow: statementOf(countUsersBelow(db)),
    countUsersFrom: statementOf(countUsersFrom(db)),
    selectRowNumbers: statementOf(selectRowNumbers(db)),
    selectRefsAt: statementOf(selectRefsAt(db)),
    selectFirstRefBehind: statementOf(selectRefBehind(db, { first: true })),
    selectRefBehind: statementOf(selectRefBehind(db, { first: false })),
    pages: statementsByKind((options) => statementOf(selectPage(db, options))),
    /** The rows from a page on, each with the bytes of its texts. */
    rows: statementsByKind((options) => statementOf(selectRowsWithBytes(db, options))),
  }
}

/** More make no difference: of each row the three trees take most of the time. */
const ROWS_A_STATEMENT = 20

const PLACES = ['first', 'next'] as const
const ROWS = {
  '': 'all',
  NotUnderKek: 'notUnderKek',
  NotUnderKekBefore: 'notUnderKekBefore',
  UnderKek: 'underKek',
  UnderKekBefore: 'underKekBefore',
} as const

function statementsByKind(build: (options: PageOptions) => Statement): Readonly<Record<PageKind, Statement>> {
  const kinds = PLACES.flatMap((place) =>
    Object.entries(ROWS).map(([suffix, rows]) => [
      `${place}${suffix}`,
      build({ first: place === 'first', rows }),
    ]),
  )
  return Object.fromEntries(kinds) as Record<PageKind, Statement>
}
