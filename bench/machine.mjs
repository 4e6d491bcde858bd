// What the figures were measured on.
import { readFileSync } from 'node:fs'
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
  return {
    date: new Date().toISOString().slice(0, 10),
    processor: `${cpus()[0].model.trim()}, ${availableParallelism()} cores`,
    memory: `${Math.round(totalmem() / 2 ** 30)} GiB`,
    system: `${type()} ${process.arch}`,
    node: process.version,
    openssl: process.versions.openssl,
    sqlite: sqliteVersion,
    postgres: rows[0].server_version,
    'better-sqlite3': versionIn('node_modules/better-sqlite3'),
    pg: versionIn('node_modules/pg'),
    'drizzle-orm': versionIn('node_modules/drizzle-orm'),
    'drizzle-keystore': versionIn('.'),
  }
}

/** @param folder of a package, from the root */
function versionIn(folder) {
  return JSON.parse(readFileSync(new URL(`../${folder}/package.json`, import.meta.url), 'utf8')).version
}
