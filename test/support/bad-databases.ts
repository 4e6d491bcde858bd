/** Databases made wrong on purpose, for tests of what errors show. */
import Database from 'better-sqlite3'
import { openKeyStore } from '../../src/adapters/open.js'
import { asAdmin, type Dialect, freshDatabase } from './databases.js'
import { runSql } from './raw-database.js'

/**
 * Rows and rules that only SQL can make: a version −1 (version 0 may then follow it), an unreadable time, a trigger whose error
 * quotes `quoted`, or on Postgres the row that it refuses.
 */
export async function plantBadRows(dialect: Dialect, url: string, quoted: string): Promise<void> {
  if (dialect === 'sqlite') {
    const client = new Database(url)
    client.pragma('ignore_check_constraints = on')
    client.exec(`insert into encryption_keys (user_id, version, encrypted_key, created_at) values ('checked', -1, x'00', '2026-01-01T00:00:00Z');
      update encryption_keys set created_at = 'garbage' where user_id = 'bad-time';
      create trigger talkative before insert on encryption_keys when new.user_id = 'triggered'
      begin select raise(abort, '${quoted}'); end`)
    client.close()
    return
  }
  await asAdmin(
    url,
    'alter table encryption_keys drop constraint encryption_keys_version_check',
    `insert into encryption_keys (user_id, version, encrypted_key, created_at) values ('checked', -1, '\\x00', now())`,
    'alter table encryption_keys add constraint encryption_keys_version_check check (version >= 1) not valid',
    `update encryption_keys set created_at = 'infinity' where user_id = 'bad-time'`,
    `create function talk() returns trigger language plpgsql as $$ begin raise exception 'refused %', encode(new.encrypted_key, 'hex'); end $$`,
    `create trigger talkative before insert on encryption_keys for each row when (new.user_id = 'triggered') execute function talk()`,
  )
}

/** Runs `work` on a fresh database that was migrated and then changed by `sql`. */
export async function withChangedDatabase(
  dialect: Dialect,
  sql: string,
  work: (url: string) => Promise<unknown>,
): Promise<unknown> {
  const database = await freshDatabase(dialect)
  try {
    await (await openKeyStore(database.url)).close()
    await runSql(dialect, database.url, sql)
    return await work(database.url)
  } finally {
    await database.remove()
  }
}
