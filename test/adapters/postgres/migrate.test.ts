/** The migrator, what only Postgres has: schemas, roles, search paths, the advisory lock. */
import { createHash, randomBytes } from 'node:crypto'
import { drizzle } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { postgresMigrations } from '../../../src/adapters/generated/migrations.js'
import { LEDGER } from '../../../src/adapters/migrator.js'
import { postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import { EnvelopeCrypto } from '../../../src/envelope/envelope-crypto.js'
import { localMasterKey } from '../../../src/index.js'
import { asAdmin, freshDatabase, isChosen } from '../../support/databases.js'
import { dumpSchema, failureOf, openAtOnce, record, runSql } from '../../support/migration-helpers.js'

const tags = postgresMigrations.map(({ tag }) => tag)

const cleanups: (() => unknown)[] = []
let url: string

describe.runIf(isChosen('postgres'))('the migrator on Postgres', () => {
  beforeEach(async () => {
    const database = await freshDatabase('postgres')
    cleanups.push(() => database.remove())
    url = database.url
  })

  afterEach(async () => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
  })

  function storeOn(
    source: Parameters<typeof postgresKeyStore>[0],
    options?: Parameters<typeof postgresKeyStore>[1],
  ) {
    const store = postgresKeyStore(source, options)
    cleanups.push(() => store.close())
    return store
  }

  function poolOf(config: pg.PoolConfig = {}): pg.Pool {
    const pool = new pg.Pool({ connectionString: url, ...config })
    pool.on('error', () => undefined)
    cleanups.push(() => pool.end())
    return pool
  }

  async function connected(): Promise<pg.Client> {
    const client = new pg.Client(url)
    client.on('error', () => undefined)
    await client.connect()
    cleanups.push(() => client.end())
    return client
  }

  const databaseName = () => new URL(url).pathname.slice(1)

  /** The documented key of the lock, computed anew. */
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
      await one.insertIfAbsent([record('alice', 1)])
      await two.insertIfAbsent([record('alice', 2)])
      await two.insertIfAbsent([record('bob', 2)])
      expect(await one.list({ limit: 9 })).toEqual([record('alice', 1)])
      expect(await two.list({ limit: 9 })).toEqual([record('alice', 2), record('bob', 2)])
    })
  })

  describe("with a host's search_path", () => {
    it('neither finds nor touches tables of the same names that are earlier in it', async () => {
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
        expect(await store.insertIfAbsent([record(schema)])).toEqual([record(schema)])
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
      const role = `keystore_role_${randomBytes(6).toString('hex')}`
      const password = randomBytes(12).toString('hex')
      const database = databaseName()
      await asAdmin(
        url,
        `create role ${role} login password '${password}'`,
        `revoke all on database ${database} from public`,
        `grant connect on database ${database} to ${role}`,
        'revoke all on schema public from public',
        `create schema app; grant usage, create on schema app to ${role}`,
      )
      cleanups.push(() => asAdmin(url, `drop owned by ${role}`, `drop role ${role}`))
      const parsed = new URL(url)
      parsed.username = role
      parsed.password = password
      roleUrl = parsed.href
    })

    it('migrates and works end to end', async () => {
      // What the test rests on: this role can do nothing elsewhere.
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

    it('says that permission is missing where it may not, and leaves nothing behind', async () => {
      for (const schema of ['public', 'not_there']) {
        const error = await failureOf(storeOn({ url: roleUrl }, { schema }).ready())
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
    it('reads the ledger and nothing else when current, whoever holds the lock', async () => {
      await storeOn({ url }).ready()
      const holder = await connected()
      await holder.query(`select pg_advisory_lock(${LOCK})`)

      const queries: string[] = []
      const pool = poolOf()
      const query = pool.query.bind(pool) as (...args: unknown[]) => unknown
      const connect = pool.connect.bind(pool) as (...args: unknown[]) => unknown
      let depth = 0
      Object.assign(pool, {
        query: (...args: unknown[]) => {
          queries.push((args[0] as { text: string }).text)
          depth += 1
          const result = query(...args)
          depth -= 1
          return result
        },
        connect: (...args: unknown[]) => {
          if (depth === 0) queries.push('connect')
          return connect(...args)
        },
      })
      expect((await storeOn({ pool }, { deadlineMs: 500 }).ready()).applied).toEqual([])
      expect(queries).toHaveLength(2)
      for (const text of queries) expect(text).toMatch(/^select\s/)
      expect(queries[1]).toContain(LEDGER)

      // The lock that we hold is the right one: a database that is behind waits for it, and gives up at its deadline.
      const behind = storeOn({ pool }, { schema: 'behind', deadlineMs: 300 })
      const error = await failureOf(behind.ready())
      expect([error.code, error.retryable]).toEqual(['ERR_STORE', true])
      expect(queries).toContain('connect')
      await holder.query(`select pg_advisory_unlock(${LOCK})`)
      expect((await behind.ready()).applied).toEqual(tags)
    })

    it.each(['read committed', 'repeatable read', 'serializable'])(
      'sees what the process that had it before us has made, where the default isolation is %s',
      async (isolation) => {
        await runSql(
          'postgres',
          url,
          `alter database ${databaseName()} set default_transaction_isolation = '${isolation}'`,
        )
        // One connection, so that the session that looks first, and remembers, is the one that waits.
        const [pool, hosts] = [poolOf({ max: 1 }), poolOf({ max: 1 })]
        const holder = await connected()
        await holder.query(`begin isolation level read committed; select pg_advisory_xact_lock(${LOCK})`)
        const stores = [storeOn({ pool }), storeOn({ db: drizzle({ client: hosts }) })]
        const reports = Promise.allSettled(stores.map((store) => store.ready()))
        const watcher = await connected()
        await expect.poll(async () => (await watcher.query(WAITERS)).rowCount, { timeout: 8000 }).toBe(2)
        // As another process would: all of it in the transaction that has the lock.
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
