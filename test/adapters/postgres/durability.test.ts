/** What a promise has resolved for is in the write-ahead log on disk, whatever the role's synchronous_commit. */
import { drizzle } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type PostgresKeyStore, postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import { sqlSource } from '../../../src/sources/sql.js'
import type { KeyRecord } from '../../../src/table.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { asAdmin, isChosen, queryPostgres } from '../../support/databases.js'
import { storeMaintenance } from '../../support/maintenance.js'
import { type FreshRole, freshRole } from '../../support/postgres-roles.js'
import { type PostgresServer, startPostgres } from '../../support/postgres-server.js'
import { randomRecord } from '../../support/rows.js'

// Nobody but the test writes to this server, and nothing is flushed that no commit asks for.
const SETTINGS = ['wal_level=minimal', 'max_wal_senders=0', 'wal_writer_delay=10s', 'autovacuum=off']

describe.runIf(isChosen('postgres'))('what a role with synchronous_commit = off writes on Postgres', () => {
  const cleanups = cleanUpAfterEach()
  let server: PostgresServer
  let role: FreshRole
  let pool: pg.Pool
  let store: PostgresKeyStore
  beforeAll(async () => {
    server = await startPostgres(SETTINGS)
  })
  afterAll(() => server?.remove())
  beforeEach(async () => {
    role = await freshRole(server.url, [
      'alter role ROLE set synchronous_commit = off',
      'grant create on database postgres to ROLE',
      'create schema durable authorization ROLE',
    ])
    cleanups.add(role.remove)
    pool = new pg.Pool({ connectionString: role.url, max: 4 })
    cleanups.add(() => pool.end())
    store = postgresKeyStore({ pool }, { schema: 'durable' })
    await store.ready()
  })

  /** How many bytes of the log are not on disk. */
  const unflushed = async () => {
    const [row] = await queryPostgres(
      server.url,
      'select pg_current_wal_insert_lsn() - pg_current_wal_flush_lsn() as bytes',
    )
    return Number(row?.bytes)
  }
  const expectFlushed = async (what: string, work: () => Promise<unknown>) => {
    // A commit that is not flushed: else nothing would be left to flush.
    await pool.query('create table if not exists durable.other (n int); insert into durable.other values (1)')
    expect(await unflushed()).toBeGreaterThan(0)
    await work()
    expect([what, await unflushed()]).toEqual([what, 0])
  }

  it('is flushed by each write of a store, by its migration and by the sweep', async () => {
    const row: KeyRecord = randomRecord('alice')
    const second = randomRecord('alice', { version: 2 })
    const change = { ...row, from: row.encryptedKey, encryptedKey: new Uint8Array(60), wrappedAt: new Date() }
    await expectFlushed('mint', () => store.insertIfAbsent([row]))
    await expectFlushed('rotate', () => store.insertIfAbsent([second]))
    await expectFlushed('replaceWrapped', () => store.replaceWrapped([change]))
    await expectFlushed('remove', () => store.remove([row]))
    await expectFlushed('restore', () => storeMaintenance(store).restore([randomRecord('bob')]))
    await expectFlushed('shred', () => store.shred('alice', { forget: false }))
    await expectFlushed('shred of nobody', () => store.shred('carol', { forget: false }))
    await expectFlushed('shred --forget', () => store.shred('alice', { forget: true }))
    await expectFlushed('migrate', () => postgresKeyStore({ pool }, { schema: 'durable_too' }).ready())

    await pool.query(`create table durable.secrets (id int primary key, owner text, value text)`)
    await pool.query(`insert into durable.secrets values (1, 'alice', 'old')`)
    const source = await sqlSource(role.url, {
      schema: 'durable',
      table: 'secrets',
      key: 'id',
      owner: 'owner',
      column: 'value',
    })
    cleanups.closing(source)
    const sweep = { key: 1, column: 'value', owner: 'alice', from: 'old', to: 'new' }
    await expectFlushed('replace of the sweep', async () => source.replace([sweep]))
  })

  it("is flushed by the commit of the host's transaction in which it was written", async () => {
    await expectFlushed('transaction', () =>
      drizzle({ client: pool }).transaction(async (tx) => {
        const inside = postgresKeyStore({ db: tx, transactional: true }, { schema: 'durable' })
        await inside.insertIfAbsent([randomRecord('alice')])
      }),
    )
  })

  it.each([
    ['off', 'on'],
    ['local', 'on'],
    ['remote_write', 'on'],
    ['on', 'on'],
    ['remote_apply', 'remote_apply'],
  ])('a role with synchronous_commit = %s writes with %s', async (setting, expected) => {
    await asAdmin(server.url, `alter role ${role.name} set synchronous_commit = ${setting}`)
    const fresh = new pg.Pool({ connectionString: role.url, max: 1 })
    cleanups.add(() => fresh.end())
    const level = await drizzle({ client: fresh }).transaction(async (tx) => {
      await postgresKeyStore({ db: tx }, { schema: 'durable' }).insertIfAbsent([randomRecord('dave')])
      return (await tx.execute('show synchronous_commit')).rows[0]?.synchronous_commit
    })
    expect(level).toBe(expected)
    expect((await fresh.query('show synchronous_commit')).rows).toEqual([{ synchronous_commit: setting }])
  })
})
