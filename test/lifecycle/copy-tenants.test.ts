/** Copies, backups and the key log with tenants: their keys come along, and a shredded tenant never comes back. */
import { beforeEach, describe, expect, it } from 'vitest'
import {
  applyKeyLog,
  copyKeys,
  type EnvelopeCrypto,
  findLostKeys,
  recordKeys,
  verifyAll,
} from '../../src/index.js'
import { tenantUserId } from '../../src/table.js'
import { ofEachTest } from '../support/each-test.js'
import { chosenPairs, freshStore } from '../support/fresh-store.js'
import { freshKeyLog } from '../support/key-log-file.js'
import { rowsOf } from '../support/rows.js'
import { expectInPlace, root, usersOfTenants, withTenants } from '../support/tenant-hierarchy.js'
import { tenantOf } from '../support/tenants.js'
import { expectAllOpen, type Sealed, sealAll } from '../support/tokens.js'

const pairs = chosenPairs(['sqlite', 'postgres'], ['postgres', 'sqlite'], ['memory', 'memory'])
const USERS = usersOfTenants(40, 4)
const ofTenant = (id: string) => USERS.filter((userId) => tenantOf(userId) === id)

describe.each(pairs)('tenants from %s to %s', (source, target) => {
  const keys = withTenants(root('root'))
  const from = ofEachTest(() => freshStore(source, { masterKeys: keys }))
  const to = ofEachTest(() => freshStore(target, { masterKeys: keys }))
  const keyLog = ofEachTest(freshKeyLog)
  let sealed: Sealed[]
  let service: EnvelopeCrypto
  beforeEach(async () => {
    service = await from.open({ keyLog: keyLog.path })
    sealed = await sealAll(service, [...USERS, 'lone'])
    await service.rotateTenantKey('t1')
    await service.rotateUserKey(USERS[1] as string)
  })

  const copy = (options = {}) => copyKeys({ from: from.store, to: to.store, batchSize: 7, ...options })
  const codesOf = async (envelope: EnvelopeCrypto, users: readonly string[]) => {
    const results = await envelope.encryptMany(users.map((userId) => ({ userId, plaintext: 'x' })))
    return new Set(results.map((result) => (result.ok ? 'live' : result.error.code)))
  }

  it('all versions of tenants’ keys are copied, and open their users there', async () => {
    expect(await copy()).toMatchObject({ complete: true, equal: true, failedCount: 0 })
    expect(await rowsOf(to.store)).toEqual(await rowsOf(from.store))
    await expectInPlace(to.store, keys)
    await expectAllOpen(await to.open(), sealed)
    expect(await copy()).toMatchObject({ copied: 0, equal: true })
  })

  it('tenants’ keys arrive before their users', async () => {
    const controller = new AbortController()
    const report = await copy({
      signal: controller.signal,
      onProgress: ({ phase }: { phase: string }) => phase === 'copying' && controller.abort(),
    })
    expect(report.complete).toBe(false)
    const copied = (await rowsOf(to.store)).map(({ userId }) => userId)
    expect(copied.length).toBeGreaterThan(0)
    expect(copied).toEqual((await rowsOf(from.store)).slice(0, copied.length).map(({ userId }) => userId))
    expect(copied.slice(0, 5)).toEqual(['t0', 't1', 't1', 't2', 't3'].map(tenantUserId))
  })

  it('a tenant with another key at the target stops the copy before anything is written', async () => {
    await (await to.open()).encrypt('t2/other', 'x')
    const before = await rowsOf(to.store)
    await expect(copy()).rejects.toMatchObject({
      code: 'ERR_CONFLICT',
      ref: { userId: tenantUserId('t2'), version: 1 },
      message: expect.stringContaining('tenant "t2"'),
    })
    expect(await rowsOf(to.store)).toEqual(before)
  })

  it('a tenant that was shredded at the target does not come back', async () => {
    await copy()
    await (await to.open()).shredTenant('t1')
    const before = await rowsOf(to.store)
    await expect(copy()).rejects.toMatchObject({ code: 'ERR_CONFLICT', ref: { userId: tenantUserId('t1') } })
    expect(await rowsOf(to.store)).toEqual(before)
    expect(await codesOf(await to.open(), ofTenant('t1'))).toEqual(new Set(['ERR_KEY_SHREDDED']))
  })

  it('nor does one that the key log names, from a backup of before, nor one that came back with an older copy', async () => {
    await copy()
    const backup = await rowsOf(to.store)
    await service.shredTenant('t1')
    const lines = keyLog.entries().filter(({ userId }) => userId === tenantUserId('t1'))
    expect(lines.map(({ event }) => event)).toEqual(['minted', 'rotated', 'shredding', 'shredded'])
    expect(lines.at(-1)).toMatchObject({ versions: [1, 2], kekIds: ['root'] })

    const fresh = await freshStore(target, { masterKeys: keys })
    try {
      const report = await copyKeys({ from: to.store, to: fresh.store, keyLog: keyLog.path })
      expect(report).toMatchObject({ complete: true, equal: true, failedCount: 0 })
      const envelope = await fresh.open()
      expect(await codesOf(envelope, [...ofTenant('t1'), 't1/new'])).toEqual(new Set(['ERR_KEY_SHREDDED']))
      await expectAllOpen(
        envelope,
        sealed.filter(({ userId }) => tenantOf(userId) !== 't1'),
      )
    } finally {
      await fresh.remove()
    }
    // The older copy in the database's place.
    expect((await rowsOf(to.store)).length).toBe(backup.length)
    expect(await applyKeyLog({ store: to.store, keyLog: keyLog.path })).toEqual([tenantUserId('t1')])
    expect(await codesOf(await to.open(), ofTenant('t1'))).toEqual(new Set(['ERR_KEY_SHREDDED']))
    const findings = (await verifyAll({ store: to.store, masterKeys: keys })).findings
    expect(findings.filter(({ severity }) => severity === 'error')).toEqual([])
  })

  it('a lost tenant’s key is a lost key, and a log that begins later records tenants too', async () => {
    const log = freshKeyLog()
    try {
      const rows = await rowsOf(from.store)
      expect(await recordKeys({ store: from.store, keyLog: log.path })).toMatchObject({ keys: rows.length })
      await from.store.remove([{ userId: tenantUserId('t3'), version: 1 }])
      for (const { path } of [log, keyLog]) {
        const lost = await findLostKeys({ store: from.store, keyLog: path })
        expect(lost).toMatchObject({ count: 1, keys: [{ userId: tenantUserId('t3'), version: 1 }] })
      }
    } finally {
      log.remove()
    }
  })
})
