/** `maintenance.inspect`: what it finds of the schema on both dialects. */
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { beforeEach, describe, expect, it } from 'vitest'
import { LEDGER } from '../../src/adapters/migrator.js'
import { openKeyStore } from '../../src/adapters/open.js'
import { postgresKeyStore } from '../../src/adapters/postgres/store.js'
import { sqliteKeyStore } from '../../src/adapters/sqlite/store.js'
import type { KeyStore } from '../../src/index.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { dialects } from '../support/databases.js'
import { schemaErrorOf } from '../support/errors.js'
import { errorsOf, storeMaintenance } from '../support/maintenance.js'
import { runSql } from '../support/raw-database.js'
import { makeFile } from '../support/reference-file.js'

const cleanups = cleanUpAfterEach()

/** The maintenance of a store, which is closed after the test. */
const maintenanceOf = (store: KeyStore) => storeMaintenance(cleanups.closing(store))

describe.each(dialects)('inspect on %s: the schema', (dialect) => {
  let url: string
  beforeEach(async () => {
    url = await cleanups.database(dialect)
  })
  const run = (sql: string) => runSql(dialect, url, sql)
  const storeWith = (migrate: 'off' | 'check') =>
    dialect === 'sqlite' ? sqliteKeyStore({ path: url, migrate }) : postgresKeyStore({ url, migrate })

  it('is reported when it is behind, with the message of migrate: "check"', async () => {
    await (await openKeyStore(url)).close()
    await run(`delete from ${LEDGER} where tag like '0003%'`)
    const refused = await schemaErrorOf(cleanups.closing(storeWith('check')).ready())
    const finding = { severity: 'error', kind: 'schemaVersion', reason: refused }
    expect(errorsOf(await maintenanceOf(storeWith('off')).inspect())).toEqual([finding])
    expect(await maintenanceOf(storeWith('check')).inspect()).toEqual([finding])
  })

  it('is reported when it is newer, or made by other SQL', async () => {
    await (await openKeyStore(url)).close()
    const off = maintenanceOf(storeWith('off'))
    expect(errorsOf(await off.inspect())).toEqual([])
    await run(`update ${LEDGER} set sha256 = 'other' where tag like '0001%'`)
    expect(errorsOf(await off.inspect())).toMatchObject([{ reason: expect.stringContaining('other SQL') }])
    await run(`update ${LEDGER} set tag = '0099_later' where tag like '0001%'`)
    expect(errorsOf(await off.inspect())).toMatchObject([
      { reason: expect.stringContaining('upgrade the package') },
    ])
  })

  it('is reported when it is missing', async () => {
    if (dialect === 'sqlite') makeFile(url, 'create table of_the_host (id integer)')
    const findings = await maintenanceOf(storeWith('off')).inspect()
    expect(errorsOf(findings)).toMatchObject([
      { kind: 'schemaVersion', reason: expect.stringContaining('keystore migrate') },
    ])
  })

  it('is judged by its columns if the host’s own migrations made the table', async () => {
    await (await openKeyStore(url)).close()
    await run(`drop table ${LEDGER}`)
    const off = maintenanceOf(storeWith('off'))
    expect(errorsOf(await off.inspect())).toEqual([])
    await run(
      'drop index encryption_keys_kek_id_idx; alter table encryption_keys rename column kek_id to kek',
    )
    expect(errorsOf(await off.inspect())).toMatchObject([{ kind: 'schemaVersion' }])
  })

  it('gives no finding in an outage, but throws', async () => {
    if (dialect === 'postgres') {
      const store = postgresKeyStore({ url: 'postgres://u@127.0.0.1:1/x' }, { migrate: 'off', deadlineMs: 1 })
      await expect(maintenanceOf(store).inspect()).rejects.toMatchObject({ code: 'ERR_STORE' })
      return
    }
    const client = new Database(url)
    const store = sqliteKeyStore({ db: drizzle({ client }) })
    await store.ready()
    client.close()
    await expect(maintenanceOf(store).inspect()).rejects.toMatchObject({ code: 'ERR_STORE' })
  })
})
