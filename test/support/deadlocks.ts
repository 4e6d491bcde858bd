/** Deadlocks in Postgres, which a test would not notice: the server breaks them, and the stores try again. */
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'

/**
 * Counts the deadlocks that Postgres has broken in a database. Waits until other clients have disconnected.
 *
 * @param otherClients how many clients will stay connected
 */
export async function countDeadlocks(url: string, otherClients = 0): Promise<number> {
  const client = new pg.Client(url)
  await client.connect()
  try {
    // A backend reports its counts when it ends, a moment after its client has gone.
    for (let others = Number.POSITIVE_INFINITY; others > otherClients; ) {
      const { rows } = await client.query(
        `select count(*)::int as others from pg_stat_activity
         where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()`,
      )
      others = rows[0].others
      if (others > otherClients) await sleep(20)
    }
    const { rows } = await client.query(
      'select deadlocks::int from pg_stat_database where datname = current_database()',
    )
    return rows[0].deadlocks
  } finally {
    await client.end()
  }
}
