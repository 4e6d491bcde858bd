/** Prepares the statements of the Postgres store, once. */
import { arrayLiteral } from '../../../drivers/postgres-array.js'
import { sha256 } from '../../../format/aead.js'
import type { KeyRecord } from '../../../table.js'
import { activeOf } from '../../records.js'
import type { AnyPostgresDb } from '../access.js'
import { countRows, countRowsWithAges, countUnderKeks } from './counts.js'
import { fragmentsFor } from './fragments.js'
import {
  selectActiveOfUsers,
  selectHasLiveRow,
  selectPage,
  selectPageNotUnderKek,
  selectPageNotUnderKekWithBytes,
  selectPageUnderKek,
  selectPageUnderKekBefore,
  selectPageUnderKekWithBytes,
  selectPageWithBytes,
  selectPageWithoutKek,
  selectPageWithoutKekBefore,
  selectPageWithoutKekWithBytes,
  selectRefs,
  selectSample,
  selectSampledRefs,
  selectSampleWithBytes,
  selectVersionsOfUser,
  selectVersionsOfUsers,
  selectVersionsWithBytes,
} from './reads.js'
import {
  insertRows,
  insertRowsAndNotify,
  insertRowsWhileLive,
  insertTombstone,
  removeRows,
  removeTombstones,
  replaceWrappedKeys,
  replaceWrappedKeysWhileLive,
  restoreRows,
  shredRows,
} from './writes.js'

export type PostgresStatements = ReturnType<typeof prepareStatements>

export interface StatementOptions {
  /** Whether they are to have names. */
  readonly named: boolean
  /** Whether those that change rows notify. Default true. */
  readonly notify?: boolean | undefined
  /** Called with each statement's text and name, if they are to have names. */
  readonly nameStatement?: ((text: string, name: string) => void) | undefined
}

export function prepareStatements(
  db: AnyPostgresDb,
  schema: string,
  { named, notify = true, nameStatement = () => undefined }: StatementOptions,
) {
  const fragments = fragmentsFor(db, schema, notify ? channelOf(schema) : null)
  // The schema is part of the name: one pool may serve several schemas, and pg requires that a name always has the same text.
  const prefix = `keystore_${shortHash(schema)}${notify ? '' : '_silent'}`
  const name = (statement: string) => (named ? `${prefix}_${statement}` : '')
  const statements = {
    selectVersionsOfUser: selectVersionsOfUser(fragments).prepare(name('select_versions_of_user')),
    selectVersionsOfUsers: selectVersionsOfUsers(fragments).prepare(name('select_versions_of_users')),
    selectActiveOfUsers: selectActiveOfUsers(fragments).prepare(name('select_active_of_users')),
    selectPage: selectPage(fragments).prepare(name('select_page')),
    selectPageNotUnderKek: selectPageNotUnderKek(fragments).prepare(name('select_page_not_under_kek')),
    selectPageUnderKek: selectPageUnderKek(fragments).prepare(name('select_page_under_kek')),
    selectPageUnderKekWithBytes: selectPageUnderKekWithBytes(fragments).prepare(
      name('select_page_under_kek_with_bytes'),
    ),
    selectPageWithoutKek: selectPageWithoutKek(fragments).prepare(name('select_page_without_kek')),
    selectPageWithoutKekWithBytes: selectPageWithoutKekWithBytes(fragments).prepare(
      name('select_page_without_kek_with_bytes'),
    ),
    selectPageUnderKekBefore: selectPageUnderKekBefore(fragments).prepare(
      name('select_page_under_kek_before'),
    ),
    selectPageWithoutKekBefore: selectPageWithoutKekBefore(fragments).prepare(
      name('select_page_without_kek_before'),
    ),
    selectSampledRefs: selectSampledRefs(fragments).prepare(name('select_sampled_refs')),
    selectSample: selectSample(fragments).prepare(name('select_sample')),
    selectVersionsWithBytes: selectVersionsWithBytes(fragments).prepare(name('select_versions_with_bytes')),
    selectPageWithBytes: selectPageWithBytes(fragments).prepare(name('select_page_with_bytes')),
    selectPageNotUnderKekWithBytes: selectPageNotUnderKekWithBytes(fragments).prepare(
      name('select_page_not_under_kek_with_bytes'),
    ),
    selectSampleWithBytes: selectSampleWithBytes(fragments).prepare(name('select_sample_with_bytes')),
    selectHasLiveRow: selectHasLiveRow(fragments).prepare(name('select_has_live_row')),
    selectRefs: selectRefs(fragments).prepare(name('select_refs')),
    insertRows: insertRows(fragments).prepare(name('insert_rows')),
    insertRowsAndNotify: insertRowsAndNotify(fragments).prepare(name('insert_rows_and_notify')),
    insertRowsWhileLive: insertRowsWhileLive(fragments).prepare(name('insert_rows_while_live')),
    restoreRows: restoreRows(fragments).prepare(name('restore_rows')),
    insertTombstone: insertTombstone(fragments).prepare(name('insert_tombstone')),
    replaceWrappedKeys: replaceWrappedKeys(fragments).prepare(name('replace_wrapped_keys')),
    replaceWrappedKeysWhileLive: replaceWrappedKeysWhileLive(fragments).prepare(
      name('replace_wrapped_keys_while_live'),
    ),
    shredRows: shredRows(fragments).prepare(name('shred_rows')),
    removeRows: removeRows(fragments).prepare(name('remove_rows')),
    removeTombstones: removeTombstones(fragments).prepare(name('remove_tombstones')),
    countRows: countRows(fragments).prepare(name('count_rows')),
    countRowsWithAges: countRowsWithAges(fragments).prepare(name('count_rows_with_ages')),
    countUnderKeks: countUnderKeks(fragments).prepare(name('count_under_keks')),
  }
  if (named)
    for (const [key, statement] of Object.entries(statements))
      nameStatement(statement.getQuery().sql, `${prefix}_${key}`)
  return statements
}

/** Every row of some users. For one user, the most frequent case, by a query that is simple to plan. */
export function selectVersions(
  statements: PostgresStatements,
  userIds: readonly string[],
): Promise<KeyRecord[]> {
  const [userId] = userIds
  if (userIds.length === 1) return statements.selectVersionsOfUser.execute({ userId })
  return statements.selectVersionsOfUsers.execute({ ids: arrayLiteral([...new Set(userIds)]) })
}

/** For each user the active row: a tombstone if there is any, else the highest version. */
export async function selectActive(
  statements: PostgresStatements,
  userIds: readonly string[],
): Promise<KeyRecord[]> {
  if (userIds.length === 1) return activeOf(await selectVersions(statements, userIds))
  return statements.selectActiveOfUsers.execute({ ids: arrayLiteral([...new Set(userIds)]) })
}

/** The notification channel that all stores of one schema use. */
export function channelOf(schema: string): string {
  return `drizzle_keystore_${shortHash(schema)}`
}

function shortHash(schema: string): string {
  return sha256([schema]).toString('hex', 0, 4)
}
