/** What adoption refuses: the file keeps its bytes, and the error names the reason. */
import { readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../../src/adapters/open.js'
import { sqliteKeyStore } from '../../../src/adapters/sqlite/store.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { schemaErrorOf } from '../../support/errors.js'
import { copyReference, insertRow, makeFile, REFERENCE_SQL } from '../../support/reference-file.js'

/** The reference's table with a part of its text replaced. @throws if the part is not there */
function tableWith(from: string, to: string): string {
  if (!REFERENCE_SQL.create.includes(from)) throw new Error(`The reference's table has no ${from}`)
  return REFERENCE_SQL.create.replace(from, to)
}

const TABLE = REFERENCE_SQL.create
const GOOD_ROW = insertRow({ id: "'good'" })

describe.runIf(isChosen('sqlite'))('adoption refuses', () => {
  const cleanups = cleanUpAfterEach()
  let folder: string
  beforeEach(() => {
    folder = cleanups.folder()
  })

  /** Expects a refusal that leaves the folder with the same files and bytes. @returns its message */
  async function refusalOf(path: string, adopt: boolean): Promise<string> {
    const before = filesOf(folder)
    expect(Object.keys(before).length).toBeGreaterThan(0)
    const message = await schemaErrorOf(openKeyStore(path, { adopt }))
    expect(filesOf(folder)).toEqual(before)
    return message
  }

  it('a file of the reference without adopt: true, saying what to do and how a Python process goes on', async () => {
    const message = await refusalOf(copyReference(folder), false)
    expect(message).toContain('30 keys of the Python reference')
    expect(message).toContain('`adopt: true`')
    expect(message).toContain('--adopt')
    expect(message).toContain('backup')
    expect(message).toMatch(/A Python process .* keeps working as long as this library writes format: 'v2'/)
  })

  it("a file of the reference in mode 'check', even with adopt: true: that mode changes nothing", async () => {
    const path = copyReference(folder)
    const before = filesOf(folder)
    const message = await schemaErrorOf(openKeyStore(path, { adopt: true, migrate: 'check' }))
    expect(message).toContain("migrate: 'auto'")
    expect(filesOf(folder)).toEqual(before)
  })

  describe.each([false, true])('with adopt: %j,', (adopt) => {
    it.each([
      [
        'one more column',
        [tableWith('created_at TEXT NOT NULL', 'created_at TEXT NOT NULL, note TEXT')],
        /other columns/,
      ],
      ['a column less', [tableWith(',\n    created_at TEXT NOT NULL', '')], /other columns/],
      ['another column name', [tableWith('user_id', 'owner_id')], /other columns/],
      ['another type', [tableWith('BLOB', 'TEXT')], /other columns/],
      ['a nullable key', [tableWith('BLOB NOT NULL', 'BLOB')], /other columns/],
      [
        'a default',
        [tableWith('created_at TEXT NOT NULL', "created_at TEXT NOT NULL DEFAULT ''")],
        /other columns/,
      ],
      ['no primary key', [tableWith(' PRIMARY KEY', '')], /other columns/],
      [
        'a generated column',
        [tableWith('created_at TEXT NOT NULL', 'created_at TEXT NOT NULL, n AS (length(user_id)) VIRTUAL')],
        /other columns/,
      ],
      ['UNIQUE', [tableWith('BLOB NOT NULL', 'BLOB NOT NULL UNIQUE')], /constraint/],
      [
        'CHECK',
        [tableWith('BLOB NOT NULL', 'BLOB NOT NULL CHECK (length(encrypted_key) = 60)')],
        /constraint/,
      ],
      ['COLLATE', [tableWith('TEXT PRIMARY KEY', 'TEXT COLLATE NOCASE PRIMARY KEY')], /constraint/],
      [
        'a foreign key to a table of the host',
        [
          'create table users (id text primary key)',
          tableWith('PRIMARY KEY', 'PRIMARY KEY REFERENCES users (id)'),
        ],
        /constraint/,
      ],
      ['WITHOUT ROWID', [`${TABLE} WITHOUT ROWID`], /WITHOUT ROWID/],
      ['STRICT', [`${TABLE} STRICT`], /STRICT/],
    ])('a table with %s', async (_, sql, reason) => {
      const message = await refusalOf(makeFile(join(folder, 'other.db'), ...sql), adopt)
      expect(message).toMatch(reason)
      expect(message).toContain('Nothing was changed')
    })

    it.each([
      [
        'a view under its name',
        [tableWith('encryption_keys', 'kept'), 'create view encryption_keys as select * from kept'],
        /view/,
      ],
      [
        "somebody else's table under its name in other letters",
        ['create table Encryption_Keys (id integer primary key)'],
        /other columns/,
      ],
      ['an index under its name', ['create table t (a); create index encryption_keys on t (a)'], /no table/],
      ['one more index', [TABLE, 'create index by_time on encryption_keys (created_at)'], /index by_time/],
      [
        'a unique index',
        [TABLE, 'create unique index one_key on encryption_keys (encrypted_key)'],
        /index one_key/,
      ],
      ['a view on it', [TABLE, 'create view ids as select user_id from encryption_keys'], /view ids/],
      [
        'a trigger on it',
        [TABLE, 'create trigger kept before delete on encryption_keys begin select 1; end'],
        /trigger kept/,
      ],
      [
        'a trigger of another table that writes to it',
        [
          TABLE,
          'create table users (id text)',
          'create trigger gone after delete on users begin delete from encryption_keys where user_id = old.id; end',
        ],
        /trigger gone/,
      ],
      [
        'a foreign key of the host that refers to it',
        [TABLE, 'create table notes (owner text references encryption_keys (user_id))'],
        /foreign key of notes/,
      ],
      [
        'a foreign key of the host that refers to it in other letters',
        [TABLE, 'create table notes (owner text references Encryption_Keys)'],
        /foreign key of notes/,
      ],
    ])('a file with %s', async (_, sql, reason) => {
      const message = await refusalOf(makeFile(join(folder, 'other.db'), ...sql), adopt)
      expect(message).toMatch(reason)
      expect(message).toContain('Nothing was changed')
    })

    it.each([
      ['a NULL id', { id: 'NULL' }, /1 with a user id that is not text/],
      ['an id that is a blob', { id: "x'616263'" }, /1 with a user id that is not text/],
      ['a key that is text', { key: "'text'" }, /1 with a key that is not a blob/],
      ['a key that is a number', { key: '5' }, /1 with a key that is not a blob/],
      ['an empty id', { id: "''" }, /1 with an empty user id/],
      ['an id of 513 bytes', { id: `'${'é'.repeat(256)}a'` }, /1 with a user id of more than 512 bytes/],
      ['a NUL in the id', { id: "'a' || char(0) || 'b'" }, /1 with a NUL in the user id/],
      ['a NUL at the end of the id', { id: "'a' || char(0)" }, /1 with a NUL in the user id/],
      ['an id that is not UTF-8', { id: "cast(x'61ff' as text)" }, /1 with a user id that is not UTF-8/],
      ['an id with a surrogate', { id: "cast(x'eda080' as text)" }, /1 with a user id that is not UTF-8/],
      ['a time without an offset', { at: "'2026-11-22T20:24:02.735394'" }, /1 with a created_at/],
      ['a time that is none', { at: "'yesterday'" }, /1 with a created_at/],
      ['a time in no calendar', { at: "'2026-13-22T20:24:02+00:00'" }, /1 with a created_at/],
      ['an empty time', { at: "''" }, /1 with a created_at/],
      ['a time that is a blob', { at: "x'3230'" }, /1 with a created_at/],
    ])('a row with %s', async (_, row, reason) => {
      const path = makeFile(join(folder, 'rows.db'), TABLE, GOOD_ROW, insertRow(row))
      const message = await refusalOf(path, adopt)
      expect(message).toMatch(reason)
      expect(message).toContain('Nothing was changed')
      // Without the row the file is adopted.
      const client = new Database(path)
      client.exec("delete from encryption_keys where user_id is not 'good'")
      client.close()
      const store = await openKeyStore(path, { adopt: true })
      expect((await store.ready()).adopted).toBe(1)
      await store.close()
    })

    it('several bad rows, with a count of each kind', async () => {
      const rows = [
        GOOD_ROW,
        insertRow({ id: "'a'", key: '1' }),
        insertRow({ id: "'b'", key: '2' }),
        insertRow({ id: "''" }),
      ]
      const message = await refusalOf(makeFile(join(folder, 'rows.db'), TABLE, ...rows), adopt)
      expect(message).toMatch(/2 with a key that is not a blob/)
      expect(message).toMatch(/1 with an empty user id/)
    })

    it.each([
      ['a line of text', 'no database\n'],
      ['much text', 'no database\n'.repeat(2000)],
    ])('%s', async (_, text) => {
      const path = join(folder, 'notes.txt')
      writeFileSync(path, text)
      expect(await refusalOf(path, adopt)).toContain('is not a SQLite database')
    })

    it.each([8192, 5000, 4096, 50])('a database of which only %i bytes are left', async (bytes) => {
      const path = copyReference(folder)
      truncateSync(path, bytes)
      const message = await refusalOf(path, adopt)
      expect(message).toMatch(/damaged.*backup/s)
    })

    it('a file with a write-ahead log, and leaves the log as it is', async () => {
      const path = copyReference(folder)
      const live = cleanups.closing(new Database(path))
      live.pragma('journal_mode = WAL')
      live.pragma('wal_autocheckpoint = 0')
      live.exec(insertRow({ id: "''" }))
      // Readers write to -shm too: it holds locks and no data.
      const before = [path, `${path}-wal`].map((file) => readFileSync(file, 'hex'))
      const message = await schemaErrorOf(openKeyStore(path, { adopt }))
      expect(message).toContain('1 with an empty user id')
      expect([path, `${path}-wal`].map((file) => readFileSync(file, 'hex'))).toEqual(before)
    })

    it('a file of a killed process with a write-ahead log, and does not write the log back', async () => {
      const live = cleanups.closing(new Database(copyReference(folder, 'live.sqlite')))
      live.pragma('journal_mode = WAL')
      live.pragma('wal_autocheckpoint = 0')
      live.exec(insertRow({ id: "''" }))
      // A kill leaves both files, open in no process.
      const path = join(folder, 'left.sqlite')
      const before = ['', '-wal'].map((suffix) => readFileSync(join(folder, `live.sqlite${suffix}`)))
      before.forEach((bytes, index) => {
        writeFileSync(index === 0 ? path : `${path}-wal`, bytes)
      })
      const message = await schemaErrorOf(openKeyStore(path, { adopt }))
      expect(message).toContain('1 with an empty user id')
      expect([readFileSync(path), readFileSync(`${path}-wal`)]).toEqual(before)
    })

    it("a bad file on the host's own connection, which it leaves outside a transaction and with the same pragmas", async () => {
      const path = makeFile(join(folder, 'rows.db'), TABLE, insertRow({ id: "''" }))
      const host = cleanups.closing(new Database(path))
      host.pragma('foreign_keys = ON')
      const before = filesOf(folder)
      const store = sqliteKeyStore({ db: drizzle({ client: host }) }, { adopt })
      expect(await schemaErrorOf(store.ready())).toContain('1 with an empty user id')
      expect([host.inTransaction, host.pragma('foreign_keys', { simple: true })]).toEqual([false, 1])
      expect(filesOf(folder)).toEqual(before)
    })
  })
})

/** The bytes of every file of a folder in hex, by name. */
function filesOf(folder: string): Record<string, string> {
  const names = readdirSync(folder).sort()
  return Object.fromEntries(names.map((name) => [name, readFileSync(join(folder, name), 'hex')]))
}
