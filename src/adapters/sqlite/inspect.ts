/** What is wrong with a SQLite database itself, beside its rows. */
import { statSync } from 'node:fs'
import { describeDriverError } from '../../drivers/driver-error.js'
import type { SqliteClient } from '../../drivers/sqlite-client.js'
import type { StoreFinding } from '../../store.js'
import type { MigrateMode } from '../migrator.js'
import { schemaProblem } from './migrate.js'

export interface InspectedPlace {
  readonly place: 'file' | 'memory' | 'host'
  readonly path: string | null
  readonly migrate: MigrateMode
}

/** Reads the whole database, and keeps the event loop for as long. */
export function inspectSqlite(client: SqliteClient, inspected: InspectedPlace): StoreFinding[] {
  const findings = [...settingFindings(client, inspected), ...fileModeFindings(inspected)]
  const damage = damageOf(client)
  // What a damaged file says of its schema is not to be believed, and may not even be readable.
  if (damage !== null) return [...findings, { severity: 'error', kind: 'damage', reason: damage }]
  const problem = schemaProblem(client, inspected.migrate)
  if (problem === null) return findings
  return [...findings, { severity: 'error', kind: 'schemaVersion', reason: problem }]
}

function settingFindings(client: SqliteClient, { place }: InspectedPlace): StoreFinding[] {
  const reasons: string[] = []
  const value = (pragma: string) => client.pragma(pragma, { simple: true })
  if (isOnDisk(client)) {
    const journal = value('journal_mode')
    if (journal !== 'wal')
      reasons.push(
        `journal_mode is ${journal}, so that readers and writers wait for each other: set journal_mode = WAL`,
      )
    if (Number(value('synchronous')) < FULL)
      reasons.push(
        'synchronous is less than FULL: a power cut can lose a key that already encrypted data: set synchronous = FULL',
      )
    // FAST (2) leaves pages that become free as they were.
    if (value('secure_delete') !== 1)
      reasons.push('secure_delete is not ON: erased keys stay in the file: set secure_delete = ON')
  }
  return reasons.map((reason) => ({
    severity: place === 'host' ? 'warning' : 'error',
    kind: 'setting',
    reason,
  }))
}

/** Of `PRAGMA synchronous`. */
const FULL = 2

function isOnDisk(client: SqliteClient): boolean {
  const databases = client.pragma('database_list') as readonly {
    readonly name: string
    readonly file: string
  }[]
  return databases.some(({ name, file }) => name === 'main' && file !== '')
}

/** Windows has no such modes. */
function fileModeFindings({ place, path }: InspectedPlace): StoreFinding[] {
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

/** Names tables, pages and rowids, no values. */
function damageOf(client: SqliteClient): string | null {
  try {
    const found = client.pragma('quick_check(1)', { simple: true })
    return found === 'ok' ? null : `The file is damaged: restore a backup (quick_check: ${found})`
  } catch (error) {
    const { code, description } = describeDriverError(error)
    if (!code?.startsWith('SQLITE_CORRUPT')) throw error
    return `The file is damaged: restore a backup (${description})`
  }
}
