/** The server has executed a write, and its answer is lost: what the call reports is true all the same. */
import { beforeEach, describe, expect, it } from 'vitest'
import { type PostgresKeyStore, postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import {
  EnvelopeCrypto,
  generateMasterKey,
  localMasterKey,
  masterKeyring,
  rewrapAll,
} from '../../../src/index.js'
import { sqlSource } from '../../../src/sources/sql.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { asAdmin, isChosen, queryPostgres } from '../../support/databases.js'
import { type PostgresProxy, postgresProxy } from '../../support/postgres-proxy.js'
import { randomRecord } from '../../support/rows.js'

const UPDATE_KEYS = /update "public"\."encryption_keys"/
const DELETE_KEYS = /delete from "public"\."encryption_keys"/
const INSERT_KEYS = /insert into "public"\."encryption_keys"/

describe.runIf(isChosen('postgres'))('a lost answer on Postgres', () => {
  const cleanups = cleanUpAfterEach()
  let url: string
  let proxy: PostgresProxy
  let store: PostgresKeyStore
  beforeEach(async () => {
    url = await cleanups.database('postgres')
    proxy = await postgresProxy(url)
    cleanups.add(() => proxy.close())
    store = cleanups.closing(postgresKeyStore({ url: proxy.url }))
    await store.ready()
  })
  const rows = [
    randomRecord('alice', { kekId: 'k1' }),
    randomRecord('alice', { version: 2, kekId: 'k2' }),
    randomRecord('bob', { kekId: 'k1' }),
  ]

  it.each([false, true])('to a shred: the receipt names what was erased (forget: %s)', async (forget) => {
    await store.insertIfAbsent(rows)
    proxy.cutAnswers(UPDATE_KEYS)
    const receipt = await store.shred('alice', { forget })
    expect(proxy.answersCut).toBe(1)
    expect([receipt.versions, new Set(receipt.kekIds)]).toEqual([[1, 2], new Set(['k1', 'k2'])])
    const left = (await store.getAll(['alice'])).get('alice') ?? []
    expect(left.map(({ shreddedAt }) => shreddedAt)).toEqual(forget ? [] : [receipt.at, receipt.at])
  })

  it('to a shred: the receipt does not name what was erased before, nor a tombstone', async () => {
    await store.insertIfAbsent(rows)
    await store.shred('alice', { forget: false, at: new Date('2026-01-01T00:00:00Z') })
    proxy.cutAnswers(UPDATE_KEYS)
    expect(await store.shred('alice', { forget: false })).toMatchObject({ versions: [], kekIds: [] })
    proxy.cutAnswers(INSERT_KEYS)
    expect(await store.shred('nobody', { forget: false })).toMatchObject({ versions: [], kekIds: [] })
    proxy.cutAnswers(/update|insert/, 2)
    expect(await store.shred('nobody else', { forget: false })).toMatchObject({ versions: [], kekIds: [] })
    expect(proxy.answersCut).toBe(4)
  })

  it('to remove: it counts the rows that it removed', async () => {
    await store.insertIfAbsent(rows)
    proxy.cutAnswers(DELETE_KEYS)
    expect(await store.remove([...rows, randomRecord('nobody')])).toBe(3)
    expect(proxy.answersCut).toBe(1)
    expect(await store.remove(rows)).toBe(0)
  })

  it('to replaceWrapped: a rewrap reports the rows that it changed', async () => {
    const [old, primary] = [localMasterKey(generateMasterKey()), localMasterKey(generateMasterKey())]
    const envelope = await EnvelopeCrypto.open({ store, masterKeys: old, closeStore: false })
    await envelope.encryptMany(
      Array.from({ length: 100 }, (_, i) => ({ userId: `user ${i}`, plaintext: 'x' })),
    )
    proxy.cutAnswers(UPDATE_KEYS)
    const report = await rewrapAll({ store, masterKeys: masterKeyring({ primary, previous: [old] }) })
    expect(proxy.answersCut).toBe(1)
    expect(report).toMatchObject({ complete: true, changed: 100, skipped: 0 })
  })

  it('to an insert: the row is ours, for a mint and a rotation', async () => {
    const masterKeys = localMasterKey(generateMasterKey())
    const events: string[] = []
    const envelope = await EnvelopeCrypto.open({
      store,
      masterKeys,
      closeStore: false,
      onEvent: ({ type }) => void (type !== 'unwrapped' && events.push(type)),
    })
    proxy.cutAnswers(INSERT_KEYS)
    const token = await envelope.encrypt('alice', 'x')
    proxy.cutAnswers(INSERT_KEYS)
    expect(await envelope.rotateUserKey('alice')).toMatchObject({ version: 2, rotated: true })
    expect(proxy.answersCut).toBe(2)
    expect(await envelope.decrypt('alice', token)).toBe('x')
    expect(events).toEqual(['minted', 'rotated'])
  })

  it('to the commit of a migration: the report names what was applied', async () => {
    const other = cleanups.closing(postgresKeyStore({ url: proxy.url }, { schema: 'other' }))
    proxy.cutAnswers(/^Q....commit/s)
    expect((await other.ready()).applied).toHaveLength(5)
    expect(proxy.answersCut).toBe(1)
    expect(await other.census()).toEqual([])
  })

  it('to a change of the sweep: the values count as changed', async () => {
    await asAdmin(
      url,
      'create table secrets (id int primary key, owner text, value text)',
      `insert into secrets select i, 'alice', 'old ' || i from generate_series(1, 3) i`,
    )
    const source = await sqlSource(proxy.url, {
      table: 'secrets',
      key: 'id',
      owner: 'owner',
      column: 'value',
    })
    cleanups.closing(source)
    const change = (key: number, from: string) => ({
      key,
      column: 'value',
      owner: 'alice',
      from,
      to: `new ${key}`,
    })
    proxy.cutAnswers(/update "secrets"/)
    const replaced = await source.replace([
      change(1, 'old 1'),
      change(2, 'changed meanwhile'),
      change(3, 'old 3'),
    ])
    expect(proxy.answersCut).toBe(1)
    expect(replaced.map(({ key }) => key).sort()).toEqual([1, 3])
    expect(await queryPostgres(url, 'select value from secrets order by id')).toEqual(
      ['new 1', 'old 2', 'new 3'].map((value) => ({ value })),
    )
  })
})
