/** Once for the whole run: builds what child processes run, and starts the PostgreSQL server that all files share. */
import { execFileSync } from 'node:child_process'
import type { TestProject } from 'vitest/node'
import { startPostgres } from './postgres-server.js'

declare module 'vitest' {
  interface ProvidedContext {
    postgresUrl: string
  }
}

export default async function setup(project: TestProject) {
  execFileSync(process.execPath, ['scripts/build.mjs'], { stdio: 'inherit' })
  const { TEST_POSTGRES_URL } = process.env
  if (TEST_POSTGRES_URL) {
    project.provide('postgresUrl', TEST_POSTGRES_URL)
    return
  }
  const server = await startPostgres()
  project.provide('postgresUrl', server.url)
  return () => server.remove()
}
