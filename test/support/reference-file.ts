/** Files of the Python reference: the frozen one, others made like it, and a stand-in for its process. */
import { copyFileSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { root } from './migration-helpers.js'

const vectors = join(root, 'test', 'vectors')

interface ReferenceUser {
  readonly user_id: string
  readonly key_hex: string
  readonly tokens: readonly { readonly plaintext: string; readonly token: string }[]
}

export const reference: { readonly master_key_b64: string; readonly users: readonly ReferenceUser[] } =
  JSON.parse(readFileSync(join(vectors, 'reference.json'), 'utf8'))

/** A copy of the frozen file. @returns its path */
export function copyReference(folder: string, name = 'keys.sqlite'): string {
  const path = join(folder, name)
  copyFileSync(join(vectors, 'python-keys.sqlite'), path)
  return path
}

/** The reference's own statements, to the letter. */
export const REFERENCE_SQL = {
  create: `CREATE TABLE IF NOT EXISTS encryption_keys (
    user_id TEXT PRIMARY KEY,
    encrypted_key BLOB NOT NULL,
    created_at TEXT NOT NULL
    )`,
  select: 'SELECT encrypted_key FROM encryption_keys WHERE user_id = ?',
  insert: 'INSERT OR IGNORE INTO encryption_keys (user_id, encrypted_key, created_at) VALUES (?, ?, ?)',
}

/** A file with the given SQL run on it, by default the reference's empty table. */
export function makeFile(path: string, ...sql: string[]): string {
  const client = new Database(path)
  client.exec(sql.length === 0 ? REFERENCE_SQL.create : sql.join(';\n'))
  client.close()
  return path
}

export const REFERENCE_TIME = '2026-11-22T20:24:02.735394+00:00'

/** An INSERT of one row, each value as SQL. */
export function insertRow({ id = `'x'`, key = 'zeroblob(60)', at = `'${REFERENCE_TIME}'` }): string {
  return `insert into encryption_keys (user_id, encrypted_key, created_at) values (${id}, ${key}, ${at})`
}
