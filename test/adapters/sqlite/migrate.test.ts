/** The migrator with what only SQLite has: the host's connection, its pragmas and foreign keys, locks of a whole file. */
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { beforeEach, describe, expect, it } from 'vitest'
import { sqliteMigrations } from '../../../src/adapters/generated/migrations.js'
import { LEDGER } from '../../../src/adapters/migrator.js'
import { migrateSqlite } from '../../../src/adapters/sqlite/migrate.js'
import { type SqliteKeyStoreOptions, sqliteKeyStore } from '../../../src/adapters/sqlite/store.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { keystoreErrorOf } from '../../support/errors.js'
import { REFERENCE_SQL } from '../../support/reference-file.js'
import { fixedRecord } from '../../support/rows.js'
import { dumpSchema } from '../../support/schema-dumps.js'

const tags = sqliteMigrations.map(({ tag }) => tag)

describe.runIf(isChosen('sqlite'))('the migrator on SQLite', () => {
  const cleanups = cleanUpAfterEach()
  let path: string
  beforeEach(async () => {
    path = await cleanups.database('sqlite')
  })

  const connection = () => cleanups.closing(new Database(path))

  function storeOn(source: string | Database.Database, options?: SqliteKeyStoreOptions) {
    const given = typeof source === 'string' ? { path: source } : { db: drizzle({ client: source }) }
    return cleanups.closing(sqliteKeyStore(given, options))
  }

  /** Two host tables of which one cascades into the other, with a row each. */
  function hostWithChildren(): Database.Database {
    const host = connection()
    host.pragma('foreign_keys = ON')
    host.exec(`create table parents (id integer primary key, name text);
      create table children (id integer primary key, parent integer not null references parents (id) on delete cascade);
      create view pairs as select p.name, c.id from parents p join children c on c.parent = p.id;
      insert into parents values (1, 'theirs'); insert into children values (2, 1);`)
    return host
  }

  const hostRows = (host: Database.Database) => host.prepare('select * from pairs').all()

  describe('when the file is current', () => {
    it.each(['IMMEDIATE', 'EXCLUSIVE'])(
      'takes no lock: it opens while another writer has begun %s',
      async (kind) => {
        await storeOn(path).ready()
        const rival = connection()
        rival.exec(`BEGIN ${kind}`)
        expect((await storeOn(path, { deadlineMs: 200 }).ready()).applied).toEqual([])
        expect(rival.inTransaction).toBe(true)
      },
    )

    it('takes a lock only when a migration is missing, and then waits for the writer, up to the deadline', async () => {
      const rival = connection()
      rival.exec('BEGIN IMMEDIATE')
      const error = await keystoreErrorOf(storeOn(path, { deadlineMs: 200 }).ready())
      expect([error.code, error.retryable]).toEqual(['ERR_STORE', true])

      const waiting = storeOn(path).ready()
      setTimeout(() => rival.exec('ROLLBACK'), 50)
      expect((await waiting).applied).toEqual(tags)
    })

    it("issues nothing but reads on the host's connection, not even a pragma", async () => {
      await storeOn(path).ready()
      const host = connection()
      const seen: string[] = []
      for (const name of ['prepare', 'exec', 'pragma', 'transaction'] as const) {
        const original = host[name].bind(host) as (...args: unknown[]) => unknown
        Object.assign(host, {
          [name]: (...args: unknown[]) => {
            seen.push(`${name} ${args[0]}`)
            return original(...args)
          },
        })
      }
      expect((await storeOn(host).ready()).applied).toEqual([])
      expect(seen.length).toBeGreaterThan(0)
      for (const call of seen) expect(call).toMatch(/^prepare select\s/)
      expect(seen.join()).toContain(LEDGER)
    })
  })

  it.each([
    ['a fresh file', ''],
    ['a file of the Python reference', REFERENCE_SQL.create],
  ])(
    'reads the schema again under the lock: it is no clash if another process has migrated %s since',
    async (_, sql) => {
      const [host, rival] = [connection(), connection()]
      host.exec(sql)
      // Migrates between the first read of the schema and BEGIN.
      const begin = host.transaction.bind(host)
      let rivals: readonly string[] = []
      host.transaction = (work) => {
        rivals = migrateSqlite(rival, { mode: 'auto', adopt: true }).applied
        return begin(work)
      }
      expect(await storeOn(host, { adopt: true }).ready()).toEqual({ applied: [], adopted: null })
      expect(rivals).toEqual(sql === '' ? tags : tags.slice(1))
    },
  )

  describe("on a host's connection", () => {
    it.each(['ON', 'OFF'])('keeps rows, views and foreign_keys = %s', async (foreignKeys) => {
      const host = hostWithChildren()
      host.pragma(`foreign_keys = ${foreignKeys}`)
      const rows = hostRows(host)
      const pragmas = () =>
        ['foreign_keys', 'journal_mode', 'synchronous', 'busy_timeout'].map((name) => host.pragma(name))
      const before = pragmas()
      const store = storeOn(host)
      expect((await store.ready()).applied).toEqual(tags)
      await store.insertIfAbsent([fixedRecord('alice')])
      expect(rows).toHaveLength(1)
      expect(hostRows(host)).toEqual(rows)
      expect(pragmas()).toEqual(before)
      const removeParent = () => host.prepare('delete from parents').run()
      removeParent()
      expect(host.prepare('select count(*) from children').pluck().get()).toBe(foreignKeys === 'ON' ? 0 : 1)
    })

    it.each([
      [
        'a table under the name that the rebuild needs',
        'create table __new_encryption_keys (a)',
        '__new_encryption_keys',
      ],
      [
        'an index under the name of ours',
        'create index encryption_keys_kek_id_idx on parents (name)',
        'encryption_keys_kek_id_idx',
      ],
    ])('rolls back, and restores foreign_keys, when it meets %s', async (_, clash, name) => {
      const host = hostWithChildren()
      host.exec(clash)
      const [rows, before] = [hostRows(host), await dumpSchema('sqlite', path)]
      const store = storeOn(host)
      const error = await keystoreErrorOf(store.ready())
      expect(error.code).toBe('ERR_STORE')
      expect(error.message).toContain(name)
      expect(host.inTransaction).toBe(false)
      expect(host.pragma('foreign_keys', { simple: true })).toBe(1)
      expect(await dumpSchema('sqlite', path)).toEqual(before)
      expect(host.prepare('select 1 from sqlite_master where name = ?').get(LEDGER)).toBeUndefined()
      expect(hostRows(host)).toEqual(rows)

      host.exec(clash.startsWith('create table') ? `drop table ${name}` : `drop index ${name}`)
      expect((await store.ready()).applied).toEqual(tags)
      expect(hostRows(host)).toEqual(rows)
    })

    it('loses no row of the host that refers to our table when it is behind', async () => {
      const host = connection()
      host.pragma('foreign_keys = ON')
      const [first] = sqliteMigrations
      if (!first) throw new Error('There are no migrations')
      host.exec(`${first.statements.join('\n')}
        create table ${LEDGER} (tag text primary key not null, sha256 text not null, applied_at text not null);
        insert into ${LEDGER} values ('${first.tag}', '${first.sha256}', '2026-01-01');
        insert into encryption_keys values ('alice', x'01', '2026-01-02T03:04:05.000000+00:00');
        create table notes (id integer primary key, owner text references encryption_keys (user_id) on delete cascade);
        insert into notes values (1, 'alice')`)
      const before = await dumpSchema('sqlite', path)
      // The new primary key is (user_id, version), so that such a foreign key is impossible.
      const error = await keystoreErrorOf(storeOn(host).ready())
      expect(error.message).toContain('foreign key mismatch')
      expect(await dumpSchema('sqlite', path)).toEqual(before)
      expect(host.prepare('select * from notes').all()).toEqual([{ id: 1, owner: 'alice' }])
      expect(host.prepare('select user_id from encryption_keys').pluck().all()).toEqual(['alice'])
    })

    it('succeeds though rows of the host break foreign keys of the host', async () => {
      const host = hostWithChildren()
      host.pragma('foreign_keys = OFF')
      host.exec('insert into children values (3, 99)')
      expect((await storeOn(host).ready()).applied).toEqual(tags)
      expect(host.prepare('select count(*) from children').pluck().get()).toBe(2)
    })

    it("waits while the host is inside a transaction, and survives the host's ROLLBACK", async () => {
      const host = hostWithChildren()
      host.exec('BEGIN')
      host.exec("insert into parents values (7, 'undone')")
      const error = await keystoreErrorOf(storeOn(host, { deadlineMs: 50 }).ready())
      expect([error.code, error.retryable]).toEqual(['ERR_STORE', true])
      expect(host.inTransaction).toBe(true)

      const store = storeOn(host)
      const waiting = store.ready()
      setTimeout(() => host.exec('ROLLBACK'), 20)
      expect((await waiting).applied).toEqual(tags)
      expect(host.prepare('select count(*) from parents').pluck().get()).toBe(1)
      expect(await store.insertIfAbsent([fixedRecord('alice')])).toEqual([fixedRecord('alice')])
    })
  })
})
