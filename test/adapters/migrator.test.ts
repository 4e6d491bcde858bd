/** The migrator on both dialects: ledger, modes, refusals, rollback, and many processes at once. */
import { existsSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { LEDGER } from '../../src/adapters/migrator.js'
import { type OpenKeyStoreOptions, openKeyStore } from '../../src/adapters/open.js'
import { postgresKeyStore } from '../../src/adapters/postgres/store.js'
import { sqliteKeyStore } from '../../src/adapters/sqlite/store.js'
import { openAtOnce } from '../support/child-process.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { itIf } from '../support/conditional.js'
import { type Dialect, dialects } from '../support/databases.js'
import { keystoreErrorOf, schemaErrorOf } from '../support/errors.js'
import { runSql } from '../support/raw-database.js'
import { fixedRecord } from '../support/rows.js'
import { dumpSchema, migrationsOf } from '../support/schema-dumps.js'

const cleanups = cleanUpAfterEach()

describe.each(dialects)('the migrator on %s', (dialect) => {
  const tags = migrationsOf(dialect).map(({ tag }) => tag)
  const hashes = migrationsOf(dialect).map(({ tag, sha256 }) => ({ tag, sha256 }))

  const fresh = () => cleanups.database(dialect)
  const open = async (url: string, options?: OpenKeyStoreOptions) =>
    cleanups.closing(await openKeyStore(url, options))

  async function migrated(): Promise<string> {
    const url = await fresh()
    await (await open(url)).close()
    return url
  }

  const ledgerOf = (url: string) => runSql(dialect, url, `select tag, sha256 from ${LEDGER} order by tag`)
  const keysOf = (url: string) => runSql(dialect, url, 'select * from encryption_keys order by user_id')

  /** Schema, ledger and rows: what a refusal must leave as it was. */
  async function contentsOf(url: string) {
    const ledger = await ledgerOf(url).catch(() => null)
    return [await dumpSchema(dialect, url), ledger, await keysOf(url).catch(() => null)]
  }

  /** A database that a version of the library with only the first `count` migrations has left, with one row. */
  async function migratedUpTo(count: number): Promise<string> {
    const url = await fresh()
    const done = migrationsOf(dialect).slice(0, count)
    const stamp = dialect === 'sqlite' ? 'text not null' : 'timestamptz not null default now()'
    await runSql(
      dialect,
      url,
      [
        `create table ${LEDGER} (tag text primary key not null, sha256 text not null, applied_at ${stamp});`,
        ...done.flatMap(({ statements }) => statements),
        ...done.map(
          ({ tag, sha256 }) =>
            `insert into ${LEDGER} (tag, sha256, applied_at) values ('${tag}', '${sha256}', '2026-01-01 00:00:00+00');`,
        ),
        `insert into encryption_keys (user_id, encrypted_key, created_at)
           values ('early', ${blob(dialect, '0a0b0c')}, '2026-01-02T03:04:05.678000+00:00');`,
      ].join('\n'),
    )
    return url
  }

  it('check says what missing tables mean if the store had keys', async () => {
    const url = await migrated()
    await runSql(dialect, url, `drop table encryption_keys; drop table ${LEDGER}`)
    const message = await schemaErrorOf(open(url, { migrate: 'check' }))
    expect(message).toMatch(/lacks migrations \(0000_.*If the store had keys, its tables were dropped/)
    expect(message).toMatch(/drizzle-kit push.*tablesFilter.*restore a backup/)
    const older = await schemaErrorOf(open(await migratedUpTo(tags.length - 1), { migrate: 'check' }))
    expect(older).not.toContain('dropped')
  })

  it('off says what to do if the table is not there any more', async () => {
    const MISSING =
      /encryption_keys.*own migrations make the table; else run `npx keystore migrate`.*restore a backup/
    const url = await migrated()
    const running = await open(url, { migrate: 'off' })
    expect(await running.getAll(['alice'])).toEqual(new Map())
    await runSql(dialect, url, 'drop table encryption_keys')
    const error = await keystoreErrorOf(running.getAll(['alice']))
    expect(error).toMatchObject({ code: 'ERR_STORE', retryable: false })
    expect(error.message).toMatch(MISSING)
    await running.close()
  })

  itIf(dialect === 'postgres', 'SQLite has one schema')(
    'check says of another schema how it is migrated: the command works on public',
    async () => {
      const message = await schemaErrorOf(open(await fresh(), { migrate: 'check', schema: 'other' }))
      expect(message).toContain(`open the store once with { schema: "other", migrate: 'auto' }`)
      expect(message).not.toContain('npx keystore migrate')
    },
  )

  it.each(['check', 'auto'] as const)(
    '%s refuses a database whose ledger is there and whose table was dropped',
    async (migrate) => {
      const url = await migrated()
      await runSql(dialect, url, 'drop table encryption_keys')
      const before = await contentsOf(url)
      const message = await schemaErrorOf(open(url, { migrate }))
      expect(message).toMatch(/no table encryption_keys any more: it was dropped.*Restore a backup/)
      expect(await contentsOf(url)).toEqual(before)
      const off = await open(url, { migrate: 'off' })
      expect(await off.maintenance?.inspect()).toContainEqual(
        expect.objectContaining({ kind: 'schemaVersion', reason: message }),
      )
    },
  )

  it('applies everything to a fresh database, and records tags and hashes', async () => {
    const url = await fresh()
    const store = await open(url)
    expect(await store.ready()).toEqual({ applied: tags, adopted: null })
    expect(await ledgerOf(url)).toEqual(hashes)
    await store.insertIfAbsent([fixedRecord('alice')])
    expect((await store.getActive(['alice'])).get('alice')).toEqual(fixedRecord('alice'))
  })

  it('applies nothing at the second open, and keeps the rows', async () => {
    const url = await fresh()
    const first = await open(url)
    await first.insertIfAbsent([fixedRecord('alice')])
    await first.close()
    const before = await contentsOf(url)
    const second = await open(url)
    expect(await second.ready()).toEqual({ applied: [], adopted: null })
    expect(await contentsOf(url)).toEqual(before)
  })

  it('does not depend on the order in which a ledger was written', async () => {
    const url = await migrated()
    const reversed = [...hashes].reverse().map(({ tag, sha256 }) => `('${tag}', '${sha256}', '2026-01-01')`)
    await runSql(
      dialect,
      url,
      `delete from ${LEDGER}; insert into ${LEDGER} (tag, sha256, applied_at) values ${reversed.join(', ')}`,
    )
    expect((await (await open(url)).ready()).applied).toEqual([])
  })

  describe("with migrate: 'check'", () => {
    it('refuses an empty database, says what to do, and makes nothing', async () => {
      const url = await fresh()
      const message = await schemaErrorOf(open(url, { migrate: 'check' }))
      expect(message).toContain("migrate: 'auto'")
      if (dialect === 'sqlite') expect(existsSync(url)).toBe(false)
      else expect(await dumpSchema(dialect, url)).toEqual([[], [], [], []])
    })

    it('refuses a database that is behind, naming what is missing, and changes nothing', async () => {
      const url = await migratedUpTo(1)
      const before = await contentsOf(url)
      const message = await schemaErrorOf(open(url, { migrate: 'check' }))
      expect(message).toContain(tags.slice(1).join(', '))
      expect(message).toContain('keystore migrate')
      expect(await contentsOf(url)).toEqual(before)
    })

    it('opens a current database', async () => {
      const store = await open(await migrated(), { migrate: 'check' })
      expect(await store.ready()).toEqual({ applied: [], adopted: null })
      expect(await store.insertIfAbsent([fixedRecord('alice')])).toEqual([fixedRecord('alice')])
    })
  })

  describe("with migrate: 'off'", () => {
    it("works on a table that the host's own migrations made, and makes no ledger", async () => {
      const url = await fresh()
      const statements = migrationsOf(dialect).flatMap(({ statements }) => statements)
      await runSql(dialect, url, statements.join('\n'))
      expect(await schemaErrorOf(open(url))).toContain("migrate: 'off'")
      const store = await open(url, { migrate: 'off' })
      expect(await store.insertIfAbsent([fixedRecord('alice')])).toEqual([fixedRecord('alice')])
      await expect(ledgerOf(url)).rejects.toThrow(LEDGER)
    })

    it('makes no table: the first use says that there is none', async () => {
      const url = await fresh()
      if (dialect === 'sqlite') {
        expect(await schemaErrorOf(open(url, { migrate: 'off' }))).toContain('There is no file')
        expect(existsSync(url)).toBe(false)
      } else {
        const store = await open(url, { migrate: 'off' })
        const error = await keystoreErrorOf(store.getActive(['alice']))
        expect([error.code, error.retryable]).toEqual(['ERR_STORE', false])
        expect(error.message).toMatch(/encryption_keys.*own migrations make the table/)
      }
    })

    it('does not look at the ledger', async () => {
      const url = await migrated()
      await runSql(dialect, url, `update ${LEDGER} set sha256 = 'altered'`)
      const store = await open(url, { migrate: 'off' })
      expect(await store.list({ limit: 1 })).toEqual([])
    })
  })

  describe.each(['auto', 'check'] as const)('refuses and changes nothing, with migrate: %j,', (migrate) => {
    it.each([
      [
        'a ledger newer than the library',
        `insert into ${LEDGER} (tag, sha256, applied_at) values ('0099_future', 'f', '2027-01-01')`,
        /0099_future.*upgrade/s,
      ],
      [
        'a ledger with an altered hash',
        `update ${LEDGER} set sha256 = '${'0'.repeat(64)}' where tag = '${tags[1]}'`,
        new RegExp(`${tags[1]}.*other SQL.*${LEDGER}`, 's'),
      ],
      [
        'a ledger with a gap in the middle',
        `delete from ${LEDGER} where tag = '${tags[1]}'`,
        /gap.*restore a backup/s,
      ],
      [
        'a ledger without its first entry',
        `delete from ${LEDGER} where tag = '${tags[0]}'`,
        /gap.*restore a backup/s,
      ],
    ])('%s', async (_, damage, wanted) => {
      const url = await migrated()
      await runSql(dialect, url, damage)
      const before = await contentsOf(url)
      expect(await schemaErrorOf(open(url, { migrate }))).toMatch(wanted)
      expect(await contentsOf(url)).toEqual(before)
    })

    it("somebody else's table encryption_keys", async () => {
      const url = await fresh()
      await runSql(dialect, url, 'create table encryption_keys (id integer primary key, secret text)')
      await runSql(dialect, url, "insert into encryption_keys values (1, 'theirs')")
      const before = await contentsOf(url)
      const message = await schemaErrorOf(open(url, { migrate }))
      expect(message).toMatch(/encryption_keys.*another database.*Nothing was changed/s)
      expect(await contentsOf(url)).toEqual(before)
    })
  })

  it.each([1, 2])('goes on after the first %i migrations, and keeps the row that is there', async (count) => {
    const url = await migratedUpTo(count)
    const store = await open(url)
    expect((await store.ready()).applied).toEqual(tags.slice(count))
    const early = {
      ...fixedRecord('early'),
      encryptedKey: Uint8Array.of(10, 11, 12),
      kekId: null,
    }
    expect(await store.list({ limit: 10 })).toEqual([early])
    expect(await ledgerOf(url)).toEqual(hashes)
    expect(await dumpSchema(dialect, url)).toEqual(await dumpSchema(dialect, await migrated()))
  })

  it('rolls everything back when a migration fails in the middle, and succeeds once the cause is gone', async () => {
    const url = await fresh()
    // The name of the index that the last migration makes.
    await runSql(
      dialect,
      url,
      'create table theirs (a integer); create index encryption_keys_kek_id_idx on theirs (a)',
    )
    const before = await contentsOf(url)
    const store = dialect === 'sqlite' ? sqliteKeyStore({ path: url }) : postgresKeyStore({ url })
    cleanups.closing(store)
    const error = await keystoreErrorOf(store.ready())
    expect(error.code).toBe('ERR_STORE')
    expect(error.message).toContain('encryption_keys_kek_id_idx')
    expect(await contentsOf(url)).toEqual(before)

    await runSql(dialect, url, 'drop table theirs')
    expect((await store.ready()).applied).toEqual(tags)
    expect(await store.insertIfAbsent([fixedRecord('alice')])).toEqual([fixedRecord('alice')])
  })

  it('lets 8 processes migrate a fresh database at once: all succeed, one applies the migrations, and there is one ledger', async () => {
    const url = await fresh()
    const schema = dialect === 'postgres' ? { schema: 'made by 8' } : {}
    const reports = await openAtOnce(8, url, schema)
    expect(reports.filter(({ applied }) => applied.length > 0).map(({ applied }) => applied)).toEqual([tags])
    const table = dialect === 'postgres' ? `"made by 8".${LEDGER}` : LEDGER
    expect(await runSql(dialect, url, `select tag, sha256 from ${table} order by tag`)).toEqual(hashes)
    const store = await open(url, { migrate: 'check', ...schema })
    expect((await store.list({ limit: 100 })).map(({ userId }) => userId)).toEqual(
      [...Array(8).keys()].map((index) => `user-${index}`),
    )
  })
})

function blob(dialect: Dialect, hex: string): string {
  return dialect === 'sqlite' ? `x'${hex}'` : `'\\x${hex}'::bytea`
}
