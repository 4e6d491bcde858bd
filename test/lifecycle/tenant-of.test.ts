/** A `tenantOf` that fails for some users while rewrapAll asks it about all of them. */
import { beforeEach, describe, expect, it } from 'vitest'
import {
  generateMasterKey,
  localMasterKey,
  type MasterKey,
  masterKeyring,
  rewrapAll,
} from '../../src/index.js'
import { itIf } from '../support/conditional.js'
import { backends, freshStoreOfEachTest } from '../support/fresh-store.js'
import { fill } from '../support/rows.js'
import { slow } from '../support/slow.js'
import { keksOf, tenantOf } from '../support/tenants.js'

describe.each(backends)('rewrapAll with a tenantOf that fails, on %s', (backend) => {
  const { store } = freshStoreOfEachTest(backend)
  let primary: MasterKey
  beforeEach(() => {
    primary = localMasterKey(generateMasterKey())
  })

  it.each<[string, () => unknown, object]>([
    [
      'gives undefined',
      () => undefined,
      { code: 'ERR_INVALID_ARGUMENT', reason: expect.stringContaining('does the function return?') },
    ],
    ['gives a number', () => 7, { code: 'ERR_INVALID_ARGUMENT' }],
    [
      'throws',
      () => {
        throw new Error('the application’s database is down')
      },
      { code: 'ERR_MASTER_KEY', masterKeyReason: 'unavailable' },
    ],
  ])('for one user %s: that user alone is reported, with the reason', async (_, bad, expected) => {
    await fill(store, primary, ['acme/alice', 'acme/bad', 'acme/carol', 'dave'])
    const masterKeys = masterKeyring({
      primary,
      tenantOf: (userId) => (userId === 'acme/bad' ? (bad() as string) : tenantOf(userId)),
    })
    const report = await rewrapAll({ store, masterKeys })
    expect(report).toMatchObject({ changed: 2, failedCount: 1 })
    expect(report.failed).toMatchObject([{ userId: 'acme/bad', kekId: primary.id, ...expected }])
    expect(await keksOf(store)).toMatchObject({
      'acme/alice': 'tenant:1:acme',
      'acme/bad': primary.id,
      'acme/carol': 'tenant:1:acme',
      dave: primary.id,
    })
  })

  const takesLong = 'takes 7 s: SLOW=1'
  itIf(slow || backend === 'memory', takesLong)(
    'for most users hangs: only the first are waited for',
    async () => {
      const users = Array.from({ length: 40 }, (_, index) => `acme/${String(index).padStart(2, '0')}`)
      await fill(store, primary, users)
      const masterKeys = masterKeyring({
        primary,
        tenantOf: (userId) => (userId < 'acme/30' ? new Promise<never>(() => undefined) : tenantOf(userId)),
      })
      const begun = performance.now()
      const report = await rewrapAll({ store, masterKeys })
      // 5 s once, and then half a second for each 16 users and pass. It was 5 s for each.
      expect(performance.now() - begun).toBeLessThan(9500)
      expect(report).toMatchObject({ complete: false, changed: 10, failedCount: 30 })
    },
  )
})
