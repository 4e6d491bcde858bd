/** Tenants in the crypto service: what is asked of the application, of roots, and of the operator's calls. */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import {
  type EnvelopeCrypto,
  type KeystoreEvent,
  localMasterKey,
  type MasterKey,
  masterKeyring,
  rewrapAll,
} from '../../src/index.js'
import { tenantUserId } from '../../src/table.js'
import { errorOf } from '../support/errors.js'
import { backends, freshStore, type TestStore } from '../support/fresh-store.js'
import { freshKeyLog } from '../support/key-log-file.js'
import { keyService, serviceError } from '../support/key-service.js'
import { corrupted, rowsOf } from '../support/rows.js'
import { keksOf, type Roots, tenantOf, tenantRoots, tenantRowsOf, usersOf } from '../support/tenants.js'
import { expectAllOpen, sealAll } from '../support/tokens.js'

describe.each(backends)('on %s', (backend) => {
  let roots: Roots
  let fresh: TestStore
  let events: KeystoreEvent[]
  let envelope: EnvelopeCrypto
  beforeEach(async () => {
    roots = tenantRoots(['acme'])
    events = []
    fresh = await freshStore(backend, { masterKeys: roots.keyring, onEvent: (event) => events.push(event) })
    envelope = await fresh.open()
  })
  afterEach(() => fresh.remove())

  it('rotateTenantKey: new keys are under the new version, and the old ones stay readable', async () => {
    const sealed = await sealAll(envelope, usersOf('acme', 3))
    expect(await envelope.rotateTenantKey('acme')).toEqual({ tenantId: 'acme', version: 2, rotated: true })
    await envelope.encrypt('acme/new', 'x')
    expect((await keksOf(fresh.store))['acme/new']).toBe('tenant:2:acme')
    await expectAllOpen(await fresh.open(), sealed)
    expect(events).toContainEqual(
      expect.objectContaining({
        type: 'rotated',
        userId: tenantUserId('acme'),
        version: 2,
        kekId: 'root-of-acme',
      }),
    )
  })

  it('shredTenant: all its users have ended, also in handles, in bulk, and those who come; other tenants go on', async () => {
    const sealed = await sealAll(envelope, usersOf('acme', 3))
    const others = await sealAll(envelope, ['b/alice', 'nobody'])
    const handle = await envelope.user('acme/0')
    roots.reset()
    const receipt = await envelope.shredTenant('acme')
    expect(receipt).toMatchObject({
      userId: tenantUserId('acme'),
      versions: [1],
      kekIds: ['root-of-acme'],
      forget: false,
    })
    expect(roots.calls()).toEqual({ wraps: 0, unwraps: 0 })
    expect(await errorOf(() => handle.encrypt('x'))).toMatchObject({ code: 'ERR_KEY_SHREDDED' })
    for (const service of [envelope, await fresh.open()]) {
      for (const work of [
        () => service.encrypt('acme/0', 'x'),
        () => service.encrypt('acme/new', 'x'),
        () => service.decrypt('acme/0', sealed[0]?.token ?? ''),
        () => service.user('acme/1'),
        () => service.fingerprint('acme/1', 'x', { name: 'n' }),
        () => service.rotateUserKey('acme/0'),
        () => service.rotateTenantKey('acme'),
        () => service.moveTenant('acme', roots.primary.masterKey),
        () => service.evictTenant('acme'),
      ])
        expect(await errorOf(work)).toMatchObject({
          code: 'ERR_KEY_SHREDDED',
          message: expect.stringContaining('tenant "acme"'),
        })
      const bulk = await service.decryptMany(sealed)
      expect(bulk.map((result) => !result.ok && result.error.code)).toEqual(Array(3).fill('ERR_KEY_SHREDDED'))
      await expectAllOpen(service, others)
    }
    const [row] = await tenantRowsOf(fresh.store, 'acme')
    expect(row).toMatchObject({ shreddedAt: expect.any(Date) })
    expect(row?.encryptedKey).toHaveLength(0)
  })

  it('shredTenant with forget: the tenant may begin anew when its old users are forgotten too', async () => {
    const [old] = await sealAll(envelope, ['acme/old'])
    await envelope.shredTenant('acme', { forget: true })
    for (const work of [
      () => envelope.decrypt('acme/old', old?.token ?? ''),
      () => envelope.encrypt('acme/old', 'x'),
    ])
      expect(await errorOf(work())).toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    expect(await errorOf(envelope.encrypt('acme/new', 'x'))).toMatchObject({ code: 'ERR_KEYS_LOST' })
    expect(await tenantRowsOf(fresh.store, 'acme')).toEqual([])
    await envelope.shredUser('acme/old', { forget: true })
    // What was said a moment ago is looked at again after a second.
    const service = await fresh.open()
    const sealed = await sealAll(service, ['acme/new', 'acme/old'])
    expect(await errorOf(service.decrypt('acme/old', old?.token ?? ''))).toMatchObject({
      code: 'ERR_DECRYPTION_FAILED',
    })
    await expectAllOpen(await fresh.open(), sealed)
  })

  it('a tenant whose row is missing gets no second key, so that the right one can be restored', async () => {
    const sealed = await sealAll(envelope, ['acme/old', 'lone'])
    await envelope.rotateTenantKey('acme')
    const rows = await tenantRowsOf(fresh.store, 'acme')
    await fresh.store.remove(rows)
    const masterKeys = roots.keyring
    const other = await fresh.open({ masterKeys })
    expect(await errorOf(other.encrypt('acme/new', 'x'))).toMatchObject({
      code: 'ERR_KEYS_LOST',
      message: expect.stringContaining('no second one is made in its place. Copy its row from a backup'),
    })
    const users = await (
      await fresh.open({ masterKeys: masterKeyring({ primary: roots.primary.masterKey }) })
    ).encrypt('acme/flat', 'x')
    expect((await rewrapAll({ store: fresh.store, masterKeys })).failed).toMatchObject([
      { userId: 'acme/flat', code: 'ERR_KEYS_LOST' },
      { userId: 'acme/old', code: 'ERR_KEYS_LOST' },
    ])
    expect(await tenantRowsOf(fresh.store, 'acme')).toEqual([])
    await fresh.store.maintenance?.restore(rows)
    await vi.waitFor(() => other.encrypt('acme/new', 'x'), { timeout: 4000 })
    expect(await other.decrypt('acme/flat', users)).toBe('x')
    await expectAllOpen(await fresh.open({ masterKeys }), sealed)
  })

  it('moveTenant: all versions are under the new root, no row of a user is touched, and the old root is not needed', async () => {
    const sealed = await sealAll(envelope, usersOf('acme', 3))
    await envelope.rotateTenantKey('acme')
    const before = (await rowsOf(fresh.store)).filter(({ userId }) => userId.startsWith('acme/'))
    const root = keyService({ id: 'new-root' })
    const behind = await fresh.open({ masterKeys: tenantRoots(['acme']).keyring })
    roots.moveTo('acme', root.masterKey)
    roots.reset()
    expect(await envelope.moveTenant('acme', root.masterKey)).toEqual({
      tenantId: 'acme',
      kekId: 'new-root',
      versions: [1, 2],
    })
    expect(roots.of('acme').calls).toMatchObject({ wrap: 0, unwrap: 2 })
    // Each new wrap is opened again before it is written.
    expect(root.calls).toMatchObject({ wrap: 2, unwrap: 2 })
    expect((await tenantRowsOf(fresh.store, 'acme')).map(({ kekId }) => kekId)).toEqual([
      'new-root',
      'new-root',
    ])
    expect((await rowsOf(fresh.store)).filter(({ userId }) => userId.startsWith('acme/'))).toEqual(before)
    expect(events).toContainEqual(expect.objectContaining({ type: 'rewrapped', kekId: 'new-root', count: 2 }))
    // Whoever does not know the new root is told so, and gets no other key.
    expect(await errorOf(behind.decrypt('acme/0', sealed[0]?.token ?? ''))).toMatchObject({
      code: 'ERR_UNKNOWN_MASTER_KEY',
    })
    roots.of('acme').fail(() => serviceError('denied'))
    const knows = await fresh.open({
      masterKeys: masterKeyring({
        primary: roots.primary.masterKey,
        tenantOf,
        tenantRoot: (id) => (id === 'acme' ? root.masterKey : null),
      }),
    })
    await expectAllOpen(knows, sealed)
    expect(await knows.moveTenant('acme', root.masterKey)).toMatchObject({ versions: [] })
  })

  it('moveTenant goes without a gap where tenantRoot gives both roots', async () => {
    const root = keyService({ id: 'new-root' })
    const sealed = await sealAll(envelope, usersOf('acme', 3))
    roots.moveTo('acme', root.masterKey)
    const service = await fresh.open({ cache: false })
    await expectAllOpen(service, sealed)
    await service.moveTenant('acme', root.masterKey)
    await expectAllOpen(service, sealed)
  })

  it('moveTenant and rotateTenantKey at the same time: every version is under the new root', async () => {
    await sealAll(envelope, usersOf('acme', 3))
    const other = await fresh.open({ store: await fresh.another() })
    const root = keyService({ id: 'new-root' })
    roots.moveTo('acme', root.masterKey)
    roots.of('acme').delay(5)
    await Promise.all([
      envelope.moveTenant('acme', root.masterKey),
      other.rotateTenantKey('acme'),
      other.rotateTenantKey('acme'),
    ])
    await envelope.moveTenant('acme', root.masterKey)
    const rows = await tenantRowsOf(fresh.store, 'acme')
    expect(rows.map(({ version }) => version)).toEqual([1, 2])
    expect(new Set(rows.map(({ kekId }) => kekId))).toEqual(new Set(['new-root']))
  })

  it('moveTenant moves a version that another process makes meanwhile, too', async () => {
    await sealAll(envelope, ['acme/alice'])
    const behind = { primary: roots.primary.masterKey, tenantRoot: () => roots.of('acme').masterKey }
    const other = await fresh.open({ store: await fresh.another(), masterKeys: masterKeyring(behind) })
    const inner = localMasterKey(randomBytes(32))
    let rotated = false
    const root: MasterKey = {
      id: 'new-root',
      async wrap(tenantKey, aad) {
        if (!rotated) await other.rotateTenantKey('acme')
        rotated = true
        return inner.wrap(tenantKey, aad)
      },
      unwrap: (wrapped, aad) => inner.unwrap(wrapped, aad),
    }
    roots.moveTo('acme', root)
    expect(await envelope.moveTenant('acme', root)).toMatchObject({ versions: [1, 2] })
    expect((await tenantRowsOf(fresh.store, 'acme')).map(({ kekId }) => kekId)).toEqual([
      'new-root',
      'new-root',
    ])
  })

  it('moveTenant with a root that answers garbage replaces nothing, and says which versions are left', async () => {
    await sealAll(envelope, usersOf('acme', 2))
    await envelope.rotateTenantKey('acme')
    const before = await tenantRowsOf(fresh.store, 'acme')
    const inner = localMasterKey(randomBytes(32))
    let wraps = 0
    const garbage: MasterKey = {
      id: 'garbage',
      wrap: async (dataKey, aad) =>
        wraps++ === 0 ? inner.wrap(dataKey, aad) : corrupted(inner.wrap(dataKey, aad)),
      unwrap: async (wrapped, aad): Promise<Uint8Array> => inner.unwrap(wrapped, aad),
    }
    roots.moveTo('acme', garbage)
    const error = await errorOf(envelope.moveTenant('acme', garbage))
    expect(error).toMatchObject({ code: 'ERR_UNWRAP_FAILED', message: expect.stringContaining('version 2') })
    const after = await tenantRowsOf(fresh.store, 'acme')
    expect(after[0]?.kekId).toBe('garbage')
    expect(after[1]).toEqual(before[1])
  })

  it('moveTenant with an old root that denies changes nothing', async () => {
    await sealAll(envelope, ['acme/alice'])
    const before = await rowsOf(fresh.store)
    roots.of('acme').fail(() => serviceError('denied'))
    const error = await errorOf(envelope.moveTenant('acme', roots.primary.masterKey))
    expect(error).toMatchObject({ code: 'ERR_MASTER_KEY', reason: 'denied', retryable: false })
    expect(await rowsOf(fresh.store)).toEqual(before)
  })

  it('evictTenant asks no root, forgets in this process at once, and the next use asks the root again', async () => {
    const sealed = await sealAll(envelope, ['acme/alice', 'b/alice'])
    const handle = await envelope.user('acme/alice')
    const rows = await rowsOf(fresh.store)
    roots.reset()
    roots.of('acme').fail(() => serviceError('denied'))
    await envelope.evictTenant('acme')
    expect(roots.calls()).toEqual({ wraps: 0, unwraps: 0 })
    expect(await errorOf(() => handle.decrypt(sealed[0]?.token ?? ''))).toMatchObject({
      code: 'ERR_KEY_NOT_FOUND',
      retryable: true,
    })
    expect(await errorOf(envelope.encrypt('acme/alice', 'x'))).toMatchObject({
      code: 'ERR_MASTER_KEY',
      reason: 'denied',
    })
    await expectAllOpen(envelope, sealed.slice(1))
    roots.of('acme').fail(null)
    await vi.waitFor(() => expectAllOpen(envelope, sealed), { timeout: 3000 })
    const changed = (await rowsOf(fresh.store)).map((row) => ({ ...row, wrappedAt: null }))
    expect(changed).toEqual(rows)
  })

  it('evictTenant twice within a millisecond still changes the row', async () => {
    await sealAll(envelope, ['acme/alice'])
    const times = new Set<number | undefined>()
    for (let i = 0; i < 5; i++) {
      await envelope.evictTenant('acme')
      times.add((await tenantRowsOf(fresh.store, 'acme'))[0]?.wrappedAt?.getTime())
    }
    expect(times.size).toBe(5)
  })

  it.each(['rotateTenantKey', 'evictTenant'] as const)(
    '%s of a tenant without a key is ERR_KEY_NOT_FOUND',
    async (call) => {
      expect(await errorOf(envelope[call]('none'))).toMatchObject({
        code: 'ERR_KEY_NOT_FOUND',
        message: expect.stringContaining('tenant "none"'),
      })
      expect(await rowsOf(fresh.store)).toEqual([])
    },
  )

  it('a tenant without a key can be shredded: none is made any more', async () => {
    await envelope.shredTenant('acme')
    expect(await errorOf(envelope.encrypt('acme/alice', 'x'))).toMatchObject({ code: 'ERR_KEY_SHREDDED' })
    expect(roots.of('acme').calls.wrap).toBeLessThanOrEqual(1)
  })

  it.each(['', '\ud800', 'a\0b', 'x'.repeat(505), 7, null, undefined] as unknown as string[])(
    'a tenant id %j is ERR_INVALID_ARGUMENT everywhere',
    async (tenantId) => {
      for (const work of [
        () => envelope.rotateTenantKey(tenantId),
        () => envelope.shredTenant(tenantId),
        () => envelope.evictTenant(tenantId),
        () => envelope.moveTenant(tenantId, roots.primary.masterKey),
      ])
        expect(await errorOf(work)).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    },
  )

  it('ids of 504 bytes work, and users may not have ids that begin with U+0001', async () => {
    const tenantId = `${'ü'.repeat(251)}:1`
    const service = await fresh.open({
      masterKeys: masterKeyring({ primary: roots.primary.masterKey, tenantOf: () => tenantId }),
    })
    const sealed = await sealAll(service, ['alice', 'bob'])
    await service.rotateTenantKey(tenantId)
    await expectAllOpen(await fresh.open(), sealed)
    await service.shredTenant(tenantId)
    for (const userId of [tenantUserId(tenantId), '\u0001', '\u0001x'])
      for (const work of [
        () => service.encrypt(userId, 'x'),
        () => service.user(userId),
        () => service.shredUser(userId),
        () => service.rotateUserKey(userId),
      ])
        expect(await errorOf(work)).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
  })

  it('the key log has lines of tenants as of users, and lost ones are found by it', async () => {
    const log = freshKeyLog()
    try {
      const service = await fresh.open({ keyLog: log.path })
      await service.encrypt('acme/alice', 'x')
      await service.rotateTenantKey('acme')
      await service.encrypt('b/alice', 'x')
      await service.shredTenant('b')
      const lines = log.entries().map(({ event, userId }) => `${event} ${userId}`)
      expect(lines).toEqual([
        `minted ${tenantUserId('acme')}`,
        'minted acme/alice',
        `rotated ${tenantUserId('acme')}`,
        `minted ${tenantUserId('b')}`,
        'minted b/alice',
        `shredding ${tenantUserId('b')}`,
        `shredded ${tenantUserId('b')}`,
      ])
      await fresh.store.remove([1, 2].map((version) => ({ userId: tenantUserId('acme'), version })))
      const lost = fresh.open({ keyLog: log.path })
      await lost.catch(() => undefined)
      expect(events).toContainEqual(expect.objectContaining({ type: 'keysLost' }))
    } finally {
      log.remove()
    }
  })
})
