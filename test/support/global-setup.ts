/** Runs once before all tests: builds dist/ for child processes, and starts the PostgreSQL server that all files share. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import type { TestProject } from 'vitest/node'
import { startPostgres } from './postgres-server.js'

declare module 'vitest' {
  interface ProvidedContext {
    postgresUrl: string
    /** A folder that has a file for each database that is empty and not in use. */
    emptyDatabases: string
  }
}

export default async function setup(project: TestProject) {
  execFileSync(process.execPath, ['scripts/build.mjs'], { stdio: 'inherit' })
  const emptyDatabases = mkdtempSync(join(tmpdir(), 'keystore-databases-'))
  project.provide('emptyDatabases', emptyDatabases)
  const { TEST_POSTGRES_URL } = process.env
  const server = TEST_POSTGRES_URL ? null : await startPostgres()
  const url = server?.url ?? TEST_POSTGRES_URL ?? ''
  project.provide('postgresUrl', url)
  return async () => {
    if (server === null) await dropAll(url, readdirSync(emptyDatabases))
    else await server.remove()
    rmSync(emptyDatabases, { recursive: true })
  }
}

async function dropAll(url: string, databases: readonly string[]): Promise<void> {
  const client = new pg.Client(url)
  await client.connect()
  for (const name of databases) await client.query(`drop database ${name} with (force)`)
  await client.end()
}
