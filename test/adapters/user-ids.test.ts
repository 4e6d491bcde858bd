/** Migration 0003: the database refuses ids that cannot be cursors, and keeps the rows that it has. */
import { beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { ODD_IDS } from '../../src/testing/fixture.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { type Dialect, dialects } from '../support/databases.js'
import { runSql } from '../support/raw-database.js'
import { fixedRecord, rowsOf } from '../support/rows.js'

const REFUSED: Readonly<Record<Dialect, readonly string[]>> = {
  sqlite: [
    ...[
      'ff80',
      '80',
      'c3',
      'c3a9a9',
      'e282',
      'f09f98',
      'eda080',
      'c080',
      'f4908080',
      'f7bfbfbf',
      '61ff62',
      'fe',
    ].map((bytes) => `cast(x'${bytes}' as text)`),
    `'a' || char(0)`,
    `replace(hex(zeroblob(300)), '0', 'x')`,
    `x'616c'`,
  ],
  postgres: [`repeat('x', 513)`, `repeat('ä', 257)`],
}

describe.each(dialects)('user ids on %s', (dialect) => {
  const cleanups = cleanUpAfterEach()
  let url: string
  beforeEach(async () => {
    url = await cleanups.database(dialect)
  })
  const insert = (id: string) =>
    runSql(
      dialect,
      url,
      `insert into encryption_keys (user_id, version, encrypted_key, created_at)
        values (${id}, 1, ${dialect === 'sqlite' ? "x'00'" : "'\\x00'"}, '2026-01-01T00:00:00Z')`,
    )

  it.each(REFUSED[dialect])('%s is refused, in an insert and in an update', async (id) => {
    const store = cleanups.closing(await openKeyStore(url))
    await expect(insert(id)).rejects.toThrow()
    await store.insertIfAbsent([fixedRecord('alice')])
    await expect(runSql(dialect, url, `update encryption_keys set user_id = ${id}`)).rejects.toThrow()
    expect((await rowsOf(store)).map(({ userId }) => userId)).toEqual(['alice'])
  })

  it('that are allowed are taken, the odd ones too', async () => {
    const store = cleanups.closing(await openKeyStore(url))
    const ids = [
      ...ODD_IDS,
      '',
      '\ufffd',
      '\ufffe',
      '\uffff',
      'x'.repeat(512),
      'é'.repeat(256),
      '😀'.repeat(128),
    ]
    const records = [...new Set(ids)].map((id) => fixedRecord(id))
    expect(await store.insertIfAbsent(records)).toEqual(records)
  })

  it('that break the rule already neither stop the migration nor are lost', async () => {
    await (await openKeyStore(url)).close()
    const undo = {
      sqlite: `drop trigger encryption_keys_user_id_insert; drop trigger encryption_keys_user_id_update`,
      postgres: 'alter table encryption_keys drop constraint encryption_keys_user_id_check',
    }
    await runSql(
      dialect,
      url,
      `${undo[dialect]}; delete from __drizzle_keystore_migrations where tag >= '0003'`,
    )
    const id = dialect === 'sqlite' ? `cast(x'ff80' as text)` : `repeat('x', 600)`
    await insert(id)
    const store = cleanups.closing(await openKeyStore(url))
    expect((await store.ready()).applied).toEqual(['0003_user_ids', '0004_keks_of_users'])
    const count = async () =>
      Number((await runSql(dialect, url, 'select count(*) as n from encryption_keys'))[0]?.n)
    expect(await count()).toBe(1)
    await runSql(dialect, url, `delete from encryption_keys where user_id = ${id}`)
    await expect(insert(id)).rejects.toThrow()
    expect(await count()).toBe(0)
  })
})
