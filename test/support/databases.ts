/** Fresh stores and databases for tests, one kind a backend; TEST_BACKENDS=sqlite,postgres,memory chooses some. */
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { inject } from 'vitest'

/** A fresh, empty database: a URL for openKeyStore. */
export interface FreshDatabase {
  readonly url: string
  remove(): Promise<void>
}

export type Dialect = 'sqlite' | 'postgres'

const chosen = process.env.TEST_BACKENDS?.split(',')
export const isChosen = (backend: string) => chosen === undefined || chosen.includes(backend)

/** The dialects to loop over. */
export const dialects: readonly Dialect[] = (['sqlite', 'postgres'] as const).filter(isChosen)

export function freshDatabase(dialect: Dialect): Promise<FreshDatabase> {
  return dialect === 'sqlite' ? freshSqlite() : freshPostgres()
}

/** A fresh temporary folder. */
export function temporaryFolder(): { readonly path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), 'keystore-test-'))
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) }
}

async function freshSqlite(): Promise<FreshDatabase> {
  const folder = temporaryFolder()
  return { url: join(folder.path, 'keystore.db'), remove: async () => folder.remove() }
}

/**
 * With an ICU locale, as production databases have a linguistic one: a C-locale database would hide a page that scans and
 * sorts the whole table.
 */
async function freshPostgres(): Promise<FreshDatabase> {
  const serverUrl = inject('postgresUrl')
  const name = `keystore_test_${randomBytes(6).toString('hex')}`
  await asAdmin(
    serverUrl,
    `create database ${name} template template0 encoding 'UTF8' locale_provider icu icu_locale 'en-US'`,
  )
  const url = new URL(serverUrl)
  url.pathname = `/${name}`
  return { url: url.href, remove: () => dropDatabase(serverUrl, name) }
}

/**
 * A pool's `end()` resolves before the server has noticed: a connection that is on its way out must not be terminated, or
 * its client emits an error that nobody listens for any more.
 */
async function dropDatabase(serverUrl: string, name: string): Promise<void> {
  const client = new pg.Client(serverUrl)
  await client.connect()
  try {
    for (let tries = 0; tries < 100; tries++) {
      const { rowCount } = await client.query('select 1 from pg_stat_activity where datname = $1', [name])
      if (rowCount === 0) break
      await sleep(20)
    }
    await client.query(`drop database ${name} with (force)`)
  } finally {
    await client.end()
  }
}

/** Runs SQL as the server's superuser. */
export async function asAdmin(url: string, ...statements: string[]): Promise<void> {
  const client = new pg.Client(url)
  await client.connect()
  try {
    for (const statement of statements) await client.query(statement)
  } finally {
    await client.end()
  }
}
