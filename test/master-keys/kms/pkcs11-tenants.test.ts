/** Two customers, each with a root in a token of their own: one token is taken away while both are at work. */
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { generateMasterKey, localMasterKey, masterKeyring } from '../../../src/index.js'
import { type Pkcs11MasterKey, pkcs11MasterKey } from '../../../src/master-keys/kms/pkcs11.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { describeIf } from '../../support/conditional.js'
import { dialects } from '../../support/databases.js'
import { keystoreErrorOf } from '../../support/errors.js'
import { freshService } from '../../support/fresh-store.js'
import { hasSoftHsm, SOFT_HSM_PIN, type SoftHsm, startSoftHsm } from '../../support/soft-hsm.js'
import { tenantOf, usersOf } from '../../support/tenants.js'

const TENANTS = ['acme', 'umbrella']
const USERS = 20
/** For how long a cached key is used. */
const TTL_MS = 500

describeIf(hasSoftHsm, 'softhsm2 or pkcs11js is not installed')(
  'two tenants with tokens of their own',
  () => {
    const cleanups = cleanUpAfterEach()
    let hsm: SoftHsm
    beforeAll(() => {
      hsm = startSoftHsm()
      for (const token of TENANTS) {
        hsm.addToken(token)
        hsm.addKey(token, 'kek')
      }
    })
    afterAll(() => hsm?.remove())

    it.each(dialects)(
      'on %s: a token that is taken away stops its tenant alone, within the TTL, until it is back',
      async (dialect) => {
        const roots = new Map<string, Pkcs11MasterKey>()
        for (const token of TENANTS) {
          const options = { module: hsm.module, token, object: 'kek', pin: SOFT_HSM_PIN }
          roots.set(token, cleanups.closing(pkcs11MasterKey(options)))
        }
        const primary = localMasterKey(generateMasterKey())
        const envelope = cleanups.closing(
          await freshService(await cleanups.database(dialect), {
            masterKeys: masterKeyring({ primary, tenantOf, tenantRoot: (id) => roots.get(id) ?? null }),
            cache: { ttlMs: TTL_MS },
          }),
        )
        const tokens = new Map<string, string>()
        for (const userId of TENANTS.flatMap((tenantId) => usersOf(tenantId, USERS)))
          tokens.set(userId, await envelope.encrypt(userId, `of ${userId}`))
        const decryptAll = (tenantId: string) =>
          Promise.allSettled(
            usersOf(tenantId, USERS).map((userId) => envelope.decrypt(userId, tokens.get(userId) ?? '')),
          )
        const failures: unknown[] = []
        let calls = 0
        let isAtWork = true
        const others = (async () => {
          for (; isAtWork; await delay(5)) {
            for (const result of await decryptAll('umbrella')) {
              calls += 1
              if (result.status === 'rejected') failures.push(result.reason)
            }
          }
        })()

        const putBack = hsm.takeAway('acme')
        try {
          await delay(TTL_MS)
          const results = await decryptAll('acme')
          expect(new Set(results.map(({ status }) => status))).toEqual(new Set(['rejected']))
          expect(await keystoreErrorOf(() => envelope.encrypt('acme/new', 'x'))).toMatchObject({
            code: 'ERR_MASTER_KEY',
            reason: 'unavailable',
            retryable: true,
          })
        } finally {
          putBack()
        }
        const isBack = async () => (await decryptAll('acme')).every(({ status }) => status === 'fulfilled')
        await expect.poll(isBack, { timeout: 20_000 }).toBe(true)
        isAtWork = false
        await others
        expect(failures).toEqual([])
        expect(calls).toBeGreaterThan(USERS)
      },
    )
  },
)
