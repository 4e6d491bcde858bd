// What the figures were measured on.
import { createRequire } from 'node:module'
import { availableParallelism, cpus, totalmem, type } from 'node:os'
import Database from 'better-sqlite3'
import pg from 'pg'

export async function describeMachine(postgresUrl) {
  const client = new pg.Client(postgresUrl)
  await client.connect()
  const { rows } = await client.query('show server_version')
  await client.end()
  const sqlite = new Database(':memory:')
  const sqliteVersion = sqlite.prepare('select sqlite_version()').pluck().get()
  sqlite.close()
  const { version } = createRequire(import.meta.url)('../package.json')
  return {
    date: new Date().toISOString().slice(0, 10),
    processor: `${cpus()[0].model.trim()}, ${availableParallelism()} cores`,
    memory: `${Math.round(totalmem() / 2 ** 30)} GiB`,
    system: `${type()} ${process.arch}`,
    node: process.version,
    openssl: process.versions.openssl,
    sqlite: sqliteVersion,
    postgres: rows[0].server_version,
    'drizzle-keystore': version,
  }
}
