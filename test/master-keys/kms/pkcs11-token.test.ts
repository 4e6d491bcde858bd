/** PKCS #11 master keys in real tokens: those of SoftHSM2. */
import { createDecipheriv } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../../src/adapters/open.js'
import { EnvelopeCrypto, masterKeyring, rewrapAll } from '../../../src/index.js'
import {
  type Pkcs11MasterKey,
  type Pkcs11MasterKeyOptions,
  pkcs11MasterKey,
} from '../../../src/master-keys/kms/pkcs11.js'
import { testMasterKey } from '../../../src/testing/index.js'
import { reportOf, startChild } from '../../support/child-process.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { describeIf } from '../../support/conditional.js'
import { dialects } from '../../support/databases.js'
import { hasSoftHsm, SOFT_HSM_PIN, type SoftHsm, startSoftHsm } from '../../support/soft-hsm.js'

const OWNER = { userId: 'alice', version: 1, tenantId: null }
const AAD = Buffer.from('aad')
const USERS = ['alice', 'bob', 'e\u0301\u{1f600}']
const DATA_KEY = Uint8Array.from({ length: 32 }, (_, i) => i + 1)

describeIf(hasSoftHsm, 'softhsm2 or pkcs11js is not installed')('tokens of SoftHSM2', () => {
  const cleanups = cleanUpAfterEach()
  let hsm: SoftHsm
  let keyOfAcme: Uint8Array

  beforeAll(() => {
    hsm = startSoftHsm()
    for (const token of ['acme', 'umbrella']) hsm.addToken(token)
    keyOfAcme = hsm.addKey('acme', 'kek')
    hsm.addKey('umbrella', 'kek')
    hsm.addKey('umbrella', 'twin', '0a')
    hsm.addKey('umbrella', 'twin', '0b')
    hsm.generateKey('umbrella', 'readable', { sensitive: false })
    hsm.generateKey('umbrella', 'short', { bytes: 16 })
  })
  afterAll(() => hsm?.remove())

  function bareKey(given: Partial<Pkcs11MasterKeyOptions> = {}): Pkcs11MasterKey {
    return pkcs11MasterKey({ module: hsm.module, token: 'acme', object: 'kek', pin: SOFT_HSM_PIN, ...given })
  }
  const openKey = (given: Partial<Pkcs11MasterKeyOptions> = {}) => cleanups.closing(bareKey(given))

  testMasterKey(
    { describe, it },
    {
      name: 'a token of SoftHSM2',
      async open() {
        const keys: Pkcs11MasterKey[] = []
        const open = async (given: Partial<Pkcs11MasterKeyOptions> = {}) => {
          const key = bareKey(given)
          keys.push(key)
          return key
        }
        const masterKey = await open()
        return {
          masterKey,
          again: () => open(),
          other: () => open({ token: 'umbrella' }),
          secrets: [SOFT_HSM_PIN],
          failures: {
            unavailable: async () => {
              const putBack = hsm.takeAway('acme')
              return async () => {
                putBack()
                await eventually(masterKey)
              }
            },
          },
          close: async () => {
            for (const key of keys) await key.close()
          },
        }
      },
    },
  )

  it('wraps to 0x04, nonce, ciphertext and tag, as docs/FORMAT.md says', async () => {
    const wrapped = await openKey().wrap(DATA_KEY, AAD, OWNER)
    expect(wrapped.length).toBe(61)
    expect(wrapped[0]).toBe(4)
    const decipher = createDecipheriv('aes-256-gcm', keyOfAcme, wrapped.subarray(1, 13)).setAAD(AAD)
    decipher.setAuthTag(wrapped.subarray(45))
    expect(
      Uint8Array.from(Buffer.concat([decipher.update(wrapped.subarray(13, 45)), decipher.final()])),
    ).toEqual(DATA_KEY)
  })

  it('is the same key by label and by id, with another KEK id', async () => {
    const [byLabel, byId, twin] = [
      openKey(),
      openKey({ object: undefined as never, id: Uint8Array.of(1) }),
      openKey({ token: 'umbrella', object: 'twin', id: Uint8Array.of(11) }),
    ]
    expect([byLabel.id, byId.id, twin.id]).toEqual([
      'pkcs11:token=acme;object=kek',
      'pkcs11:token=acme;id=%01',
      'pkcs11:token=umbrella;object=twin;id=%0B',
    ])
    const wrapped = await byLabel.wrap(DATA_KEY, AAD, OWNER)
    expect(Uint8Array.from(await byId.unwrap(wrapped, AAD, OWNER))).toEqual(DATA_KEY)
    await expect(twin.unwrap(wrapped, AAD, OWNER)).rejects.toMatchObject({ code: 'ERR_UNWRAP_FAILED' })
  })

  it.each([
    ['a token that is not there', { token: 'nobody' }, 'unavailable', 'CKR_TOKEN_NOT_PRESENT'],
    ['a serial number of another', { serial: '0000' }, 'unavailable', 'CKR_TOKEN_NOT_PRESENT'],
    ['a key that is not there', { object: 'nothing' }, 'notFound', undefined],
    ['a label that two keys have', { token: 'umbrella', object: 'twin' }, 'wrongKey', undefined],
    ['a key that can be read', { token: 'umbrella', object: 'readable' }, 'wrongKey', undefined],
    ['a key of 16 bytes', { token: 'umbrella', object: 'short' }, 'wrongKey', undefined],
    ['a wrong PIN', { pin: 'wrong-pin-of-test' }, 'denied', 'CKR_PIN_INCORRECT'],
    ['no PIN', { pin: undefined as never }, 'denied', undefined],
    [
      'a PIN file that is not there',
      { pin: undefined as never, pinFile: '/nowhere/pin' },
      'denied',
      undefined,
    ],
    ['a module that is not there', { module: '/nowhere/module.so' }, undefined, undefined],
  ] as const)('%s is ERR_MASTER_KEY that says why', async (_, given, reason, providerCode) => {
    const key = openKey(given)
    const call = async () => key.wrap(DATA_KEY, AAD, OWNER)
    const error = await call().catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: 'ERR_MASTER_KEY', reason, providerCode })
    expect(String(error)).not.toContain('-pin-')
  })

  it('takes a PIN from a file or a function', async () => {
    const pinFile = `${cleanups.folder()}/pin`
    writeFileSync(pinFile, `${SOFT_HSM_PIN}\n`, { mode: 0o600 })
    const fromFile = openKey({ pin: undefined as never, pinFile })
    const wrapped = await fromFile.wrap(DATA_KEY, AAD, OWNER)
    await fromFile.close()
    const fromFunction = openKey({ pin: async () => SOFT_HSM_PIN })
    expect(Uint8Array.from(await fromFunction.unwrap(wrapped, AAD, OWNER))).toEqual(DATA_KEY)
  })

  it('is closed for good, after calls under way', async () => {
    const key = openKey()
    const calls = Array.from({ length: 8 }, () => key.wrap(DATA_KEY, AAD, OWNER))
    const settled = Promise.allSettled(calls)
    await key.wrap(DATA_KEY, AAD, OWNER)
    await key.close()
    expect((await settled).every(({ status }) => status === 'fulfilled')).toBe(true)
    await expect(key.wrap(DATA_KEY, AAD, OWNER)).rejects.toMatchObject({ code: 'ERR_CLOSED' })
  })

  it('a token that is taken away under load harms no other, fails as unavailable, and works once it is back', async () => {
    const [acme, umbrella] = [openKey(), openKey({ token: 'umbrella' })]
    const tallies = { acme: [] as string[], umbrella: [] as string[] }
    let isOver = false
    const load = async (key: Pkcs11MasterKey, tally: string[]) => {
      const wrapped = await key.wrap(DATA_KEY, AAD, OWNER)
      while (!isOver) {
        try {
          const dataKey = await key.unwrap(wrapped, AAD, OWNER)
          expect(Uint8Array.from(dataKey)).toEqual(DATA_KEY)
          await key.wrap(DATA_KEY, AAD, OWNER)
          tally.push('works')
        } catch (error) {
          tally.push(`${(error as { code: string }).code} ${(error as { reason: string }).reason}`)
          await delay(5)
        }
      }
    }
    const loads = Promise.all(
      [1, 2, 3, 4].flatMap(() => [load(acme, tallies.acme), load(umbrella, tallies.umbrella)]),
    )
    try {
      for (let round = 0; round < 3; round += 1) {
        await delay(150)
        const putBack = hsm.takeAway('acme')
        const before = tallies.umbrella.length
        await delay(700)
        expect(tallies.acme.at(-1)).toBe('ERR_MASTER_KEY unavailable')
        expect(tallies.umbrella.length).toBeGreaterThan(before + 20)
        putBack()
        await eventually(acme)
      }
    } finally {
      isOver = true
      await loads
    }
    expect(new Set(tallies.umbrella)).toEqual(new Set(['works']))
    expect(new Set(tallies.acme)).toEqual(new Set(['works', 'ERR_MASTER_KEY unavailable']))
  })

  describe.each(dialects)('on %s', (dialect) => {
    it('keeps what users encrypted over a restart of the process', async () => {
      const url = await cleanups.database(dialect)
      const child = (command: string, text: string) => {
        const args = [url, hsm.module, command, 'e\u0301\u{1f600}', text]
        return reportOf<string>(startChild('token-crypt.mjs', args, { TEST_PIN: SOFT_HSM_PIN }))
      }
      const token = await child('encrypt', 'a secret')
      expect(token).toMatch(/^v3:/)
      expect(await child('decrypt', token)).toBe('a secret')
    })

    it('moves from one token to another, and outlives an outage', async () => {
      const url = await cleanups.database(dialect)
      const [acme, umbrella] = [openKey(), openKey({ token: 'umbrella' })]
      const open = async (primary: Pkcs11MasterKey, ...previous: Pkcs11MasterKey[]) => {
        const masterKeys = masterKeyring({ primary, previous })
        return cleanups.closing(await EnvelopeCrypto.open({ store: await openKeyStore(url), masterKeys }))
      }
      const first = await open(acme)
      const tokens = await Promise.all(USERS.map((user) => first.encrypt(user, `secret of ${user}`)))
      const poolToken = await first.pool.encrypt('of all')

      const store = cleanups.closing(await openKeyStore(url))
      const masterKeys = masterKeyring({ primary: umbrella, previous: [acme] })
      expect(await rewrapAll({ store, masterKeys })).toMatchObject({ changed: USERS.length + 1 })
      const second = await open(umbrella)
      for (const [i, user] of USERS.entries())
        expect(await second.decrypt(user, tokens[i] as string)).toBe(`secret of ${user}`)
      expect(await second.pool.decrypt(poolToken)).toBe('of all')

      const putBack = hsm.takeAway('umbrella')
      await expect(second.encrypt('carol', 'x')).rejects.toMatchObject({
        code: 'ERR_MASTER_KEY',
        retryable: true,
      })
      putBack()
      await eventually(umbrella)
      expect(await second.decrypt('carol', await second.encrypt('carol', 'x'))).toBe('x')
    })
  })
})

/** Waits until a key works again. */
async function eventually(key: Pkcs11MasterKey): Promise<void> {
  const deadline = Date.now() + 20_000
  for (;;) {
    try {
      await key.wrap(DATA_KEY, AAD, OWNER)
      return
    } catch (error) {
      if (Date.now() > deadline) throw error
      await delay(50)
    }
  }
}
