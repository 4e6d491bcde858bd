/** `maintenance` on Postgres: findings in settings, ages, and restores beside shreds. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { PGlite } from '@electric-sql/pglite'
import { drizzle as drizzlePglite } from 'drizzle-orm/pglite'
import pg from 'pg'
import { beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../../src/adapters/open.js'
import { postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import { generateMasterKey, type KeyStore, localMasterKey, verifyAll } from '../../../src/index.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { asAdmin, isChosen, queryPostgres } from '../../support/databases.js'
import { storeMaintenance } from '../../support/maintenance.js'
import { freshDriverDatabase } from '../../support/postgres-drivers.js'
import { randomRecord } from '../../support/rows.js'

describe.runIf(isChosen('postgres'))('the maintenance of a Postgres store', () => {
  const cleanups = cleanUpAfterEach()
  let url: string
  beforeEach(async () => {
    url = await cleanups.database('postgres')
  })
  const maintenanceOf = (store: KeyStore) => storeMaintenance(cleanups.closing(store))
  const open = async () => maintenanceOf(await openKeyStore(url))

  it('warns of settings of the server that would lose keys in a crash', async () => {
    const risky = new URL(url)
    // No store depends on it: see durability.test.ts.
    risky.searchParams.set('options', '-c synchronous_commit=off')
    const findings = await maintenanceOf(postgresKeyStore({ url: risky.href })).inspect()
    const rows = await queryPostgres(
      url,
      `select name from pg_settings where name in ('fsync', 'full_page_writes') and setting = 'off' order by 1`,
    )
    expect(findings).toEqual(
      rows.map(({ name }) => ({
        severity: 'warning',
        kind: 'setting',
        reason: `${name} is off: a crash can lose keys`,
      })),
    )
  })

  it('explains a setting that PGlite itself has turned off, and does not warn of it', async () => {
    const database = await freshDriverDatabase('pglite')
    cleanups.add(() => database.remove())
    const pglite = database.db.$client as PGlite
    await postgresKeyStore({ db: database.db }).ready()
    /** As versions of PGlite are that run without fsync. */
    const client = new Proxy(pglite, {
      get(target, name) {
        const value: unknown = Reflect.get(target, name, target)
        if (typeof value !== 'function') return value
        if (name !== 'query') return value.bind(target)
        return async (text: string, ...rest: never[]) => {
          const answer = await target.query(text, ...rest)
          return text.includes('pg_settings')
            ? { ...answer, rows: [{ name: 'fsync', setting: 'off' }] }
            : answer
        }
      },
    })
    const store = postgresKeyStore({ db: drizzlePglite({ client }) })
    const reason = expect.stringMatching(/^fsync is off, as PGlite has it: .*keyLog/)
    expect(await maintenanceOf(store).inspect()).toEqual([{ severity: 'note', kind: 'setting', reason }])
    const masterKeys = localMasterKey(generateMasterKey())
    expect(await verifyAll({ store, masterKeys })).toMatchObject({ ok: true, counts: { setting: 1 } })
  })

  it('gives ages without the times that cannot be read', async () => {
    const maintenance = await open()
    await maintenance.restore([randomRecord('a'), randomRecord('b', { kekId: 'k' })])
    await asAdmin(url, `update encryption_keys set created_at = 'infinity' where user_id = 'b'`)
    const rows = await maintenance.datedCensus()
    const byKek = new Map(rows.map((row) => [row.kekId, row.newest.getTime()]))
    expect(byKek.get(null)).toBeGreaterThan(0)
    expect(byKek.get('k')).toBeNaN()
  })

  it('does not leave a row that was being restored while its user was shredded', async () => {
    const maintenance = await open()
    // Gives time for a whole shred between what restore has read and its commit.
    await asAdmin(
      url,
      `create function linger() returns trigger language plpgsql as $$ begin perform pg_sleep(1); return new; end $$`,
      `create trigger linger before insert on encryption_keys for each row when (new.version = 2) execute function linger()`,
    )
    const restoring = maintenance.restore([randomRecord('alice', { version: 2 })])
    const client = new pg.Client(url)
    await client.connect()
    for (let waiting = 0; waiting === 0; await sleep(10)) {
      const { rows } = await client.query(`select 1 from pg_stat_activity where wait_event = 'PgSleep'`)
      waiting = rows.length
    }
    await client.end()
    const other = cleanups.closing(await openKeyStore(url))
    await other.shred('alice', { forget: false })
    expect((await other.getAll(['alice'])).get('alice')).toHaveLength(1)
    const [winner] = await restoring
    expect(winner).toMatchObject({ version: 1, shreddedAt: expect.any(Date) })
    expect((await other.getAll(['alice'])).get('alice')).toEqual([winner])
  })
})
