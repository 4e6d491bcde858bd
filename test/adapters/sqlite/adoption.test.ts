/** Adoption of a file of the Python reference: nothing is lost, and a process of the reference can go on. */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { beforeEach, describe, expect, it, vi } from 'vitest'
import { sqliteMigrations } from '../../../src/adapters/generated/migrations.js'
import { LEDGER } from '../../../src/adapters/migrator.js'
import { type OpenKeyStoreOptions, openKeyStore } from '../../../src/adapters/open.js'
import { migrateSqlite } from '../../../src/adapters/sqlite/migrate.js'
import { EnvelopeCrypto } from '../../../src/envelope/envelope-crypto.js'
import { localMasterKey } from '../../../src/index.js'
import { openAtOnce, startChild } from '../../support/child-process.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { itIf } from '../../support/conditional.js'
import { isChosen } from '../../support/databases.js'
import { keystoreErrorOf, schemaErrorOf } from '../../support/errors.js'
import {
  copyReference,
  makeFile,
  REFERENCE_SQL,
  REFERENCE_TIME,
  reference,
} from '../../support/reference-file.js'
import { dumpSchema } from '../../support/schema-dumps.js'

const tags = sqliteMigrations.map(({ tag }) => tag)
const masterKey = localMasterKey(reference.master_key_b64)
const hasPython = spawnSync('python3', ['-c', 'import sqlite3']).status === 0

describe.runIf(isChosen('sqlite'))('adoption', () => {
  const cleanups = cleanUpAfterEach()
  let folder: string
  beforeEach(() => {
    folder = cleanups.folder()
  })

  const open = async (path: string, options?: OpenKeyStoreOptions) =>
    cleanups.closing(await openKeyStore(path, options))
  const adopt = (path: string) => open(path, { adopt: true })

  async function envelopeOn(path: string, options?: OpenKeyStoreOptions): Promise<EnvelopeCrypto> {
    const store = await open(path, options)
    return cleanups.closing(await EnvelopeCrypto.open({ store, masterKeys: masterKey, format: 'v2' }))
  }

  const connection = (path: string) => cleanups.closing(new Database(path))

  async function expectAllKeys(envelope: EnvelopeCrypto) {
    expect(reference.users).toHaveLength(30)
    for (const { user_id, key_hex } of reference.users) {
      const key = await envelope.getOrCreateUserKey(user_id)
      expect(Buffer.from(key).toString('hex'), user_id).toBe(key_hex)
    }
  }

  const rowsOf = (client: Database.Database) =>
    client.prepare('select user_id, encrypted_key, created_at from encryption_keys order by user_id').all()

  it('gives every user the same 32 raw bytes, and decrypts every token', async () => {
    const envelope = await envelopeOn(copyReference(folder), { adopt: true })
    await expectAllKeys(envelope)
    for (const { user_id, tokens } of reference.users) {
      expect(tokens.length).toBeGreaterThan(0)
      for (const { token, plaintext } of tokens)
        expect(await envelope.decrypt(user_id, token)).toBe(plaintext)
    }
  })

  it('makes the table of a fresh database, records all migrations, and keeps every byte of every row', async () => {
    const path = copyReference(folder)
    const before = rowsOf(connection(path))
    const store = await adopt(path)
    expect(await store.ready()).toEqual({ applied: tags.slice(1), adopted: 30 })
    const client = connection(path)
    expect(rowsOf(client)).toEqual(before)
    expect(
      client.prepare('select distinct version, kek_id, wrapped_at, shredded_at from encryption_keys').all(),
    ).toEqual([{ version: 1, kek_id: null, wrapped_at: null, shredded_at: null }])
    const ledger = client.prepare(`select tag, sha256 from ${LEDGER} order by tag`).all()
    expect(ledger).toEqual(sqliteMigrations.map(({ tag, sha256 }) => ({ tag, sha256 })))

    const fresh = join(folder, 'fresh.db')
    await (await open(fresh)).close()
    expect(await dumpSchema('sqlite', path)).toEqual(await dumpSchema('sqlite', fresh))
  })

  it('happens once: the next open adopts nothing, and needs no adopt: true', async () => {
    const path = copyReference(folder)
    await (await adopt(path)).close()
    const again = await adopt(path)
    expect(await again.ready()).toEqual({ applied: [], adopted: null })
    await again.close()
    await expectAllKeys(await envelopeOn(path, { migrate: 'check' }))
  })

  it('takes an empty reference table, and a file without any table as a fresh one', async () => {
    expect(await (await adopt(makeFile(join(folder, 'empty.db')))).ready()).toEqual({
      applied: tags.slice(1),
      adopted: 0,
    })
    expect(await (await adopt(join(folder, 'fresh.db'))).ready()).toEqual({ applied: tags, adopted: null })
  })

  it('takes every id and time that the reference can have written', async () => {
    const ids = [
      'a',
      ' ',
      "o'neil",
      'é',
      'e\u0301',
      '\ufeffbom',
      '🔐'.repeat(128),
      '%',
      'ALICE',
      'alice',
      'line\nbreak',
    ]
    const times = [
      REFERENCE_TIME,
      '2026-11-22T20:24:02+00:00',
      '2026-11-22T22:24:02.000001+02:00',
      '2026-11-22T20:24:02Z',
    ]
    const path = makeFile(join(folder, 'odd.db'))
    const client = connection(path)
    const insert = client.prepare(REFERENCE_SQL.insert)
    ids.forEach((id, index) => {
      insert.run(id, Buffer.alloc(60, index), times[index % times.length])
    })
    const store = await adopt(path)
    expect((await store.ready()).adopted).toBe(ids.length)
    const found = await store.getActive(ids)
    ids.forEach((id, index) => {
      expect(found.get(id)?.encryptedKey, id).toEqual(new Uint8Array(60).fill(index))
      const at = new Date(times[index % times.length] ?? '')
      expect(found.get(id)?.createdAt, id).toEqual(at)
    })
  })

  it('leaves other tables of the host in the file untouched', async () => {
    const path = copyReference(folder)
    const host = connection(path)
    host.exec(`create table parents (id integer primary key, name text unique);
      create table children (id integer primary key, parent integer references parents (id) on delete cascade);
      create index children_parent on children (parent); create view names as select name from parents;
      create trigger renamed after update on parents begin delete from children where parent = old.id; end;
      insert into parents values (1, 'theirs'); insert into children values (2, 1);`)
    const contents = () => [
      host
        .prepare(
          "select * from sqlite_master where tbl_name not like '%keys%' and tbl_name not like '%keystore%' order by name",
        )
        .raw()
        .all()
        .map((row) => (row as unknown[]).toSpliced(3, 1)),
      host.prepare('select * from parents').all(),
      host.prepare('select * from children').all(),
      host.prepare('select * from names').all(),
    ]
    const before = contents()
    expect((await (await adopt(path)).ready()).adopted).toBe(30)
    expect(contents()).toEqual(before)
    expect(before[0]?.length).toBeGreaterThanOrEqual(5)
  })

  describe("and a process of the reference's that goes on", () => {
    /** The statements of such a process, on a connection that it opened before the adoption. */
    function referenceProcess(path: string) {
      const client = connection(path)
      client.exec(REFERENCE_SQL.create)
      const [select, insert] = [
        client.prepare(REFERENCE_SQL.select).pluck(),
        client.prepare(REFERENCE_SQL.insert),
      ]
      return {
        read: (id: string) => select.get(id) as Buffer | undefined,
        write: (id: string, wrapped: Uint8Array) => insert.run(id, wrapped, REFERENCE_TIME).changes,
        restart: () => client.exec(REFERENCE_SQL.create),
      }
    }

    it('reads our keys, writes keys that we read, and keeps the first of two keys for an id', async () => {
      const path = copyReference(folder)
      const python = referenceProcess(path)
      const before = python.read('alice')
      const envelope = await envelopeOn(path, { adopt: true })
      python.restart()
      expect(python.read('alice')).toEqual(before)

      const ours = Buffer.from(await envelope.getOrCreateUserKey('made by us'))
      const wrapped = python.read('made by us')
      expect(wrapped && Buffer.from(masterKey.unwrapV2(wrapped))).toEqual(ours)
      expect(python.write('made by us', Buffer.alloc(60))).toBe(0)
      expect(python.read('made by us')).toEqual(wrapped)

      const theirs = Buffer.alloc(32, 5)
      expect(python.write('made by python', masterKey.wrapV2(theirs))).toBe(1)
      expect(Buffer.from(await envelope.getOrCreateUserKey('made by python'))).toEqual(theirs)
      await expectAllKeys(envelope)
    })

    it('can read the times of our rows, which are written as Python writes them', async () => {
      const path = copyReference(folder)
      const envelope = await envelopeOn(path, { adopt: true })
      const earliest = Date.now()
      await envelope.getOrCreateUserKey('made by us')
      const at = connection(path)
        .prepare("select created_at from encryption_keys where user_id = 'made by us'")
        .pluck()
        .get()
      expect(at).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00$/)
      expect(Date.parse(String(at))).toBeGreaterThanOrEqual(earliest)
      expect(Date.parse(String(at))).toBeLessThanOrEqual(Date.now())
    })

    itIf(hasPython, 'python3 is not installed')('may be a real Python', async () => {
      const path = copyReference(folder)
      const envelope = await envelopeOn(path, { adopt: true })
      const ours = Buffer.from(await envelope.getOrCreateUserKey('made by us'))
      const theirs = Buffer.alloc(32, 6)
      const run = spawnSync(
        'python3',
        ['-c', PYTHON, path, Buffer.from(masterKey.wrapV2(theirs)).toString('hex')],
        {
          encoding: 'utf8',
          env: { ...process.env, ...REFERENCE_SQL },
        },
      )
      expect(run.stderr).toBe('')
      const wrapped = Buffer.from(run.stdout.trim(), 'hex')
      expect(Buffer.from(masterKey.unwrapV2(wrapped))).toEqual(ours)
      expect(Buffer.from(await envelope.getOrCreateUserKey('made by python'))).toEqual(theirs)
    })
  })

  it('takes the rows of a write-ahead log that another process still has open', async () => {
    const path = copyReference(folder)
    const live = connection(path)
    live.pragma('journal_mode = WAL')
    live.pragma('wal_autocheckpoint = 0')
    const theirs = Buffer.alloc(32, 9)
    live.prepare(REFERENCE_SQL.insert).run('only in the wal', masterKey.wrapV2(theirs), REFERENCE_TIME)
    const store = await adopt(path)
    expect((await store.ready()).adopted).toBe(31)
    const envelope = await envelopeOn(path)
    expect(Buffer.from(await envelope.getOrCreateUserKey('only in the wal'))).toEqual(theirs)
    await expectAllKeys(envelope)
    expect(live.prepare(REFERENCE_SQL.select).pluck().get('alice')).toBeInstanceOf(Buffer)
  })

  it('waits for a process of the reference that is reading, up to the deadline', async () => {
    const path = copyReference(folder)
    const reader = connection(path)
    reader.exec('BEGIN')
    reader.prepare(REFERENCE_SQL.select).get('alice')
    const before = readFileSync(path)
    const error = await keystoreErrorOf(open(path, { adopt: true, deadlineMs: 100 }))
    expect([error.code, error.retryable]).toEqual(['ERR_STORE', true])
    expect(readFileSync(path)).toEqual(before)

    const waiting = adopt(path)
    setTimeout(() => reader.exec('COMMIT'), 50)
    expect((await (await waiting).ready()).adopted).toBe(30)
  })

  it('succeeds though another process adopts the file between two reads of its schema', async () => {
    const path = copyReference(folder)
    const { prepare } = Database.prototype
    let adopted = false
    vi.spyOn(Database.prototype, 'prepare').mockImplementation(function (
      this: Database.Database,
      sql: string,
    ) {
      if (sql.includes('pragma_table_list') && !adopted) {
        adopted = true
        const other = new Database(path)
        migrateSqlite(other, { mode: 'auto', adopt: true })
        other.close()
      }
      return prepare.call(this, sql)
    })
    cleanups.add(() => vi.restoreAllMocks())
    expect(await (await open(path)).ready()).toEqual({ applied: [], adopted: null })
    expect(adopted).toBe(true)
  })

  it('is done by one of 8 processes at once: all work, and all 30 keys are there', async () => {
    const path = copyReference(folder)
    const reports = await openAtOnce(8, path, { adopt: true })
    const adopted = reports.filter((report) => report.adopted !== null)
    expect(adopted).toEqual([{ applied: tags.slice(1), adopted: 30 }])
    expect(reports.filter(({ applied }) => applied.length > 0)).toEqual(adopted)
    const client = connection(path)
    expect(client.prepare('select count(*) from encryption_keys').pluck().get()).toBe(38)
    // The 8 rows that the processes wrote hold no wrapped keys.
    client.exec("delete from encryption_keys where user_id like 'user-_'")
    await expectAllKeys(await envelopeOn(path))
  })

  it.each([
    ['before the new table is made', 'create'],
    ['after the old table is dropped', 'rename'],
    ['just before the commit', 'commit'],
  ])('survives a kill -9 %s: nothing is lost, and it succeeds the next time', async (_, step) => {
    const path = copyReference(folder)
    // So many that the transaction does not fit into the child's cache: half of it is in the file when the child dies.
    const client = connection(path)
    client.exec(manyRows(5000))
    const before = rowsOf(client)
    client.close()

    const child = startChild('adopt-and-die.mjs', [path, step])
    const printed = await child.rest()
    const { stderr } = await child.ended()
    expect([child.signal(), printed], stderr).toEqual(['SIGKILL', []])
    expect(existsSync(`${path}-journal`)).toBe(true)

    expect(await schemaErrorOf(open(path))).toContain('5030 keys')
    const store = await adopt(path)
    expect(await store.ready()).toEqual({ applied: tags.slice(1), adopted: 5030 })
    expect(rowsOf(connection(path))).toEqual(before)
  })

  it('takes 100,000 rows in a few seconds', async () => {
    const path = makeFile(join(folder, 'many.db'), REFERENCE_SQL.create, manyRows(100_000))
    const start = performance.now()
    const store = await adopt(path)
    expect(performance.now() - start).toBeLessThan(20_000)
    expect((await store.ready()).adopted).toBe(100_000)
    expect(connection(path).prepare('select count(*) from encryption_keys').pluck().get()).toBe(100_000)
  })
})

function manyRows(count: number): string {
  return `with recursive n(i) as (select 1 union all select i + 1 from n where i < ${count})
    insert into encryption_keys (user_id, encrypted_key, created_at) select 'many-' || i, randomblob(60), '${REFERENCE_TIME}' from n`
}

/** Prints the key that we have made, and makes one. Its statements are in the environment. */
const PYTHON = `
import os, sqlite3, sys, datetime
db = sqlite3.connect(sys.argv[1], timeout=10)
db.execute(os.environ['create'])
print(db.execute(os.environ['select'], ('made by us',)).fetchone()[0].hex())
for (at,) in db.execute('SELECT created_at FROM encryption_keys'):
    assert datetime.datetime.fromisoformat(at).tzinfo is not None, at
now = datetime.datetime.now(datetime.timezone.utc).isoformat()
for attempt in range(2):
    db.execute(os.environ['insert'], ('made by python', bytes.fromhex(sys.argv[2]), now))
db.commit()
`
