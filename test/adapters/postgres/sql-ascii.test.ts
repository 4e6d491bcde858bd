/** A database with the encoding SQL_ASCII takes any bytes as text: rows that have such are named, and stop no other. */
import { randomBytes } from 'node:crypto'
import { beforeEach, describe, expect, inject, it } from 'vitest'
import { memoryKeyStore } from '../../../src/adapters/memory.js'
import { openKeyStore } from '../../../src/adapters/open.js'
import {
  census,
  copyKeys,
  EnvelopeCrypto,
  type KeyStore,
  localMasterKey,
  rotateWhere,
  verifyAll,
} from '../../../src/index.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { asAdmin, isChosen } from '../../support/databases.js'
import { storeMaintenance } from '../../support/maintenance.js'
import { fill, rowsOf } from '../../support/rows.js'

const masterKey = localMasterKey(randomBytes(32))
const GOOD = ['', 'alice', 'bob', 'ümläut', '\u{10ffff}']

/** An SQL expression for a text of these bytes. */
const text = (hex: string) => `convert_from('\\x${hex}'::bytea, 'SQL_ASCII')`
const row = (id: string, kekId: string, version = 1) =>
  `insert into encryption_keys (user_id, version, encrypted_key, kek_id, created_at) values (${id}, ${version}, '\\x0102', ${kekId}, now())`

describe.runIf(isChosen('postgres'))('in a database with the encoding SQL_ASCII', () => {
  const cleanups = cleanUpAfterEach()
  let store: KeyStore
  let url: string

  beforeEach(async () => {
    const server = inject('postgresUrl')
    const name = `keystore_ascii_${randomBytes(6).toString('hex')}`
    await asAdmin(
      server,
      `create database ${name} template template0 encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C'`,
    )
    cleanups.add(() => asAdmin(server, `drop database ${name} with (force)`))
    url = Object.assign(new URL(server), { pathname: `/${name}` }).href
    store = cleanups.closing(await openKeyStore(url))
    await fill(store, masterKey, GOOD)
    await asAdmin(
      url,
      row(text('61ff80'), 'null'),
      row(text('ff80'), `'${masterKey.id}'`),
      row(text('ff80'), `'${masterKey.id}'`, 2),
      row(`'kek'`, text('6b656bff')),
    )
  })

  const BAD = [
    { userId: `x'61ff80'`, version: 1 },
    { userId: 'kek', version: 1 },
    { userId: `x'ff80'`, version: 1 },
    { userId: `x'ff80'`, version: 2 },
  ]

  it.each([1, 2, 1000])('each bad row is named and the others are read, %d a page', async (batchSize) => {
    const report = await verifyAll({ store, masterKeys: masterKey, batchSize })
    expect(report).toMatchObject({ complete: true, rows: GOOD.length })
    expect(report.findings.filter(({ kind }) => kind === 'unreadable')).toMatchObject(BAD)
    const to = cleanups.closing(memoryKeyStore())
    const copied = await copyKeys({ from: store, to, batchSize })
    expect(copied).toMatchObject({ copied: GOOD.length, failedCount: BAD.length })
    expect((await rowsOf(to)).map(({ userId }) => userId)).toEqual(GOOD)
    const rotated = await rotateWhere({ store, masterKeys: masterKey, olderThanMs: 0, batchSize })
    expect(rotated).toMatchObject({ rotated: GOOD.length, failedCount: BAD.length })
  })

  it('a page of live rows under other master keys goes on too', async () => {
    const named: string[] = []
    const onUnreadable = ({ userId }: { readonly userId: string }) => void named.push(userId)
    expect(await store.list({ limit: 10, notKekId: masterKey.id, onUnreadable })).toEqual([])
    expect(named).toEqual([`x'61ff80'`, 'kek'])
    await expect(store.list({ limit: 10 })).rejects.toMatchObject({
      code: 'ERR_STORE',
      ref: { userId: `x'61ff80'`, version: 1 },
    })
  })

  it('a service opens, and a bad row fails its own user only', async () => {
    const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKey, closeStore: false })
    cleanups.add(() => envelope.close())
    const results = await envelope.encryptMany(
      ['alice', 'kek', 'bob', 'ümläut'].map((userId) => ({ userId, plaintext: 'secret' })),
    )
    expect(results.map(({ ok }) => ok)).toEqual([true, false, true, true])
    expect((await store.getActive(['alice', 'bob'])).size).toBe(2)
    await expect(store.getActive(['alice', 'kek'])).rejects.toMatchObject({ ref: { userId: 'kek' } })
  })

  it('counts and receipts show the bytes of a master key id', async () => {
    const kekId = `x'6b656bff'`
    expect(await census({ store })).toContainEqual({ kekId, version: 1, shredded: false, count: 1 })
    const dated = await storeMaintenance(store).datedCensus()
    expect(dated).toContainEqual(expect.objectContaining({ kekId, count: 1 }))
    expect(await store.shred('kek', { forget: true })).toMatchObject({ versions: [1], kekIds: [kekId] })
    expect(await store.getAll(['kek'])).toHaveProperty('size', 0)
  })
})
