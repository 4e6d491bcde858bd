/** Long operations while one master key fails: its rows are failures with the reason, and all others are done. */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  copyKeys,
  type KeyStore,
  localMasterKey,
  type MasterKeyReason,
  masterKeyring,
  rewrapAll,
  rotateWhere,
  verifyAll,
} from '../../src/index.js'
import { reencrypt } from '../../src/reencrypt/index.js'
import { backends, freshStore, type TestStore } from '../support/fresh-store.js'
import { type KeyService, keyService, serviceError } from '../support/key-service.js'
import { memorySource } from '../support/memory-source.js'
import { fill, rowsOf, v2Row } from '../support/rows.js'
import { orderedUserIds } from '../support/users.js'

const local = localMasterKey(randomBytes(32))
const next = localMasterKey(randomBytes(32))
const OWN = orderedUserIds(30, 'own')
const THEIRS = orderedUserIds(100, 'theirs')

describe.each(backends)('while a master key fails, on %s', (backend) => {
  let fresh: TestStore
  let store: KeyStore
  let service: KeyService
  const keyring = () => masterKeyring({ primary: next, previous: [local, service.masterKey] })
  beforeEach(async () => {
    fresh = await freshStore(backend)
    store = fresh.store
    service = keyService({ id: 'service', timeLimitMs: 200 })
    await fill(store, local, OWN)
    await rewrapAll({ store, masterKeys: local })
    const envelope = await fresh.open({
      masterKeys: masterKeyring({ primary: service.masterKey, previous: [local] }),
    })
    await envelope.encryptMany(THEIRS.map((userId) => ({ userId, plaintext: 'x' })))
    service.reset()
  })
  afterEach(() => fresh.remove())

  it.each<[MasterKeyReason, boolean]>([
    ['unavailable', false],
    ['throttled', false],
    ['denied', true],
    ['notFound', true],
    ['wrongKey', true],
  ])('%s, rewrapAll does the others, and complete is %s', async (reason, complete) => {
    service.fail(() => serviceError(reason))
    const report = await rewrapAll({ store, masterKeys: keyring(), batchSize: 20 })
    expect(report).toMatchObject({ complete, changed: 30, failedCount: 100, skipped: 0 })
    for (const failure of report.failed)
      expect(failure).toMatchObject({ kekId: 'service', code: 'ERR_MASTER_KEY', masterKeyReason: reason })
    expect(new Set(report.failed.map(({ userId }) => userId))).toEqual(new Set(THEIRS))
    service.fail(null)
    const again = await rewrapUntilAnswered()
    expect(again).toMatchObject({ complete: true, failedCount: 0 })
    expect(new Set((await rowsOf(store)).map(({ kekId }) => kekId))).toEqual(new Set([next.id]))
  })

  /** The key is asked again within a second. */
  async function rewrapUntilAnswered() {
    for (;;) {
      const report = await rewrapAll({ store, masterKeys: keyring() })
      if (report.complete) return report
      await new Promise((resolve) => setTimeout(resolve, 200))
    }
  }

  it('and hangs, its rows fail at once after the first: no time limit for each', async () => {
    // An outage is one once nothing has succeeded for a second.
    await new Promise((resolve) => setTimeout(resolve, 1050))
    service.silence(true)
    const start = performance.now()
    const report = await rewrapAll({ store, masterKeys: keyring(), batchSize: 10 })
    expect(report).toMatchObject({ complete: false, changed: 30, failedCount: 100 })
    // 100 rows, 16 at once, in two passes: 14 time limits.
    expect(performance.now() - start).toBeLessThan(7 * 200)
    expect(service.calls.unwrap).toBeLessThan(25)
  })

  it('and is the primary, rewrapAll changes nothing, and can be run again', async () => {
    service.fail(() => serviceError('unavailable'))
    const masterKeys = masterKeyring({ primary: service.masterKey, previous: [local] })
    const before = await rowsOf(store)
    const report = await rewrapAll({ store, masterKeys })
    expect(report).toMatchObject({ complete: false, changed: 0, failedCount: 30 })
    expect(await rowsOf(store)).toEqual(before)
  })

  it('v2 rows are not upgraded, since one of its rows may be the original of a copy', async () => {
    await store.insertIfAbsent([v2Row(local, { userId: 'reference' })])
    service.fail(() => serviceError('unavailable'))
    const report = await rewrapAll({ store, masterKeys: keyring(), accept: ['v2'] })
    expect(report).toMatchObject({ complete: false, changed: 30, failedCount: 101 })
    const failure = report.failed.find(({ userId }) => userId === 'reference')
    expect(failure).toMatchObject({ code: 'ERR_MASTER_KEY', masterKeyReason: 'unavailable' })
    expect(failure?.reason).toContain('could not be compared with all others')
    service.fail(null)
    await new Promise((resolve) => setTimeout(resolve, 1050))
    expect(await rewrapAll({ store, masterKeys: keyring(), accept: ['v2'] })).toMatchObject({
      complete: true,
      failedCount: 0,
    })
  })

  it('verifyAll checks the others, and has a finding for each of its rows', async () => {
    service.fail(() => serviceError('denied'))
    const report = await verifyAll({ store, masterKeys: keyring() })
    expect(report).toMatchObject({ complete: true, ok: false, rows: 130, counts: { masterKeyFailed: 100 } })
    for (const finding of report.findings.filter(({ userId }) => userId !== undefined)) {
      expect(finding).toMatchObject({ severity: 'error', kind: 'masterKeyFailed', kekId: 'service' })
      expect(finding.reason).toContain('The service says: denied (ProviderSays, request id request-1)')
    }
  })

  it('verifyAll says so if it fails only when shared keys are looked for', async () => {
    // Two rows with one key: the pass that names them asks for every key a second time.
    const original = v2Row(local, { userId: 'a' })
    await store.insertIfAbsent([original, { ...original, userId: 'b' }])
    let asked = 0
    const inner = service.masterKey
    const masterKey = {
      ...inner,
      unwrap: (...call: Parameters<typeof inner.unwrap>) => {
        asked += 1
        if (asked > THEIRS.length) throw serviceError('denied')
        return inner.unwrap(...call)
      },
    }
    const masterKeys = masterKeyring({ primary: next, previous: [local, masterKey] })
    const { counts, findings } = await verifyAll({ store, masterKeys })
    expect(counts).toMatchObject({ masterKeyFailed: 1, sharedKey: 2 })
    const finding = findings.find(({ kind }) => kind === 'masterKeyFailed')
    expect(finding?.reason).toContain('Rows that share a data key could not all be found')
  })

  it.each<[MasterKeyReason, boolean]>([
    ['unavailable', false],
    ['denied', true],
  ])('%s, rotateWhere reports every user', async (reason, complete) => {
    service.fail(() => serviceError(reason))
    const report = await rotateWhere({ store, masterKeys: service.masterKey, olderThanMs: 0 })
    expect(report).toMatchObject({ complete, rotated: 0, failedCount: 130 })
    expect(report.failed[0]).toMatchObject({ code: 'ERR_MASTER_KEY', masterKeyReason: reason })
  })

  it('the sweep re-encrypts the others’ values, and leaves its own as they are', async () => {
    const masterKeys = masterKeyring({ primary: local, previous: [service.masterKey] })
    const writer = await fresh.open({ masterKeys })
    const cells = await Promise.all(
      [...OWN.slice(0, 3), ...THEIRS.slice(0, 3)].map(async (owner) => ({
        key: owner,
        owner,
        value: await writer.encrypt(owner, `of ${owner}`),
      })),
    )
    for (const userId of OWN.slice(0, 3)) await writer.rotateUserKey(userId)
    service.fail(() => serviceError('denied'))
    const source = memorySource(cells)
    const envelope = await fresh.open({ masterKeys })
    const report = await reencrypt({ envelope, source, context: null })
    expect(report).toMatchObject({ complete: true, changed: 3, left: 3, failedCount: 3 })
    for (const failure of report.failed)
      expect(failure).toMatchObject({ code: 'ERR_MASTER_KEY', masterKeyReason: 'denied' })
    for (const { key, value } of cells.slice(3)) expect(source.values.get(key)).toBe(value)
  })

  it('copyKeys asks no master key', async () => {
    service.fail(() => serviceError('denied'))
    const target = await freshStore(backend)
    try {
      expect(await copyKeys({ from: store, to: target.store })).toMatchObject({ copied: 130, equal: true })
    } finally {
      await target.remove()
    }
    expect(service.calls).toMatchObject({ wrap: 0, unwrap: 0 })
  })
})
