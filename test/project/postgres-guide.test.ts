/** docs/POSTGRES.md is run: its grants are enough for what it says, and for no more; its code, and its claims about NOTIFY and partitions. */
import { readFileSync } from 'node:fs'
import { drizzle } from 'drizzle-orm/node-postgres'
import { pgTable, text } from 'drizzle-orm/pg-core'
import pg from 'pg'
import { beforeEach, describe, expect, it } from 'vitest'
import { postgresKeyStore } from '../../src/adapters/postgres/store.js'
import {
  EnvelopeCrypto,
  generateMasterKey,
  localMasterKey,
  masterKeyring,
  pruneRetired,
  rewrapAll,
  verifyAll,
} from '../../src/index.js'
import { isExactly, listenTo } from '../support/change-listener.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { asAdmin, isChosen, queryPostgres } from '../support/databases.js'
import { codeBlocks } from '../support/documents.js'
import { storeMaintenance } from '../support/maintenance.js'
import { freshRole } from '../support/postgres-roles.js'
import { randomRecord } from '../support/rows.js'

const guide = readFileSync('docs/POSTGRES.md', 'utf8')
const ROLES = ['operator', 'application', 'minter', 'reader'] as const
const [primary, next] = [localMasterKey(generateMasterKey()), localMasterKey(generateMasterKey())]
const DENIED = { code: 'ERR_STORE', message: expect.stringContaining('SQLSTATE 42501') }

describe.runIf(isChosen('postgres'))('docs/POSTGRES.md', () => {
  const cleanups = cleanUpAfterEach()
  let url: string
  beforeEach(async () => {
    url = await cleanups.database('postgres')
  })

  it('its grants let each role do what the guide says, and no more', async () => {
    const roles = new Map<string, string>()
    const names = new Map<string, string>()
    for (const role of ROLES) {
      const fresh = await freshRole(url, [])
      cleanups.add(fresh.remove)
      roles.set(role, fresh.url)
      names.set(`keystore_${role}`, fresh.name)
    }
    const granted = (block = '') =>
      block.replaceAll(/keystore_(operator|application|minter|reader)/g, (name) => names.get(name) ?? name)
    const open = async (role: (typeof ROLES)[number], migrate: 'auto' | 'check' = 'check') => {
      const store = cleanups.closing(postgresKeyStore({ url: roles.get(role) ?? '' }, { migrate }))
      await store.ready()
      return { store, envelope: await EnvelopeCrypto.open({ store, masterKeys: primary, closeStore: false }) }
    }
    const [before, after] = codeBlocks(guide, 'sql')
    await asAdmin(url, granted(before))
    const operator = await open('operator', 'auto')
    await asAdmin(url, granted(after))

    const application = await open('application')
    const token = await application.envelope.encrypt('alice', 'x')
    await application.envelope.encryptMany(['bob', 'carol'].map((userId) => ({ userId, plaintext: 'x' })))
    expect(await application.envelope.rotateUserKey('alice')).toMatchObject({ version: 2 })
    expect((await application.envelope.shredUser('bob')).versions).toEqual([1])
    await expect(application.envelope.shredUser('carol', { forget: true })).rejects.toMatchObject(DENIED)
    await expect(storeMaintenance(application.store).finishErasure()).resolves.toMatchObject({
      erased: 'pending',
    })

    const minter = await open('minter')
    expect(await minter.envelope.decrypt('alice', token)).toBe('x')
    await minter.envelope.encrypt('dave', 'x')
    expect(await minter.envelope.rotateUserKey('dave')).toMatchObject({ version: 2 })
    await expect(minter.envelope.shredUser('dave')).rejects.toMatchObject(DENIED)
    await expect(
      rewrapAll({ store: minter.store, masterKeys: masterKeyring({ primary: next, previous: [primary] }) }),
    ).rejects.toMatchObject(DENIED)

    const reader = await open('reader')
    expect(await reader.envelope.decrypt('alice', token)).toBe('x')
    expect(await reader.store.census()).not.toEqual([])
    expect(await storeMaintenance(reader.store).datedCensus()).not.toEqual([])
    expect(
      (await verifyAll({ store: reader.store, masterKeys: primary })).findings.filter(
        ({ severity }) => severity === 'error',
      ),
    ).toEqual([])
    await expect(reader.envelope.encrypt('erin', 'x')).rejects.toMatchObject(DENIED)
    await expect(reader.envelope.rotateUserKey('alice')).rejects.toMatchObject(DENIED)
    await expect(reader.envelope.shredUser('alice')).rejects.toMatchObject(DENIED)

    const keyring = masterKeyring({ primary: next, previous: [primary] })
    expect(await rewrapAll({ store: operator.store, masterKeys: keyring })).toMatchObject({ complete: true })
    const prune = { userId: 'dave', beforeVersion: 2, tokensReencrypted: true, includeFirst: true } as const
    await expect(pruneRetired({ store: application.store, ...prune })).rejects.toMatchObject(DENIED)
    expect(await pruneRetired({ store: operator.store, ...prune })).toMatchObject({ versions: [1] })
    expect(await storeMaintenance(operator.store).restore([randomRecord('frank')])).toHaveLength(1)
    expect(await storeMaintenance(operator.store).finishErasure()).toMatchObject({ erased: 'file' })
  })

  it('its code runs', async () => {
    const pool = new pg.Pool({ connectionString: url, max: 1 })
    cleanups.add(() => pool.end())
    const db = drizzle({ client: pool })
    await pool.query('create table credentials (id text, api_key text)')
    const credentials = pgTable('credentials', { id: text(), apiKey: text('api_key') })
    const envelope = await EnvelopeCrypto.open({ store: postgresKeyStore({ pool }), masterKeys: primary })
    const [code = ''] = codeBlocks(guide, 'ts')
    const AsyncFunction = (async () => undefined).constructor as FunctionConstructor
    const given = {
      envelope,
      db,
      credentials,
      id: 'c1',
      postgresKeyStore,
      EnvelopeCrypto,
      masterKeys: primary,
      url,
    }
    const store = await new AsyncFunction(...Object.keys(given), `${code}\nreturn store`)(
      ...Object.values(given),
    )
    expect(await store.census()).toMatchObject([{ count: 1 }])
    await store.close()
    const { rows } = await pool.query('select api_key from credentials')
    for (const { api_key } of rows) expect(await envelope.decrypt('alice', api_key)).toBe('sk-…')
    expect(rows).toHaveLength(2)
  })

  it('any role of the database can listen, and learns ids', async () => {
    const role = await freshRole(url, [])
    cleanups.add(role.remove)
    const store = cleanups.closing(postgresKeyStore({ url }))
    await store.insertIfAbsent([randomRecord('alice')])
    const listener = listenTo(store)
    await listener.next(() => true)
    const [row] = await queryPostgres(
      url,
      `select substring(query from 'listen (\\w+)') as channel from pg_stat_activity where datname = current_database() and query like 'listen %'`,
    )
    expect(row?.channel).toMatch(/^drizzle_keystore_[0-9a-f]{8}$/)
    const stranger = new pg.Client(role.url)
    await stranger.connect()
    cleanups.add(() => stranger.end())
    const heard = new Promise((resolve) => stranger.on('notification', ({ payload }) => resolve(payload)))
    await stranger.query(`listen ${row?.channel}`)
    await store.shred('alice', { forget: false })
    expect(await heard).toBe('["alice"]')
    await listener.next(isExactly('alice'))
  })

  it('a table that is partitioned by hash works', async () => {
    const whole = cleanups.closing(postgresKeyStore({ url }))
    await whole.ready()
    await asAdmin(
      url,
      'alter table encryption_keys rename to whole',
      'alter table whole rename constraint encryption_keys_pk to whole_pk',
      'create table encryption_keys (like whole including defaults, constraint encryption_keys_pk primary key (user_id, version)) partition by hash (user_id)',
      ...[0, 1].map(
        (n) =>
          `create table part_${n} partition of encryption_keys for values with (modulus 2, remainder ${n})`,
      ),
      'drop table whole',
      'drop table __drizzle_keystore_migrations',
    )
    const store = cleanups.closing(postgresKeyStore({ url }, { migrate: 'off' }))
    const envelope = await EnvelopeCrypto.open({ store, masterKeys: primary, closeStore: false })
    const users = Array.from({ length: 10 }, (_, i) => `user ${i}`)
    const tokens = await envelope.encryptMany(users.map((userId) => ({ userId, plaintext: userId })))
    expect(tokens.every(({ ok }) => ok)).toBe(true)
    await envelope.rotateUserKey('user 1')
    expect((await envelope.shredUser('user 1')).versions).toEqual([1, 2])
    const keyring = masterKeyring({ primary: next, previous: [primary] })
    expect(await rewrapAll({ store, masterKeys: keyring })).toMatchObject({ complete: true, changed: 9 })
    expect((await store.list({ limit: 100 })).map(({ userId }) => userId)).toEqual(
      users.toSpliced(2, 0, 'user 1'),
    )
    expect(await store.remove([{ userId: 'user 2', version: 1 }])).toBe(1)
    expect(await storeMaintenance(store).finishErasure()).toEqual({ erased: 'file', pending: null })
  })
})
