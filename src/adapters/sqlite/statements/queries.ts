/** The statements of the SQLite store, built once. A synchronous driver prepares them, an asynchronous one is given their text. */
import { encryptionKeys as keys } from '../schema.js'
import { type Statement, statementOf } from './bind.js'
import { countRows, countRowsWithAges, selectKekIds } from './counts.js'
import { type QueryBuilder, queryBuilder } from './fragments.js'
import {
  selectActiveOfUsers,
  selectPage,
  selectRowsWithBytes,
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

export type SqliteQueries = ReturnType<typeof buildQueries>

/** Of a page: whether it is the first, and whether it leaves out rows under one KEK id. */
export type PageKind = `${'first' | 'next'}${'' | 'NotUnderKek'}`

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
    selectSampleWithoutKek: statementOf(selectSampleWithoutKek(db)),
    insertRow: statementOf(insertRow(db)),
    restoreRow: statementOf(restoreRow(db)),
    insertTombstone: statementOf(insertTombstone(db)),
    replaceWrappedKey: statementOf(replaceWrappedKey(db)),
    shredRows: statementOf(shredRows(db).returning({ version: keys.version, kekId: keys.kekId })),
    removeRow: statementOf(removeRow(db)),
    removeRowsOfUser: statementOf(removeRowsOfUser(db)),
    selectKekIds: statementOf(selectKekIds(db)),
    countRows: statementOf(countRows(db)),
    countRowsWithAges: statementOf(countRowsWithAges(db)),
    pages: statementsByKind((kind) => statementOf(selectPage(db, optionsOf(kind)))),
    /** The rows from a page on, each with the bytes of its texts. */
    rows: statementsByKind((kind) => statementOf(selectRowsWithBytes(db, optionsOf(kind)))),
  }
}

const KINDS: readonly PageKind[] = ['first', 'firstNotUnderKek', 'next', 'nextNotUnderKek']

function optionsOf(kind: PageKind) {
  return { first: kind.startsWith('first'), notUnderKek: kind.endsWith('Kek') }
}

function statementsByKind(build: (kind: PageKind) => Statement): Readonly<Record<PageKind, Statement>> {
  return Object.fromEntries(KINDS.map((kind) => [kind, build(kind)])) as Record<PageKind, Statement>
}
