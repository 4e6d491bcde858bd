/** Files of the Python reference: a copy of the frozen one, and others made by the reference's own statements. */
import { copyFileSync } from 'node:fs'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { root } from './root.js'
import { referenceVectors } from './vectors.js'

const vectors = join(root, 'test', 'vectors')

/** What the reference wrote beside the frozen file: master key, raw keys, tokens. */
export const reference = referenceVectors()

/** A copy of the frozen file. @returns its path */
export function copyReference(folder: string, name = 'keys.sqlite'): string {
  const path = join(folder, name)
  copyFileSync(join(vectors, 'python-keys.sqlite'), path)
  return path
}

/** The reference's own statements, letter by letter. */
export const REFERENCE_SQL = {
  create: `CREATE TABLE IF NOT EXISTS encryption_keys (
    user_id TEXT PRIMARY KEY,
    encrypted_key BLOB NOT NULL,
    created_at TEXT NOT NULL
    )`,
  select: 'SELECT encrypted_key FROM encryption_keys WHERE user_id = ?',
  insert: 'INSERT OR IGNORE INTO encryption_keys (user_id, encrypted_key, created_at) VALUES (?, ?, ?)',
}

/** A file on which the given SQL was run; by default it has the reference's table, empty. @returns its path */
export function makeFile(path: string, ...sql: string[]): string {
  const client = new Database(path)
  client.exec(sql.length === 0 ? REFERENCE_SQL.create : sql.join(';\n'))
  client.close()
  return path
}

/** A time as the reference writes it. */
export const REFERENCE_TIME = '2026-11-22T20:24:02.735394+00:00'

/** The INSERT of one row, its values given as SQL. */
export function insertRow({ id = `'x'`, key = 'zeroblob(60)', at = `'${REFERENCE_TIME}'` }): string {
  return `insert into encryption_keys (user_id, encrypted_key, created_at) values (${id}, ${key}, ${at})`
}
