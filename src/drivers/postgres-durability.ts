/** Makes what is written on Postgres durable, whatever the role's settings. */

/**
 * An expression that makes its transaction durable at the commit, whatever the role's synchronous_commit. The answer to a commit that a
 * crash of the server takes back would cost what was encrypted under the key. A level above `on`, which waits until a standby has applied
 * the commit, is kept.
 *
 * It has no column: Postgres evaluates it as a part of a condition once, and before it changes the first row.
 */
export const MAKE_DURABLE = `pg_catalog.set_config('synchronous_commit',
  case when pg_catalog.current_setting('synchronous_commit') operator(pg_catalog.=) 'remote_apply' then 'remote_apply' else 'on' end, true)`
