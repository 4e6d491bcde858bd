// Fresh databases for the bench: SQLite files in a temporary folder, schemas of a PostgreSQL on loopback, both durable as in production.
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import pg from 'pg'
import { startEmbeddedPostgres } from '../test/support/embedded-postgres.mjs'

/** better-sqlite3 built for Node 24 now and then aborts when a connection is collected: none is, before the process has sent its results. */
const kept = []

export function keep(...objects) {
  kept.push(...objects)
}

export const DIALECTS = ['sqlite', 'postgres']

/**
 * @param {string} [url] of a PostgreSQL that is there already
 * @returns `{ url, stop() }`
 */
export async function startPostgres(url) {
  if (url !== undefined) return { url, stop: async () => undefined }
  const server = await startEmbeddedPostgres({
    otherServer: 'Use a server of yours: npm run bench -- --postgres postgres://USER:PASSWORD@HOST/postgres',
  })
  return { url: server.url, stop: () => server.remove() }
}

/**
 * A database without a table.
 *
 * @returns `url` and `options` for openKeyStore and sqlSource; `client`: better-sqlite3's or pg's, whose unqualified names are in it;
 *   `remove()`
 */
export async function freshDatabase(dialect, postgresUrl) {
  if (dialect === 'sqlite') {
    const folder = mkdtempSync(join(tmpdir(), 'keystore-bench-'))
    const url = join(folder, 'app.db')
    const client = new Database(url)
    client.pragma('journal_mode = WAL')
    kept.push(client)
    return {
      url,
      options: {},
      client,
      async remove() {
        client.close()
        rmSync(folder, { recursive: true })
      },
    }
  }
  const schema = `bench_${randomBytes(4).toString('hex')}`
  const client = new pg.Pool({ connectionString: postgresUrl, max: 10, options: `-c search_path=${schema}` })
  // The server ends while connections are idle.
  client.on('error', () => undefined)
  await client.query(`create schema ${schema}`)
  return {
    url: postgresUrl,
    options: { schema },
    client,
    async remove() {
      await client.query(`drop schema ${schema} cascade`)
      await client.end()
    },
  }
}
