/** Starts the PostgreSQL server that all files share. */
import type { TestProject } from 'vitest/node'
import { startEmbeddedPostgres } from '../../../../test/support/embedded-postgres.mjs'

declare module 'vitest' {
  interface ProvidedContext {
    postgresUrl: string
  }
}

export default async function setup(project: TestProject) {
  const { TEST_POSTGRES_URL } = process.env
  if (TEST_POSTGRES_URL) {
    project.provide('postgresUrl', TEST_POSTGRES_URL)
    return
  }
  const server = await startEmbeddedPostgres({
    initdbFlags: ['--no-sync', '--no-data-checksums'],
    settings: ['fsync=off'],
    otherServer: 'Use a server of yours: TEST_POSTGRES_URL=postgres://USER:PASSWORD@HOST/postgres npm test',
  })
  project.provide('postgresUrl', server.url)
  return () => server.remove()
}
