/** Finds what is wrong with a SQLite database itself: its settings, file modes, schema version, and damage. */
import { statSync } from 'node:fs'
import { describeDriverError } from '../../drivers/driver-error.js'
import type { SqliteClient } from '../../drivers/sqlite-client.js'
import { printable } from '../../errors.js'
import type { StoreFinding } from '../../store.js'
import type { SqliteConnection } from './connection.js'
import { copiersOf } from './copiers.js'
import { schemaProblem } from './migrate.js'

type InspectedDatabase = Pick<SqliteConnection, 'place' | 'path' | 'migrate' | 'journalMode'>

/** Reads the whole database. Synchronous, so that it blocks the event loop for as long. */
export function inspectSqlite(client: SqliteClient, inspected: InspectedDatabase): StoreFinding[] {
  const findings = [...settingFindings(client, inspected), ...fileModeFindings(inspected)]
  const damage = damageOf(client)
  // The schema of a damaged file cannot be trusted, and may not even be readable.
  if (damage !== null) return [...findings, { severity: 'error', kind: 'damage', reason: damage }]
  const copies = copiersOf(client)
  if (copies !== null) findings.push({ severity: 'warning', kind: 'copies', reason: copies })
  const problem = schemaProblem(client, inspected.migrate)
  if (problem === null) return findings
  return [...findings, { severity: 'error', kind: 'schemaVersion', reason: problem }]
}

function settingFindings(client: SqliteClient, { place, journalMode }: InspectedDatabase): StoreFinding[] {
  if (!isOnDisk(client)) return []
  const findings: StoreFinding[] = []
  const add = (isOurs: boolean, reason: string) =>
    findings.push({ severity: isOurs ? 'error' : 'warning', kind: 'setting', reason })
  const value = (pragma: string) => client.pragma(pragma, { simple: true })
  const journal = value('journal_mode')
  if (journal !== 'wal')
    add(
      place !== 'host' && journalMode === 'wal',
      `journal_mode is ${journal}, so that readers and writers wait for each other: set journal_mode = WAL`,
    )
  if (Number(value('synchronous')) < FULL)
    add(
      place !== 'host',
      'synchronous is less than FULL: a power cut can lose a key that already encrypted data: set synchronous = FULL',
    )
  // FAST (2) does not clear pages that become free.
  if (value('secure_delete') !== 1)
    add(place !== 'host', 'secure_delete is not ON: erased keys stay in the file: set secure_delete = ON')
  return findings
}

/** A value of `PRAGMA synchronous`. */
const FULL = 2

function isOnDisk(client: SqliteClient): boolean {
  const databases = client.pragma('database_list') as readonly {
    readonly name: string
    readonly file: string
  }[]
  return databases.some(({ name, file }) => name === 'main' && file !== '')
}

/** Findings about who may read the files. Windows has no such modes. */
function fileModeFindings({ place, path }: InspectedDatabase): StoreFinding[] {
  if (place !== 'file' || path === null || process.platform === 'win32') return []
  return [path, `${path}-wal`, `${path}-shm`].flatMap((file) => {
    const mode = statSync(file, { throwIfNoEntry: false })?.mode ?? 0
    if ((mode & 0o077) === 0) return []
    const shown = (mode & 0o777).toString(8)
    return {
      severity: 'warning',
      kind: 'fileMode',
      reason: `${file} has mode ${shown}, which is not for its owner alone: chmod 600 ${file}`,
    }
  })
}

/**
 * What `quick_check` found, or null. It names tables, pages and rowids, and quotes no value. A row that breaks a CHECK is no damage of the
 * file: whoever reads all rows names it.
 */
function damageOf(client: SqliteClient): string | null {
  const ignored = client.pragma('ignore_check_constraints', { simple: true })
  client.pragma('ignore_check_constraints = ON')
  try {
    const found = client.pragma('quick_check(1)', { simple: true })
    return found === 'ok'
      ? null
      : `The file is damaged: restore a backup (quick_check: ${printable(String(found), 1000)})`
  } catch (error) {
    const { code, description } = describeDriverError(error)
    if (!code?.startsWith('SQLITE_CORRUPT')) throw error
    return `The file is damaged: restore a backup (${description})`
  } finally {
    client.pragma(`ignore_check_constraints = ${ignored}`)
  }
}
