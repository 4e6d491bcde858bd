/** What the migration, migrator and adoption tests share: SQL past the stores, dumps of schemas, processes that start at once. */
import { type ChildProcess, spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import Database from 'better-sqlite3'
import pg from 'pg'
import { expect } from 'vitest'
import {
  type Migration,
  postgresMigrations,
  sqliteMigrations,
} from '../../src/adapters/generated/migrations.js'
import { KeystoreError } from '../../src/errors.js'
import type { KeyRecord } from '../../src/table.js'
import type { Dialect } from './databases.js'

export const root = join(import.meta.dirname, '..', '..')

export type Row = Record<string, unknown>

/** One connection past the stores. On Postgres `sql` may hold several statements; on SQLite too, if none returns rows. */
export interface RawConnection {
  run(sql: string): Promise<readonly Row[]>
  close(): Promise<void>
}

export async function connectRaw(dialect: Dialect, url: string): Promise<RawConnection> {
  if (dialect === 'sqlite') {
    const client = new Database(url)
    const run = async (sql: string) => {
      if (/^\s*(select|pragma \w+$)/i.test(sql)) return client.prepare(sql).all() as Row[]
      client.exec(sql)
      return []
    }
    return { run, close: async () => void client.close() }
  }
  const client = new pg.Client(url)
  await client.connect()
  return { run: async (sql) => (await client.query(sql)).rows as Row[], close: () => client.end() }
}

/** Runs one piece of SQL on a connection of its own. */
export async function runSql(dialect: Dialect, url: string, sql: string): Promise<readonly Row[]> {
  const connection = await connectRaw(dialect, url)
  try {
    return await connection.run(sql)
  } finally {
    await connection.close()
  }
}

export const migrationsOf = (dialect: Dialect): readonly Migration[] =>
  dialect === 'sqlite' ? sqliteMigrations : postgresMigrations

/** A row that any store takes. */
export function record(userId: string, fill = 7): KeyRecord {
  const createdAt = new Date('2026-01-02T03:04:05.678Z')
  const encryptedKey = new Uint8Array(60).fill(fill)
  return { userId, version: 1, encryptedKey, kekId: 'kek', createdAt, wrappedAt: null, shreddedAt: null }
}

/** Everything in the schema but the ledger, to be compared with another's. */
export async function dumpSchema(dialect: Dialect, url: string, schema = 'public'): Promise<unknown> {
  const connection = await connectRaw(dialect, url)
  try {
    const dump = []
    for (const sql of dialect === 'sqlite' ? SQLITE_DUMP : postgresDump(schema)) {
      dump.push(await connection.run(sql))
    }
    return dump
  } finally {
    await connection.close()
  }
}

const OURS = `not like '\\_\\_drizzle\\_keystore%' escape '\\'`

const SQLITE_DUMP = [
  `select type, name, tbl_name, sql from sqlite_master where tbl_name ${OURS} order by type, name`,
  `select m.name as "table", c.* from sqlite_master m, pragma_table_xinfo(m.name) c
    where m.type = 'table' and m.name ${OURS} order by m.name, c.cid`,
]

const postgresDump = (schema: string) => {
  const of = `= '${schema.replaceAll("'", "''")}'`
  return [
    `select table_name, table_type from information_schema.tables where table_schema ${of} and table_name ${OURS} order by 1`,
    `select table_name, column_name, ordinal_position, column_default, is_nullable, data_type, datetime_precision, collation_name
      from information_schema.columns where table_schema ${of} and table_name ${OURS} order by 1, 3`,
    `select tablename, indexname, replace(indexdef, quote_ident(schemaname) || '.', '') as indexdef
      from pg_indexes where schemaname ${of} and tablename ${OURS} order by 1, 2`,
    `select c.relname, k.conname, k.contype, pg_get_constraintdef(k.oid) as def from pg_constraint k
      join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
      where n.nspname ${of} and c.relname ${OURS} order by 1, 2`,
  ]
}

/** @returns the message of the ERR_SCHEMA that `attempt` must end with */
export async function schemaErrorOf(attempt: Promise<unknown>): Promise<string> {
  const error = await failureOf(attempt)
  expect(error.code, error.message).toBe('ERR_SCHEMA')
  return error.message
}

/** The KeystoreError that `attempt` must end with. */
export async function failureOf(attempt: Promise<unknown>): Promise<KeystoreError> {
  const error = await attempt.then(
    () => new Error('it succeeded'),
    (reason: unknown) => reason,
  )
  if (!(error instanceof KeystoreError)) throw error
  return error
}

/** The bytes of every file of a folder, by name. */
export function filesOf(folder: string): Record<string, string> {
  const names = readdirSync(folder).sort()
  return Object.fromEntries(names.map((name) => [name, readFileSync(join(folder, name), 'hex')]))
}

export interface ChildEnd {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/** A script of test/children/. */
export function startChild(script: string, args: readonly string[]): ChildProcess {
  return spawn(process.execPath, [join(root, 'test', 'children', script), ...args], { stdio: 'pipe' })
}

export function endOf(child: ChildProcess): Promise<ChildEnd> {
  let stdout = ''
  let stderr = ''
  child.stdout?.on('data', (chunk) => {
    stdout += chunk
  })
  child.stderr?.on('data', (chunk) => {
    stderr += chunk
  })
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) => resolve({ code, signal, stdout, stderr }))
  })
}

export interface OpenReport {
  readonly applied: readonly string[]
  readonly adopted: number | null
}

/**
 * Several processes open one database at the same moment: each loads its modules first, says so, and waits for the others.
 *
 * @returns what each of them reported
 */
export async function openAtOnce(processes: number, url: string, options: object): Promise<OpenReport[]> {
  const children = Array.from({ length: processes }, (_, index) =>
    startChild('open-store.mjs', [url, JSON.stringify(options), `user-${index}`]),
  )
  const ends = children.map(endOf)
  try {
    await Promise.all(children.map(loaded))
    // One that has died cannot be written to; its end says why.
    for (const child of children) child.stdin?.on('error', () => undefined).end('go\n')
    return (await Promise.all(ends)).map(({ code, stdout, stderr }) => {
      if (code !== 0) throw new Error(`A process ended with ${code}: ${stderr}`)
      return JSON.parse(stdout.slice(stdout.indexOf('{'))) as OpenReport
    })
  } finally {
    for (const child of children) child.kill('SIGKILL')
  }
}

function loaded(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    if (child.stdout) createInterface(child.stdout).once('line', () => resolve())
    child.once('close', () => resolve())
  })
}
