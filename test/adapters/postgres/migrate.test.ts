/** The migrator with what only Postgres has: schemas, roles, search paths, the advisory lock. */
import { createHash, randomBytes } from 'node:crypto'
import { drizzle } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import { beforeEach, describe, expect, it } from 'vitest'
import { postgresMigrations } from '../../../src/adapters/generated/migrations.js'
import { LEDGER } from '../../../src/adapters/migrator.js'
import { postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import { EnvelopeCrypto } from '../../../src/envelope/envelope-crypto.js'
import { localMasterKey } from '../../../src/index.js'
import { openAtOnce } from '../../support/child-process.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { keystoreErrorOf } from '../../support/errors.js'
import { freshRole } from '../../support/postgres-roles.js'
import { runSql } from '../../support/raw-database.js'
import { fixedRecord } from '../../support/rows.js'
import { dumpSchema } from '../../support/schema-dumps.js'

const tags = postgresMigrations.map(({ tag }) => tag)

describe.runIf(isChosen('postgres'))('the migrator on Postgres', () => {
  const cleanups = cleanUpAfterEach()
  let url: string
  beforeEach(async () => {
    url = await cleanups.database('postgres')
  })

  const storeOn = (...source: Parameters<typeof postgresKeyStore>) =>
    cleanups.closing(postgresKeyStore(...source))

  function poolOf(config: pg.PoolConfig = {}): pg.Pool {
    const pool = new pg.Pool({ connectionString: url, ...config })
    pool.on('error', () => undefined)
    cleanups.add(() => pool.end())
    return pool
  }

  async function connected(): Promise<pg.Client> {
    const client = new pg.Client(url)
    client.on('error', () => undefined)
    await client.connect()
    cleanups.add(() => client.end())
    return client
  }

  const databaseName = () => new URL(url).pathname.slice(1)

  /** The key of the advisory lock, computed as documented. */
  const LOCK = `${createHash('sha256').update('drizzle-keystore').digest().readInt32BE(0)}, 1`

  describe('in a schema of its own', () => {
    it.each([
      'keystore',
      'With Capitals',
      'quo"ted',
      "apo'strophe",
      'dotted.name',
      '100%',
      'ключи',
      'select',
    ])('makes %j if it is missing, and works there end to end', async (schema) => {
      const store = storeOn({ url }, { schema })
      expect((await store.ready()).applied).toEqual(tags)
      const envelope = await EnvelopeCrypto.open({ store, masterKeys: localMasterKey(randomBytes(32)) })
      const token = await envelope.encrypt('alice', 'secret')
      expect(await envelope.decrypt('alice', token)).toBe('secret')
      expect(await dumpSchema('postgres', url, 'public')).toEqual([[], [], [], []])
      const made = await runSql(
        'postgres',
        url,
        "select nspname from pg_namespace where nspname !~ '^pg_|^info'",
      )
      expect(made.map(({ nspname }) => nspname).sort()).toEqual(['public', schema].sort())
      expect((await storeOn({ url }, { schema, migrate: 'check' }).ready()).applied).toEqual([])
    })

    it('has the same table there as in public', async () => {
      await storeOn({ url }).ready()
      await storeOn({ url }, { schema: 'Other One' }).ready()
      const dump = await dumpSchema('postgres', url, 'Other One')
      expect(dump).toEqual(await dumpSchema('postgres', url, 'public'))
      expect(JSON.stringify(dump)).toContain('encryption_keys_pk')
    })

    it('lets two schemas of one database live side by side', async () => {
      const [one, two] = [storeOn({ url }, { schema: 'one' }), storeOn({ url }, { schema: 'two' })]
      const reports = await Promise.all([one.ready(), two.ready()])
      expect(reports.map(({ applied }) => applied)).toEqual([tags, tags])
      await one.insertIfAbsent([fixedRecord('alice', 1)])
      await two.insertIfAbsent([fixedRecord('alice', 2)])
      await two.insertIfAbsent([fixedRecord('bob', 2)])
      expect(await one.list({ limit: 9 })).toEqual([fixedRecord('alice', 1)])
      expect(await two.list({ limit: 9 })).toEqual([fixedRecord('alice', 2), fixedRecord('bob', 2)])
    })
  })

  describe("with a host's search_path", () => {
    it('ignores tables of the same names in schemas that come earlier in it', async () => {
      await runSql(
        'postgres',
        url,
        `create schema decoy; create table decoy.encryption_keys (id integer); create table decoy.${LEDGER} (tag text, sha256 text);
          insert into decoy.${LEDGER} values ('0099_future', 'f'); alter database ${databaseName()} set search_path = decoy`,
      )
      const before = await dumpSchema('postgres', url, 'decoy')
      for (const schema of ['public', 'keystore']) {
        const store = storeOn({ url }, { schema })
        expect((await store.ready()).applied).toEqual(tags)
        expect(await store.insertIfAbsent([fixedRecord(schema)])).toEqual([fixedRecord(schema)])
      }
      expect(await dumpSchema('postgres', url, 'decoy')).toEqual(before)
      expect(await runSql('postgres', url, `select * from decoy.${LEDGER}`)).toHaveLength(1)
    })

    it("leaves the search_path of the host's pool as it was", async () => {
      const pool = poolOf({ max: 1 })
      await pool.query("set search_path = 'theirs'")
      const store = storeOn({ pool }, { schema: 'keystore' })
      expect((await store.ready()).applied).toEqual(tags)
      expect((await pool.query('show search_path')).rows).toEqual([{ search_path: 'theirs' }])
      expect((await pool.query('show transaction_isolation')).rows).toEqual([
        { transaction_isolation: 'read committed' },
      ])
    })
  })

  describe('for a role with rights on one schema only', () => {
    let roleUrl: string

    beforeEach(async () => {
      const role = await freshRole(url, [
        `revoke all on database ${databaseName()} from public`,
        `grant connect on database ${databaseName()} to ROLE`,
        'revoke all on schema public from public',
        'create schema app; grant usage, create on schema app to ROLE',
      ])
      cleanups.add(role.remove)
      roleUrl = role.url
    })

    it('migrates and works end to end', async () => {
      // A condition of this test: the role can do nothing elsewhere.
      await expect(runSql('postgres', roleUrl, 'create schema mine')).rejects.toThrow('permission denied')
      await expect(runSql('postgres', roleUrl, 'create table public.mine (a int)')).rejects.toThrow(
        'permission denied',
      )

      const store = storeOn({ url: roleUrl }, { schema: 'app' })
      expect((await store.ready()).applied).toEqual(tags)
      const envelope = await EnvelopeCrypto.open({ store, masterKeys: localMasterKey(randomBytes(32)) })
      const token = await envelope.encrypt('alice', 'secret')
      expect(await envelope.decrypt('alice', token)).toBe('secret')
      expect((await store.shred('alice', { forget: false })).versions).toEqual([1])
      expect((await storeOn({ url: roleUrl }, { schema: 'app' }).ready()).applied).toEqual([])
    })

    it('says that permission is missing in other schemas, and leaves nothing behind', async () => {
      for (const schema of ['public', 'not_there']) {
        const error = await keystoreErrorOf(storeOn({ url: roleUrl }, { schema }).ready())
        expect([error.code, error.retryable]).toEqual(['ERR_STORE', false])
        expect(error.message).toMatch(/permission denied for (schema|database)/)
      }
      expect(await dumpSchema('postgres', url, 'public')).toEqual([[], [], [], []])
      expect(await runSql('postgres', url, "select 1 from pg_namespace where nspname = 'not_there'")).toEqual(
        [],
      )
    })
  })

  describe('and its lock', () => {
    it('is not taken when the schema is current: only the ledger is read', async () => {
      await storeOn({ url }).ready()
      const holder = await connected()
      await holder.query(`select pg_advisory_lock(${LOCK})`)

      const queries: string[] = []
      const pool = poolOf()
      pool.on('connect', (client) => {
        const query = client.query.bind(client) as (...args: unknown[]) => unknown
        Object.assign(client, {
          query(...args: unknown[]) {
            const [config] = args as [string | { text: string }]
            queries.push(typeof config === 'string' ? config : config.text)
            return query(...args)
          },
        })
      })
      expect((await storeOn({ pool }).ready()).applied).toEqual([])
      expect(queries).toHaveLength(2)
      for (const text of queries) expect(text).toMatch(/^select\s/)
      expect(queries[1]).toContain(LEDGER)

      // To show that the lock held is the right one: a schema that is behind waits for it, up to the deadline.
      const behind = storeOn({ pool }, { schema: 'behind', deadlineMs: 2000 })
      const error = await keystoreErrorOf(behind.ready())
      expect([error.code, error.retryable]).toEqual(['ERR_STORE', true])
      expect(queries).toContain('begin')
      await holder.query(`select pg_advisory_unlock(${LOCK})`)
      expect((await behind.ready()).applied).toEqual(tags)
    })

    it.each(['read committed', 'repeatable read', 'serializable'])(
      'lets the next process see what its holder has migrated, with the default isolation %s',
      async (isolation) => {
        await runSql(
          'postgres',
          url,
          `alter database ${databaseName()} set default_transaction_isolation = '${isolation}'`,
        )
        // One connection each, so that the session that reads the ledger first is also the one that waits.
        const [pool, hosts] = [poolOf({ max: 1 }), poolOf({ max: 1 })]
        const holder = await connected()
        await holder.query(`begin isolation level read committed; select pg_advisory_xact_lock(${LOCK})`)
        const stores = [storeOn({ pool }), storeOn({ db: drizzle({ client: hosts }) })]
        const reports = Promise.allSettled(stores.map((store) => store.ready()))
        const watcher = await connected()
        await expect.poll(async () => (await watcher.query(WAITERS)).rowCount, { timeout: 8000 }).toBe(2)
        // The holder migrates as another process would, in the transaction that has the lock.
        await holder.query(
          `create table ${LEDGER} (tag text primary key, sha256 text not null, applied_at timestamptz not null default now())`,
        )
        for (const { tag, sha256, statements } of postgresMigrations) {
          for (const statement of statements) await holder.query(statement)
          await holder.query(`insert into ${LEDGER} (tag, sha256) values ('${tag}', '${sha256}')`)
        }
        await holder.query('commit')
        const value = { applied: [], adopted: null }
        expect(await reports).toEqual(stores.map(() => ({ status: 'fulfilled', value })))
      },
    )

    it('lets 8 processes migrate one database at once where the default isolation is repeatable read', async () => {
      await runSql(
        'postgres',
        url,
        `alter database ${databaseName()} set default_transaction_isolation = 'repeatable read'`,
      )
      const reports = await openAtOnce(8, url, {})
      expect(reports.filter(({ applied }) => applied.length > 0).map(({ applied }) => applied)).toEqual([
        tags,
      ])
    })
  })
})

const WAITERS = `select 1 from pg_locks where locktype = 'advisory' and not granted
  and database = (select oid from pg_database where datname = current_database())`
