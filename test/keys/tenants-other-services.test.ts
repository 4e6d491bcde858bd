/** Two services with connections of their own on one database: what one does to a tenant, the other follows within 2 s. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { EnvelopeCrypto, UserHandle } from '../../src/index.js'
import { dialects } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { freshStore, type TestStore } from '../support/fresh-store.js'
import { serviceError } from '../support/key-service.js'
import { keksOf, type Roots, tenantRoots, usersOf } from '../support/tenants.js'
import { expectAllOpen, type Sealed, sealAll } from '../support/tokens.js'

/** The promised bound. A busy machine may stop the process for a while, hence the retries. */
const SOON_MS = 2000
const MEASURED = { retry: 3 }

/** The code of the error that a piece of work ends with within 2 s. */
async function endsWith(work: () => Promise<unknown> | unknown): Promise<string | undefined> {
  const begun = performance.now()
  while (performance.now() - begun < SOON_MS) {
    try {
      await work()
    } catch (error) {
      return (error as { code?: string }).code
    }
    await sleep(20)
  }
  return 'none in time'
}

describe.each(dialects)('on %s', (dialect) => {
  let roots: Roots
  let fresh: TestStore
  let writer: EnvelopeCrypto
  let other: EnvelopeCrypto
  let sealed: Sealed[]
  let handle: UserHandle
  let unharmed: UserHandle
  beforeEach(async () => {
    roots = tenantRoots(['acme'])
    fresh = await freshStore(dialect, { masterKeys: roots.keyring })
    writer = await fresh.open()
    other = await fresh.open({ store: await fresh.another() })
    sealed = await sealAll(writer, [...usersOf('acme', 5), 'b/alice', 'nobody'])
    await expectAllOpen(other, sealed)
    handle = await other.user('acme/0')
    unharmed = await other.user('b/alice')
    // Postgres: until it listens. SQLite: until it has seen the commits above.
    await sleep(dialect === 'postgres' ? 300 : 1100)
    await expectAllOpen(other, sealed)
    roots.reset()
  })
  afterEach(() => fresh.remove())

  it('shredTenant: cached users, new ones, tokens, handles', MEASURED, async () => {
    await writer.shredTenant('acme')
    const ended = await Promise.all([
      endsWith(() => other.encrypt('acme/0', 'x')),
      endsWith(() => other.decrypt('acme/1', sealed[1]?.token ?? '')),
      endsWith(() => other.encrypt(`acme/new-${Math.random()}`, 'x')),
      endsWith(() => handle.encrypt('x')),
    ])
    expect(new Set(ended)).toEqual(new Set(['ERR_KEY_SHREDDED']))
    await expectAllOpen(other, sealed.slice(5))
    unharmed.encrypt('x')
  })

  it(
    'evictTenant while its root denies: cached users and handles end, and go on when the root is back',
    MEASURED,
    async () => {
      roots.of('acme').fail(() => serviceError('denied'))
      await writer.evictTenant('acme')
      const ended = await Promise.all([
        endsWith(() => other.encrypt('acme/0', 'x')),
        endsWith(() => other.decrypt('acme/1', sealed[1]?.token ?? '')),
        endsWith(() => handle.encrypt('x')),
      ])
      expect(ended).toEqual(['ERR_MASTER_KEY', 'ERR_MASTER_KEY', 'ERR_KEY_NOT_FOUND'])
      await expectAllOpen(other, sealed.slice(5))
      unharmed.encrypt('x')
      roots.of('acme').fail(null)
      await sleep(1100)
      await expectAllOpen(other, sealed)
      const again = await other.user('acme/0')
      expect(again.decrypt(sealed[0]?.token ?? '')).toBe('secret of acme/0')
    },
  )

  it('rotateTenantKey: new users are under the new version, and handles go on', MEASURED, async () => {
    await writer.rotateTenantKey('acme')
    const begun = performance.now()
    for (let i = 0; performance.now() - begun < SOON_MS; i++) {
      await other.encrypt(`acme/new-${i}`, 'x')
      if ((await keksOf(fresh.store))[`acme/new-${i}`] === 'tenant:2:acme') break
      await sleep(20)
    }
    expect(performance.now() - begun).toBeLessThan(SOON_MS)
    handle.encrypt('x')
    await expectAllOpen(other, sealed)
  })

  it('moveTenant: the other service asks the new root, once', MEASURED, async () => {
    await writer.moveTenant('acme', roots.primary.masterKey)
    expect(await endsWith(() => handle.encrypt('x'))).toBe('ERR_KEY_NOT_FOUND')
    roots.reset()
    await expectAllOpen(other, sealed)
    expect(roots.of('acme').calls.unwrap).toBe(0)
    expect(roots.primary.calls.unwrap).toBeLessThanOrEqual(1)
  })

  it('writes of others ask no root again', MEASURED, async () => {
    for (let i = 0; i < 3; i++) {
      await writer.encrypt(`nobody-${i}`, 'x')
      await writer.rotateUserKey('nobody')
      await sleep(500)
      await other.encrypt(`acme/new-${i}`, 'x')
    }
    expect(roots.of('acme').calls).toMatchObject({ wrap: 0, unwrap: 0 })
    expect(await errorOf(other.user('none', { mint: false }))).toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
  })
})
