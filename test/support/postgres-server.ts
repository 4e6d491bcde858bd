/** A real PostgreSQL server for tests. */
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embedded-postgres.mjs'

export { freePort } from './embedded-postgres.mjs'
export type PostgresServer = EmbeddedPostgres

/** @param settings more of the server's settings, each `name=value` */
export function startPostgres(settings: readonly string[] = []): Promise<PostgresServer> {
  return startEmbeddedPostgres({
    // Durable enough for tests: what they kill are our processes, not the machine. And one round of hashing for the password, at each
    // connection: it is random and lives for minutes.
    initdbFlags: ['--no-sync', '--no-data-checksums', '--set', 'scram_iterations=1'],
    settings: ['fsync=off', 'max_connections=300', ...settings],
    otherServer:
      'Use a server of yours: TEST_POSTGRES_URL=postgres://USER:PASSWORD@HOST/postgres npm test, for a user who may create databases.',
  })
}
