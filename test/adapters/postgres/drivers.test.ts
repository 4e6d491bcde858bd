/** A store and the service on drivers other than node-postgres. The conformance suite runs on them too. */
import { setTimeout as sleep } from 'node:timers/promises'
import { eq } from 'drizzle-orm'
import { pgTable, text } from 'drizzle-orm/pg-core'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import { encryptedJson, encryptedText } from '../../../src/drizzle/postgres.js'
import {
  decryptRows,
  EnvelopeCrypto,
  generateMasterKey,
  localMasterKey,
  masterKeyring,
  pruneRetired,
  rewrapAll,
  verifyAll,
} from '../../../src/index.js'
import { drizzleSource, reencrypt } from '../../../src/reencrypt/index.js'
import { sampleColumns } from '../../../src/sources/sample.js'
import { tableOn } from '../../../src/sources/table-on.js'
import { isAnything, isOf, listenTo } from '../../support/change-listener.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { errorOf } from '../../support/errors.js'
import {
  type DriverDatabase,
  freshDriverDatabase,
  freshPostgresJs,
  postgresDrivers,
} from '../../support/postgres-drivers.js'
import { rowsOf } from '../../support/rows.js'

const masterKey = localMasterKey(generateMasterKey())
const nextKey = localMasterKey(generateMasterKey())
const oneKey = { masterKeys: masterKey, closeStore: false }

const credentials = pgTable('credentials', {
  id: text('id').primaryKey(),
  userId: text('user_id'),
  apiKey: encryptedText('api_key', { context: 'credentials.api_key' }),
  settings: encryptedJson<{ port: number }>('settings', { context: 'credentials.settings' }),
  legacy: text('legacy'),
})
const CREATE = `create table credentials (id text primary key, user_id text, api_key text, settings text, legacy text)`

describe.each(postgresDrivers)('on %s', (driver) => {
  let host: DriverDatabase
  beforeEach(async () => {
    host = await freshDriverDatabase(driver)
  })
  afterEach(() => host.remove())
  const cleanups = cleanUpAfterEach()
  const storeOn = (db: DriverDatabase['db'], deadlineMs = 60_000) =>
    cleanups.closing(postgresKeyStore({ db }, { deadlineMs }))

  it('mints, decrypts, rotates, prunes, rewraps, verifies and shreds', async () => {
    const store = storeOn(host.db)
    const envelope = await EnvelopeCrypto.open({ store, ...oneKey })
    const ids = ['alice', 'bob', 'Zoë "\\', '{,}', 'NULL', ' ']
    const items = ids.map((userId) => ({ userId, plaintext: `of ${userId}` }))
    const tokens = await envelope.encryptMany(items)
    expect(tokens.map(({ ok }) => ok)).toEqual(ids.map(() => true))
    await envelope.rotateUserKey('alice')
    const written = await envelope.encrypt('alice', 'under version 2')
    await envelope.close()

    const masterKeys = masterKeyring({ primary: nextKey, previous: [masterKey] })
    expect(await rewrapAll({ store, masterKeys })).toMatchObject({ changed: ids.length + 1 })
    expect(await verifyAll({ store, masterKeys: nextKey })).toMatchObject({ ok: true, rows: ids.length + 1 })

    const later = await EnvelopeCrypto.open({
      store: storeOn(host.another()),
      masterKeys: nextKey,
      closeStore: false,
    })
    const opened = await later.decryptMany(
      tokens.map((token, index) => ({ userId: ids[index] ?? '', token: token.ok ? token.value : '' })),
    )
    expect(opened).toEqual(items.map(({ plaintext }) => ({ ok: true, value: plaintext })))
    expect(await later.decrypt('alice', written)).toBe('under version 2')
    expect(
      (
        await pruneRetired({
          store,
          userId: 'alice',
          beforeVersion: 2,
          tokensReencrypted: true,
          includeFirst: true,
        })
      ).versions,
    ).toEqual([1])
    expect(await later.shredUser('alice')).toMatchObject({ userId: 'alice' })
    await expect(later.decrypt('alice', written)).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
    await later.close()
    expect((await rowsOf(store)).filter(({ shreddedAt }) => shreddedAt !== null)).toHaveLength(1)
  })

  it('tells other stores on the database of changes', async () => {
    const [store, other] = [storeOn(host.db), storeOn(host.another())]
    const envelope = await EnvelopeCrypto.open({ store, ...oneKey })
    await envelope.encrypt('alice', 'x')
    const listener = listenTo(other)
    await listener.next(isAnything)
    await envelope.rotateUserKey('alice')
    await listener.next(isOf('alice'))
    await envelope.shredUser('bob')
    await listener.next(isOf('bob'))
    listener.end()
    await envelope.close()
  })

  it('commits and rolls back with a transaction of the host', async () => {
    const outer = storeOn(host.db)
    await outer.ready()
    const mintIn = (userId: string) =>
      host.db.transaction(async (tx) => {
        const store = postgresKeyStore({ db: tx })
        expect(store.transactional).toBe(true)
        const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKey })
        await envelope.encrypt(userId, 'x')
        await envelope.close()
        if (userId === 'bob') throw new Error('changed my mind')
      })
    await mintIn('alice')
    await expect(mintIn('bob')).rejects.toThrow('changed my mind')
    expect((await rowsOf(outer)).map(({ userId }) => userId)).toEqual(['alice'])
  })

  it('encrypts columns, and sweeps them to the newest key', async () => {
    await host.query(CREATE)
    const envelope = await EnvelopeCrypto.open({ store: storeOn(host.db), ...oneKey })
    for (const userId of ['alice', 'bob']) {
      await envelope.scope(userId, () =>
        host.db
          .insert(credentials)
          .values({ id: userId, userId, apiKey: `key of ${userId}`, settings: { port: 22 } }),
      )
    }
    await envelope.rotateUserKey('alice')
    await host.query(`update credentials set api_key = 'plain' where id = 'bob'`)
    const source = drizzleSource(host.db, credentials, {
      key: 'id',
      owner: 'userId',
      columns: ['apiKey', 'settings'],
    })
    const report = await reencrypt({ envelope, source, plaintext: true })
    expect(report).toMatchObject({ complete: true, changed: 3, failedCount: 0, left: 0 })
    const stored = await host.query('select id, api_key, settings from credentials order by id')
    for (const { api_key, settings } of stored)
      for (const value of [api_key, settings]) expect(value).toMatch(/^v3:/)
    const read = await envelope.scope('alice', () =>
      host.db.select().from(credentials).where(eq(credentials.id, 'alice')),
    )
    expect(read).toMatchObject([{ apiKey: 'key of alice', settings: { port: 22 } }])
    expect(
      await envelope.scope('bob', () => host.db.select().from(credentials).where(eq(credentials.id, 'bob'))),
    ).toMatchObject([{ apiKey: 'plain' }])
    const again = await reencrypt({ envelope, source })
    expect(again).toMatchObject({ changed: 0, failedCount: 0, left: 0 })
    await envelope.close()
  })

  it('decrypts rows of many users, and finds plaintext in registered columns', async () => {
    await host.query(CREATE)
    const envelope = await EnvelopeCrypto.open({ store: storeOn(host.db), ...oneKey })
    const tokens = await envelope.encryptMany(
      ['alice', 'bob'].map((userId) => ({
        userId,
        plaintext: `of ${userId}`,
        context: { column: 'credentials.legacy' },
      })),
    )
    const values = tokens.map(
      (token, index) => `('${index}', '${['alice', 'bob'][index]}', '${token.ok ? token.value : ''}')`,
    )
    await host.query(`insert into credentials (id, user_id, legacy) values ${values.join(', ')}`)
    const rows = await host.db
      .select({ userId: credentials.userId, legacy: credentials.legacy })
      .from(credentials)
    const opened = await decryptRows(envelope, rows, {
      owner: ({ userId }) => userId ?? '',
      columns: { legacy: 'credentials.legacy' },
    })
    expect(opened.rows.map(({ legacy }) => legacy)).toEqual(['of alice', 'of bob'])
    await envelope.close()

    await host.query(`update credentials set api_key = 'plain' where id = '1'`)
    const withColumns = (columns: readonly string[]) =>
      tableOn(host.db.$client, {
        table: 'credentials',
        key: ['id'],
        owner: 'user_id',
        columns,
        wholeRows: false,
      })
    const { findings } = await sampleColumns('credentials', withColumns, ['api_key'])
    expect(findings.map(({ kind }) => kind)).toEqual(['plaintext', 'unregistered'])
  })

  it('ends a call at its deadline while the host’s transaction is in its way', async () => {
    // On a loaded machine a migration may take longer.
    await storeOn(host.db).ready()
    const store = storeOn(host.db, 1000)
    await host.db.transaction(async (tx) => {
      await tx.execute('lock table encryption_keys in access exclusive mode')
      const error = await errorOf(store.getAll(['alice']))
      expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true })
      expect(error.message).toContain('waited 1000 ms for')
    })
    expect(await store.getAll(['alice'])).toEqual(new Map())
  })

  it('explains what the database refuses, and quotes no value', async () => {
    const store = storeOn(host.db)
    await store.ready()
    await host.query('alter table encryption_keys add constraint short check (length(user_id) < 3)')
    const envelope = await EnvelopeCrypto.open({ store, ...oneKey })
    const error = await errorOf(envelope.encrypt('alice', 'x'))
    expect(error.message).toContain('SQLSTATE 23514 (constraint short)')
    expect(error.message).not.toContain('alice')
    await host.query('drop table encryption_keys')
    const dropped = await errorOf(envelope.encrypt('bob', 'x'))
    expect(dropped.message).toMatch(/SQLSTATE 42P01.*npx keystore migrate/)
    await envelope.close()
  })
})

describe.runIf(isChosen('postgres'))('on postgres-js', () => {
  const cleanups = cleanUpAfterEach()

  it('works without the types of arrays, and without prepared statements', async () => {
    for (const options of [{ fetch_types: false }, { prepare: false }]) {
      const host = await freshPostgresJs(options)
      const store = postgresKeyStore({ db: host.db })
      const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKey })
      const tokens = await envelope.encryptMany(
        ['alice', 'bob'].map((userId) => ({ userId, plaintext: 'x' })),
      )
      expect(tokens.every(({ ok }) => ok)).toBe(true)
      await host.query(
        `${CREATE}; insert into credentials (id, user_id, api_key) values ('1', 'alice', 'plain')`,
      )
      const source = drizzleSource(host.db, credentials, { key: 'id', owner: 'userId', columns: ['apiKey'] })
      expect(await reencrypt({ envelope, source, plaintext: true })).toMatchObject({
        complete: true,
        failedCount: 0,
        left: 0,
      })
      expect((await host.query('select api_key from credentials'))[0]?.api_key).toMatch(/^v3:/)
      await envelope.close()
      await host.remove()
    }
  })

  it('listens again after its connection was cut, and says that anything may have changed', async () => {
    const host = await freshPostgresJs()
    cleanups.add(() => host.remove())
    const store = cleanups.closing(postgresKeyStore({ db: host.db }))
    const listener = listenTo(store)
    await listener.next(isAnything)
    listener.skip()
    const cut = await host.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where query ilike 'listen%' and datname = current_database()`,
    )
    expect(cut).toHaveLength(1)
    await listener.next(isAnything)
    await store.shred('alice', { forget: false })
    await listener.next(isOf('alice'))
    // Nothing is left that would hold the host's `end` up.
    listener.end()
    await sleep(0)
  })
})
