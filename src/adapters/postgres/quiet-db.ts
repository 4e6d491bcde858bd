/** The host's drizzle db without what the host has hung on it: its logger and its cache would be given wrapped keys. */

/**
 * The same connections and transactions, with statements that no logger sees and no cache answers. Drizzle logs the values of each
 * statement, and a cache for all queries (`global: true`) would keep the rows elsewhere, and give them out after a shred.
 *
 * Of `withReplicas` it is the primary: a replica that lags behind would show no key where there is one.
 *
 * Drizzle has no public way: a session reads `logger` and `cache` from itself for each statement, and `options` for a transaction.
 */
export function quietDb<Db extends object>(db: Db): Db {
  const primary = '$primary' in db ? (db.$primary as Db) : db
  const session: unknown = Reflect.get(primary, 'session')
  if (typeof session !== 'object' || session === null) return primary
  const options: unknown = Reflect.get(session, 'options')
  const quietSession = Object.create(session, {
    logger: { value: SILENT },
    cache: { value: undefined },
    options: { value: { ...(options as object | undefined), logger: SILENT, cache: undefined } },
  })
  return Object.create(primary, { session: { value: quietSession } })
}

const SILENT = { logQuery: () => undefined }
