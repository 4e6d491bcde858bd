/**
 * Transactions on a connection that the application uses too. Between BEGIN and COMMIT its statements would get in, and if it has a
 * transaction open itself, our COMMIT would end that one. So ours is one statement.
 */
import { type SQL, sql } from 'drizzle-orm'
import { type PgDatabase, PgDialect, type PgQueryResultHKT } from 'drizzle-orm/pg-core'
import { FAILED_TRANSACTION, PROBE } from '../../drivers/client-pool.js'
import { describeDriverError } from '../../drivers/driver-error.js'
import { StoreError } from '../../errors.js'

/** The application has a transaction open on the connection. Nothing was done, and its transaction goes on. */
export class HostTransactionError extends StoreError {
  constructor() {
    super(
      'The key store needs a transaction of its own to migrate and to rewrite its table, and the application has one open on the connection that ' +
        'they share. Call store.ready() and store.maintenance.finishErasure() outside of transactions, or give the store a pool: { pool } or { url }',
      { retryable: true },
    )
  }
}

/**
 * Runs statements in a transaction of their own.
 *
 * Clients run queries in the order in which they are called: nothing of the application's comes in between. COMMIT in a DO block is an error
 * inside a transaction, and behind a savepoint that error leaves the application's transaction as it was. Outside of one the savepoint is
 * refused, which changes nothing.
 *
 * @throws HostTransactionError · the driver's errors
 */
export async function runAsOne(
  db: Pick<PgDatabase<PgQueryResultHKT>, 'execute'>,
  statements: readonly SQL[],
): Promise<void> {
  const begin = (text: string) => db.execute(sql.raw(text)).then(() => undefined)
  const [savepoint, outcome] = await Promise.allSettled([
    begin(`savepoint ${PROBE}`),
    begin(blockOf(statements)),
    begin(`rollback to savepoint ${PROBE}`),
    begin(`release savepoint ${PROBE}`),
  ])
  if (savepoint.status === 'fulfilled') throw new HostTransactionError()
  if (outcome.status === 'fulfilled') return
  // The transaction is the application's, since ours is one statement.
  if (describeDriverError(outcome.reason).code === FAILED_TRANSACTION) throw new HostTransactionError()
  throw outcome.reason
}

/** Each statement is executed from its text, as the settings and the search path are that the statements before it have left. */
function blockOf(statements: readonly SQL[]): string {
  const lines = statements.map((statement) => `execute ${dollarQuoted(textOf(statement))};`)
  return `do language plpgsql ${dollarQuoted(`begin
commit;
set transaction isolation level read committed;
set local standard_conforming_strings = on;
${lines.join('\n')}
end`)}`
}

/** Statements inside a DO block have no parameters. Quotes are doubled, which is right under `standard_conforming_strings`. */
function textOf(statement: SQL): string {
  const { sql: text, params } = new PgDialect().sqlToQuery(sql`${statement}`.inlineParams())
  if (params.length > 0) throw new TypeError('a statement of a block has a parameter')
  return text
}

/** A statement that fails with serialization_failure unless the condition holds: then the call is tried again. */
export function assertHolds(condition: SQL): SQL {
  const block = `begin if not (${textOf(condition)}) then raise exception using errcode = '40001'; end if; end`
  return sql.raw(`do language plpgsql ${dollarQuoted(block)}`)
}

// postgresql.org/docs/current/sql-syntax-lexical.html, "Dollar-Quoted String Constants".
function dollarQuoted(text: string): string {
  for (let number = 0; ; number += 1) {
    const tag = `$keystore${number}$`
    // The text may also end with what begins the tag.
    if (`${text}${tag}`.indexOf(tag) === text.length) return `${tag}${text}${tag}`
  }
}
