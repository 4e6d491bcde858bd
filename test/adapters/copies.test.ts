/** What copies rows of our table, such as an audit trigger, keeps the erased keys: such a store is pending, and doctor names it. */

import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { sqliteKeyStore } from '../../src/adapters/sqlite/store.js'
import type { KeyStore } from '../../src/index.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { asAdmin, type Dialect, dialects } from '../support/databases.js'
import { storeMaintenance as maintenanceOf } from '../support/maintenance.js'
import { runSql } from '../support/raw-database.js'
import { fixedRecord } from '../support/rows.js'

const AUDIT = 'create table audit (bytes bytea)'
const FUNCTION = `create function audit() returns trigger language plpgsql as
  $$ begin insert into audit values (old.encrypted_key); return new; end $$`

/** Names, and the statements that make them. */
const COPIERS: Readonly<Record<Dialect, readonly (readonly [string, readonly string[]])[]>> = {
  sqlite: [
    [
      'trigger audited',
      [
        'create table audit (bytes blob)',
        'create trigger audited after update on encryption_keys begin insert into audit values (old.encrypted_key); end',
      ],
    ],
    [
      'trigger encryption_keys_user_id_insert',
      [
        'drop trigger encryption_keys_user_id_insert; create table audit (bytes blob)',
        'create trigger encryption_keys_user_id_insert after insert on Encryption_Keys begin insert into audit values (new.encrypted_key); end',
      ],
    ],
    ['index sampled', ['create index sampled on encryption_keys (kek_id, encrypted_key)', 'analyze']],
    ['index hashed', ['create index hashed on encryption_keys (hex(encrypted_key))']],
  ],
  postgres: [
    [
      'trigger audited',
      [
        AUDIT,
        FUNCTION,
        'create trigger audited after update on encryption_keys for each row execute function audit()',
      ],
    ],
    [
      'rule copied',
      [
        AUDIT,
        'create rule copied as on delete to encryption_keys do also insert into audit values (old.encrypted_key)',
      ],
    ],
    [
      'trigger inherited',
      [
        AUDIT,
        FUNCTION,
        'create table more () inherits (encryption_keys)',
        'create trigger inherited after update on more for each row execute function audit()',
      ],
    ],
    ['publication everything', ['create publication everything for all tables']],
    ['index by_hex', [`create index by_hex on encryption_keys (encode(encrypted_key, 'hex'))`]],
    ['index live_only', [`create index live_only on encryption_keys (user_id) where encrypted_key <> ''`]],
    [
      'statistics together',
      ['create statistics together (mcv) on encrypted_key, user_id from encryption_keys'],
    ],
    ['materialized view kept', ['create materialized view kept as select * from encryption_keys']],
    [
      'materialized view hashed',
      [
        `create view live as select user_id as who, md5(encrypted_key) as hash, encrypted_key as bytes from encryption_keys k where k is not null`,
        'create materialized view hashed as select who, bytes from live',
      ],
    ],
    [
      'materialized view second',
      [
        'create table more () inherits (encryption_keys)',
        'create view row as select m as all_columns from more m',
        'create materialized view second as select * from row',
      ],
    ],
    [
      'materialized view above',
      [
        'create table parent (encrypted_key bytea not null)',
        'alter table encryption_keys inherit parent',
        'create materialized view above as select * from parent',
      ],
    ],
  ],
}

describe.each(dialects)('on %s', (dialect) => {
  const cleanups = cleanUpAfterEach()
  let url: string
  let store: KeyStore
  beforeEach(async () => {
    url = await cleanups.database(dialect)
    store = cleanups.closing(await openKeyStore(url))
    await store.insertIfAbsent([fixedRecord('alice'), fixedRecord('bob')])
  })

  it.each(COPIERS[dialect])('%s makes the erasure pending', async (name, statements) => {
    if (dialect === 'sqlite') for (const statement of statements) await runSql(dialect, url, statement)
    else await asAdmin(url, ...statements)
    expect(await store.shred('alice', { forget: false })).toMatchObject({ erased: 'pending' })
    const named = expect.stringContaining(`by ${name}:`)
    expect(await maintenanceOf(store).finishErasure()).toEqual({ erased: 'pending', pending: named })
    expect(await maintenanceOf(store).inspect()).toContainEqual({
      severity: 'warning',
      kind: 'copies',
      reason: named,
    })
  })

  it('nothing is found in a store as we make it, nor in views of it, which are no copies', async () => {
    const views = [
      'create view copy as select * from encryption_keys',
      ...(dialect === 'sqlite'
        ? []
        : [
            'create materialized view counts as select kek_id, count(version) from encryption_keys group by 1',
          ]),
    ]
    if (dialect === 'sqlite') for (const view of views) await runSql(dialect, url, view)
    else await asAdmin(url, ...views)
    expect(await maintenanceOf(store).finishErasure()).toEqual({ erased: 'file', pending: null })
    expect((await maintenanceOf(store).inspect()).filter(({ kind }) => kind === 'copies')).toEqual([])
    if (dialect === 'sqlite')
      expect(await store.shred('alice', { forget: false })).toMatchObject({ erased: 'file', pending: null })
  })
})

describe.runIf(dialects.includes('sqlite'))('on SQLite', () => {
  const cleanups = cleanUpAfterEach()

  it('a temporary trigger of the host’s connection counts too', async () => {
    const client = cleanups.closing(new Database(await cleanups.database('sqlite')))
    const store = sqliteKeyStore({ db: drizzle({ client }) })
    await store.insertIfAbsent([fixedRecord('alice')])
    client.exec(`create temp table audit (bytes blob);
      create temp trigger kept after update on main.encryption_keys begin insert into audit values (old.encrypted_key); end`)
    const { pending } = await store.shred('alice', { forget: false })
    expect(pending).toContain('by trigger kept:')
    expect((await store.maintenance.finishErasure()).pending).toContain('by trigger kept:')
  })

  it('files of ours are opened with an untrusted schema', async () => {
    const path = await cleanups.database('sqlite')
    const store = cleanups.closing(await openKeyStore(path))
    await store.insertIfAbsent([fixedRecord('alice')])
    // load_extension is no function that a schema may call.
    await runSql(
      'sqlite',
      path,
      `create trigger planted after update on encryption_keys begin select load_extension('/nowhere'); end`,
    )
    await expect(store.shred('alice', { forget: false })).rejects.toThrow(
      /unsafe use of load_extension|no such function/,
    )
  })
})
