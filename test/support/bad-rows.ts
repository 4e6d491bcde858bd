/** Rows of every kind that is no record, written past the library, each with what names it in a report. */
import Database from 'better-sqlite3'
import { asAdmin, type Dialect } from './databases.js'

export interface BadRow {
  readonly name: string
  /** SQL of the user id. */
  readonly id: string
  /** SQL of the other columns, where they are not those of a good row. */
  readonly version?: string
  readonly columns?: Readonly<Record<string, string>>
  /** The user and the version in a report. */
  readonly shown: string
}

const BIG_VERSION = '9007199254740993'

const everywhere: readonly BadRow[] = [
  { name: 'an id of 2,000 bytes', id: `'${'long'.repeat(500)}'`, shown: `${'long'.repeat(16)}… 1` },
  { name: 'version 2^53+1', id: `'big'`, version: BIG_VERSION, shown: 'big 9007199254740993' },
  { name: 'version 0', id: `'zero'`, version: '0', shown: 'zero 0' },
  { name: 'version -1 of the pool', id: `''`, version: '-1', shown: ' -1' },
]

const onSqlite: readonly BadRow[] = [
  { name: 'an id that is not UTF-8', id: `cast(x'ff80' as text)`, shown: `x'ff80' 1` },
  {
    name: 'an id that is not UTF-8, version 2',
    id: `cast(x'ff80' as text)`,
    version: '2',
    shown: `x'ff80' 2`,
  },
  { name: 'a lone continuation byte', id: `cast(x'6180' as text)`, shown: `x'6180' 1` },
  { name: 'a lone surrogate', id: `cast(x'eda080' as text)`, shown: `x'eda080' 1` },
  { name: 'a blob as id', id: `x'00ff'`, shown: `x'00ff' 1` },
  { name: 'a blob that spells a good id', id: `cast('alice' as blob)`, shown: `x'616c696365' 1` },
  {
    name: 'an id of 10 MB',
    id: `'z' || replace(hex(zeroblob(5000000)), '0', 'z')`,
    shown: `${'z'.repeat(64)}… 1`,
  },
  { name: 'an id with a NUL', id: `'nul' || char(0) || 'inside'`, shown: 'nul\0inside 1' },
  { name: 'a created_at that is no time', id: `'time'`, columns: { created_at: `'noon'` }, shown: 'time 1' },
  { name: 'a created_at that is a number', id: `'number'`, columns: { created_at: '5' }, shown: 'number 1' },
  {
    name: 'a kek_id that is not UTF-8',
    id: `'kek'`,
    columns: { kek_id: `cast(x'ff' as text)` },
    shown: 'kek 1',
  },
  { name: 'a kek_id that is a blob', id: `'blob'`, columns: { kek_id: `x'ff'` }, shown: 'blob 1' },
  { name: 'a key that is text', id: `'text'`, columns: { encrypted_key: `'key'` }, shown: 'text 1' },
  { name: 'a version that is text', id: `'words'`, version: `'two'`, shown: 'words 0' },
  { name: 'a version that is no whole number', id: `'half'`, version: '1.5', shown: 'half 1.5' },
]

/** Of a table without our constraints only: a host's. */
const withoutConstraints: readonly BadRow[] = [
  { name: 'no id', id: 'null', shown: 'null 1' },
  { name: 'a number as id', id: '5', shown: '5 1' },
  { name: 'a fraction as id', id: '0.5', shown: '0.5 1' },
  { name: 'no version', id: `'none'`, version: 'null', shown: 'none 0' },
]

const onPostgres: readonly BadRow[] = [
  { name: 'a time without end', id: `'time'`, columns: { created_at: `'infinity'` }, shown: 'time 1' },
  { name: 'a time before Christ', id: `'bc'`, columns: { created_at: `'0044-03-15 BC'` }, shown: 'bc 1' },
  {
    name: 'a time after 9999',
    id: `'far'`,
    columns: { wrapped_at: `'10000-01-01 00:00:00+00'` },
    shown: 'far 1',
  },
]

/** @param ours whether the table has been made by our migrations */
export function badRowsOf(dialect: Dialect, ours = true): readonly BadRow[] {
  if (dialect === 'postgres') return [...everywhere, ...onPostgres]
  return [...everywhere, ...onSqlite, ...(ours ? [] : withoutConstraints)]
}

/** Writes the rows into `encryption_keys`, whatever its constraints say. */
export async function plantBad(dialect: Dialect, url: string, rows: readonly BadRow[]): Promise<void> {
  const time = '2026-01-02T03:04:05.000Z'
  const inserts = rows.map(({ id, version = '1', columns = {} }) => {
    const key = dialect === 'sqlite' ? `x'0102'` : `'\\x0102'`
    const all = { user_id: id, version, encrypted_key: key, created_at: `'${time}'`, ...columns }
    return `insert into encryption_keys (${Object.keys(all).join(', ')}) values (${Object.values(all).join(', ')})`
  })
  if (dialect === 'postgres') {
    await asAdmin(
      url,
      'alter table encryption_keys drop constraint encryption_keys_version_check',
      'alter table encryption_keys drop constraint if exists encryption_keys_user_id_check',
      'alter table encryption_keys alter column version type bigint',
      ...inserts,
    )
    return
  }
  const client = new Database(url)
  client.pragma('ignore_check_constraints = ON')
  const triggers = client.prepare(`select name, sql from sqlite_master where type = 'trigger'`).all() as {
    readonly name: string
    readonly sql: string
  }[]
  for (const { name } of triggers) client.exec(`drop trigger "${name}"`)
  for (const insert of inserts) client.exec(insert)
  for (const { sql } of triggers) client.exec(sql)
  client.close()
}
