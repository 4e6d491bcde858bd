/** One bad row stops no command that goes over all rows: it is named, the rest is done, and the exit code says it. */
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { badRowsOf, plantBad } from '../support/bad-rows.js'
import { type CommandStore, commandStore } from '../support/command-store.js'
import { dialects } from '../support/databases.js'
import { withStore } from '../support/fresh-store.js'
import { runSql } from '../support/raw-database.js'
import { rowsOf, spoilTime } from '../support/rows.js'

const OLD_INDEX =
  'drop index encryption_keys_kek_id_idx; create index encryption_keys_kek_id_idx on encryption_keys (kek_id) where shredded_at is null'

describe.runIf(dialects.includes('sqlite'))('on SQLite', () => {
  it.each([
    ['0004', OLD_INDEX],
    [
      '0003',
      `${OLD_INDEX}; drop trigger encryption_keys_user_id_insert; drop trigger encryption_keys_user_id_update`,
    ],
  ])('a backup from before migration %s can be restored', async (tag, undo) => {
    const store = await commandStore('sqlite')
    await store.mint('alice')
    expect(store.run(['backup', 'old.db']).status).toBe(0)
    await runSql(
      'sqlite',
      join(store.folder, 'old.db'),
      `${undo}; delete from __drizzle_keystore_migrations where tag >= '${tag}'`,
    )
    expect(store.run(['restore', 'old.db', '--store', 'new.db'])).toMatchObject({ status: 0 })
    await store.remove()
  })
})

describe.each(dialects)('with one bad row on %s', (dialect) => {
  let store: CommandStore
  beforeEach(async () => {
    store = await commandStore(dialect)
    await store.mint('alice', 'bad', 'zoe')
    await spoilTime(dialect, store.url, 'bad')
  })
  afterEach(() => store.remove())

  it.each([
    [['doctor'], /"bad", version 1: .*cannot be read/],
    [['rotate-user', '--older-than', '0'], /Rotated the keys of 2 users.*\n.*"bad", version 1/],
    [['copy', '--to', 'copy.db'], /Copied 2 rows[\s\S]*"bad", version 1: .*cannot be read/],
    [['backup', 'backup.db'], /Copied 2 rows[\s\S]*"bad", version 1: [\s\S]*The backup is backup.db/],
  ])('keystore %j', async (args, said) => {
    const { status, stdout } = store.run(args)
    expect(stdout).toMatch(said)
    expect(status).toBe(1)
    const made = { copy: 'copy.db', backup: 'backup.db' }[args[0] ?? '']
    if (made === undefined) return
    const users = await withStore(join(store.folder, made), rowsOf)
    expect(users.map(({ userId }) => userId)).toEqual(['alice', 'zoe'])
  })
})

describe.each(dialects)('with a row of version 2^53+1 on %s', (dialect) => {
  it('doctor and copy print it exactly, and nobody is told to look for rotations', async () => {
    const store = await commandStore(dialect)
    try {
      await store.mint('alice')
      const big = badRowsOf(dialect).filter(({ name }) => name === 'version 2^53+1')
      await plantBad(dialect, store.url, big)
      for (const args of [['doctor'], ['copy', '--to', 'copy.db']]) {
        const { status, stdout } = store.run(args)
        expect(status).toBe(1)
        expect(stdout).toContain('"big", version 9007199254740993: ')
        expect(stdout).not.toMatch(/9007199254740992|rotates|nearLimit/)
      }
      expect(JSON.parse(store.run(['doctor', '--json']).stdout).findings).toContainEqual(
        expect.objectContaining({ kind: 'unreadable', userId: 'big', exactVersion: '9007199254740993' }),
      )
    } finally {
      await store.remove()
    }
  })
})
