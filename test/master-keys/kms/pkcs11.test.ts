/** PKCS #11 master keys on a driver that does what no token at hand would: lock, hang, run out of sessions, answer anything. */
import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { type Pkcs11MasterKeyOptions, pkcs11MasterKey } from '../../../src/master-keys/kms/pkcs11.js'
import { testMasterKey } from '../../../src/testing/index.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { type Ckr, FAKE_PIN, FakeToken } from '../../support/fake-pkcs11.js'
import { everythingOf } from '../../support/leaks.js'

const OWNER = { userId: 'alice', version: 1, tenantId: null }
const AAD = Buffer.from('aad')
const DATA_KEY = Uint8Array.from({ length: 32 }, (_, i) => i + 1)

const cleanups = cleanUpAfterEach()

function bareKey(token: FakeToken, given: Partial<Pkcs11MasterKeyOptions> = {}) {
  const { driver } = token
  const key = pkcs11MasterKey({
    module: '/fake.so',
    token: 'fake',
    object: 'kek',
    pin: FAKE_PIN,
    driver,
    ...given,
  })
  return Object.assign(key, {
    wrapped: async () => key.wrap(DATA_KEY, AAD, OWNER),
    unwrapped: async (wrapped: Uint8Array) => Uint8Array.from(await key.unwrap(wrapped, AAD, OWNER)),
  })
}

function openKey(token: FakeToken, given: Partial<Pkcs11MasterKeyOptions> = {}) {
  return cleanups.closing(bareKey(token, given))
}

async function thrownBy(call: () => Promise<unknown>): Promise<Record<string, unknown>> {
  try {
    await call()
  } catch (error) {
    return error as Record<string, unknown>
  }
  throw new Error('nothing was thrown')
}

const REFUSALS = [
  'CKR_ENCRYPTED_DATA_INVALID',
  'CKR_AEAD_DECRYPT_FAILED',
  'CKR_GENERAL_ERROR',
  'CKR_ARGUMENTS_BAD',
] as const

for (const refusal of REFUSALS)
  testMasterKey(
    { describe, it },
    {
      name: `a token that says ${refusal} of a changed wrap`,
      async open() {
        const [token, second] = [new FakeToken(), new FakeToken()]
        token.refusal = refusal
        second.refusal = refusal
        const keys = [bareKey(token), bareKey(token), bareKey(second, { object: 'other' })] as const
        const failing = (method: string, ckr: Ckr) => async () => {
          token.failing.set(method, ckr)
          return async () => {
            token.failing.delete(method)
            await delay(250)
          }
        }
        return {
          masterKey: keys[0],
          again: async () => keys[1],
          other: async () => keys[2],
          secrets: [FAKE_PIN],
          failures: {
            unavailable: async () => {
              token.takeAway()
              return async () => {
                token.isPresent = true
                await delay(250)
              }
            },
            throttled: async () => {
              token.reset()
              return failing('C_OpenSession', 'CKR_SESSION_COUNT')()
            },
            denied: async () => {
              token.reset()
              return failing('C_Login', 'CKR_PIN_EXPIRED')()
            },
          },
          close: async () => {
            for (const key of keys) await key.close()
          },
        }
      },
    },
  )

describe('a PIN', () => {
  it('that was refused is not tried again, by no key of the token, until it is another', async () => {
    const token = new FakeToken()
    let pin = 'wrong-pin-of-test'
    const keys = [openKey(token, { pin: () => pin }), openKey(token, { pin: () => pin })] as const
    for (const key of [keys[0], keys[0], keys[1]])
      expect(await thrownBy(key.wrapped)).toMatchObject({
        reason: 'denied',
        providerCode: 'CKR_PIN_INCORRECT',
      })
    expect(token.count('C_Login')).toBe(1)
    pin = FAKE_PIN
    expect(await keys[0].unwrapped(await keys[1].wrapped())).toEqual(DATA_KEY)
    expect(token.count('C_Login')).toBe(2)
  })

  it('is not tried where the next wrong one would lock the token, nor where it is locked', async () => {
    const token = new FakeToken()
    for (const flags of [0x40004, 0x80004]) {
      token.flags = flags
      expect(await thrownBy(openKey(token).wrapped)).toMatchObject({ reason: 'denied', retryable: false })
    }
    expect(token.count('C_Login')).toBe(0)
  })

  it('is not shown again where somebody has logged in', async () => {
    const token = new FakeToken()
    await openKey(token).wrapped()
    await openKey(token, { pin: 'wrong-pin-of-test' }).wrapped()
    expect(token.count('C_Login')).toBe(1)
  })

  it('is not needed by a token that wants no login', async () => {
    const token = new FakeToken()
    token.flags = 0
    token.isLoggedIn = true
    await openKey(token, { pin: undefined as never }).wrapped()
    expect(token.count('C_Login')).toBe(0)
  })

  it('from a function that throws or returns nothing is an error without what it threw', async () => {
    const failing = [
      () => Promise.reject(new Error('pin-in-an-error')),
      () => '' as string,
      () => 7 as unknown as string,
    ]
    for (const pin of failing) {
      const error = await thrownBy(openKey(new FakeToken(), { pin }).wrapped)
      expect(error.code).toBe('ERR_MASTER_KEY')
      expect(everythingOf(error)).not.toContain('pin-in-an-error')
    }
  })
})

describe('sessions', () => {
  it('are no more at once than the option says, and kept', async () => {
    const token = new FakeToken()
    const key = openKey(token, { sessions: 3 })
    await Promise.all(Array.from({ length: 40 }, key.wrapped))
    expect(token.mostAtOnce).toBe(3)
    expect(token.count('C_OpenSession')).toBe(3)
  })

  it.each<[string, (token: FakeToken) => void]>([
    ['the token was switched off and on', (token) => token.reset()],
    ['the user was logged out', (token) => Object.assign(token, { isLoggedIn: false })],
    ['a handle is void', (token) => token.failingOnce.set('C_DecryptInit', 'CKR_KEY_HANDLE_INVALID')],
    ['the device failed once', (token) => token.failingOnce.set('C_DecryptInit', 'CKR_DEVICE_ERROR')],
  ])('are opened anew where %s, and the call succeeds', async (_, breakIt) => {
    const token = new FakeToken()
    const key = openKey(token)
    const wrapped = await key.wrapped()
    breakIt(token)
    expect(await key.unwrapped(wrapped)).toEqual(DATA_KEY)
  })

  it('that are all busy keep nobody waiting for ever', async () => {
    const token = new FakeToken()
    let goOn = () => {}
    token.gate = new Promise((resolve) => {
      goOn = resolve
    })
    const key = openKey(token, { sessions: 1, timeLimitMs: 80 })
    const hanging = key.wrapped()
    expect(await thrownBy(key.wrapped)).toMatchObject({ reason: 'unavailable', retryable: true })
    goOn()
    await hanging
    expect(await key.unwrapped(await key.wrapped())).toEqual(DATA_KEY)
  })

  it('that hang keep no module from ending a wait: a token is missed while another key hangs', async () => {
    const token = new FakeToken()
    const [hung, other] = [openKey(token), openKey(token)]
    await other.wrapped()
    let goOn = () => {}
    token.gate = new Promise((resolve) => {
      goOn = resolve
    })
    const hanging = hung.wrapped().catch(() => undefined)
    await delay(10)
    token.takeAway()
    expect(await thrownBy(other.wrapped)).toMatchObject({ reason: 'unavailable' })
    expect(token.count('C_Finalize')).toBe(0)
    goOn()
    await hanging
  })
})

describe('an answer', () => {
  it.each<[Ckr, string, string]>([
    ['CKR_KEY_FUNCTION_NOT_PERMITTED', 'denied', 'CKR_KEY_FUNCTION_NOT_PERMITTED'],
    ['CKR_MECHANISM_INVALID', 'wrongKey', 'CKR_MECHANISM_INVALID'],
    ['CKR_VENDOR_DEFINED', 'unavailable', 'CKR_0x80000123'],
    ['CKR_DEVICE_ERROR', 'unavailable', 'CKR_DEVICE_ERROR'],
  ])('%s is %s, with nothing of what the driver threw', async (ckr, reason, providerCode) => {
    const token = new FakeToken()
    token.failing.set('C_EncryptInit', ckr)
    const error = await thrownBy(openKey(token).wrapped)
    expect(error).toMatchObject({ code: 'ERR_MASTER_KEY', reason, providerCode })
    expect(everythingOf(error)).not.toContain('secret-of-the-driver')
  })

  it.each<Ckr>(['CKR_GENERAL_ERROR', 'CKR_FUNCTION_FAILED', 'CKR_ARGUMENTS_BAD'])(
    '%s of a token that is out of order is an outage, not a damaged wrap',
    async (ckr) => {
      const token = new FakeToken()
      const key = openKey(token)
      const wrapped = await key.wrapped()
      for (const method of ['C_DecryptAsync', 'C_EncryptAsync']) token.failing.set(method, ckr)
      expect(await thrownBy(() => key.unwrapped(wrapped))).toMatchObject({
        reason: 'unavailable',
        providerCode: ckr,
      })
      token.failing.delete('C_EncryptAsync')
      expect(await thrownBy(() => key.unwrapped(wrapped))).toMatchObject({
        reason: 'unavailable',
        providerCode: ckr,
      })
      token.failing.clear()
      token.failingOnce.set('C_DecryptAsync', ckr)
      expect(await key.unwrapped(wrapped)).toEqual(DATA_KEY)
    },
  )
})

describe('the module', () => {
  it('is initialized once for all keys, and finalized with the last', async () => {
    const token = new FakeToken()
    const keys = [bareKey(token), bareKey(token), bareKey(token)] as const
    await Promise.all(keys.map((key) => key.wrapped()))
    await keys[0].close()
    await keys[0].close()
    await keys[1].close()
    expect([token.count('C_Initialize'), token.count('C_Finalize')]).toEqual([1, 0])
    await keys[2].close()
    expect(token.count('C_Finalize')).toBe(1)
    await openKey(token).wrapped()
    expect([token.count('load'), token.count('C_Initialize')]).toEqual([2, 2])
  })

  it('is left as it is where the application has initialized it', async () => {
    const token = new FakeToken()
    token.isInitialized = true
    const key = openKey(token)
    await key.wrapped()
    token.takeAway()
    expect(await thrownBy(key.wrapped)).toMatchObject({ reason: 'unavailable' })
    await key.close()
    expect(token.count('C_Finalize')).toBe(0)
  })

  it('is initialized anew for a token that is not seen otherwise, but not with each call', async () => {
    const token = new FakeToken()
    token.needsInitialization = true
    const key = openKey(token)
    const wrapped = await key.wrapped()
    token.takeAway()
    for (let i = 0; i < 50; i += 1) await thrownBy(() => key.unwrapped(wrapped))
    expect(token.count('C_Initialize')).toBe(2)
    expect(token.count('C_GetSlotList')).toBeLessThan(10)
    for (const end = Date.now() + 1200; Date.now() < end; await delay(50))
      await thrownBy(() => key.unwrapped(wrapped))
    const initialized = token.count('C_Initialize')
    expect(initialized).toBeLessThan(5)
    token.isPresent = true
    await expect.poll(() => key.unwrapped(wrapped).catch(() => null), { timeout: 5000 }).toEqual(DATA_KEY)
    expect(token.count('C_Initialize')).toBe(initialized + 1)
  })

  it('that was initialized anew is given no handle of before, which may be another session by now', async () => {
    const token = new FakeToken()
    token.needsInitialization = true
    const [first, second] = [openKey(token), openKey(token)]
    await Promise.all([first.wrapped(), second.wrapped()])
    token.takeAway()
    await thrownBy(first.wrapped)
    token.isPresent = true
    await expect
      .poll(
        () =>
          Promise.all([first.wrapped(), first.wrapped()]).then(
            () => 'works',
            () => null,
          ),
        { timeout: 5000 },
      )
      .toBe('works')
    const opened = token.count('C_OpenSession')
    const wrapped = await second.wrapped()
    expect(token.count('C_OpenSession')).toBe(opened + 1)
    expect(await first.unwrapped(wrapped)).toEqual(DATA_KEY)
  })

  it('is loaded with the first call only', async () => {
    const token = new FakeToken()
    openKey(token)
    await delay(10)
    expect(token.calls).toEqual([])
  })
})

describe('the token and the key', () => {
  it('of a label that two tokens have is refused, unless the serial number is given', async () => {
    const token = new FakeToken()
    token.hasTwin = true
    const error = await thrownBy(openKey(token).wrapped)
    expect(error).toMatchObject({ code: 'ERR_MASTER_KEY', reason: 'wrongKey' })
    expect(error.message).toContain(
      'two tokens have this label: give the serial number too, unless rows are under this name already',
    )
    const key = openKey(token, { serial: '43' })
    expect(await key.unwrapped(await key.wrapped())).toEqual(DATA_KEY)
  })

  it('that is not found in a token that went away meanwhile is an outage, and not a key that was deleted', async () => {
    const token = new FakeToken()
    const find = token.onFind
    token.onFind = () => []
    expect(await thrownBy(openKey(token).wrapped)).toMatchObject({ reason: 'notFound', retryable: false })
    token.onFind = () => {
      token.failing.set('C_GetTokenInfo', 'CKR_TOKEN_NOT_PRESENT')
      return []
    }
    const key = openKey(token)
    expect(await thrownBy(key.wrapped)).toMatchObject({ reason: 'unavailable', retryable: true })
    token.failing.clear()
    token.onFind = find
    await delay(250)
    expect(await key.unwrapped(await key.wrapped())).toEqual(DATA_KEY)
  })
})

it('close waits for the calls under way, and then ends sessions and module', async () => {
  const token = new FakeToken()
  const key = bareKey(token)
  let open = () => {}
  token.gate = new Promise((resolve) => {
    open = resolve
  })
  const wrapped = key.wrapped()
  await expect.poll(() => token.count('C_EncryptInit')).toBe(1)
  let isClosed = false
  const closing = key.close().then(() => {
    isClosed = true
  })
  await delay(30)
  expect([isClosed, token.count('C_CloseSession'), token.count('C_Finalize')]).toEqual([false, 0, 0])
  open()
  expect(await wrapped).toHaveLength(61)
  await closing
  expect([token.count('C_CloseSession'), token.count('C_Finalize')]).toEqual([1, 1])
})

it.each<[string, object]>([
  ['module', { module: undefined }],
  ['token or serial', { token: undefined }],
  ['object or id', { object: undefined }],
  ['object', { object: '' }],
  ['token', { token: 7 }],
  ['id', { id: '01' }],
  ['id must not be empty', { id: new Uint8Array(0) }],
  ['pin', { pin: '' }],
  ['pin and pinFile', { pinFile: '/x' }],
  ['sessions', { sessions: 0 }],
  ['timeLimitMs', { timeLimitMs: Number.NaN }],
  ['"label" is no option of pkcs11MasterKey', { label: 'kek' }],
  ['"objekt" is no option of pkcs11MasterKey: did you mean object?', { objekt: 'kek' }],
])('refuses a wrong option: %s', (name, given) => {
  const token = new FakeToken()
  expect(() => bareKey(token, given)).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }))
  expect(() => bareKey(token, given)).toThrow(name)
})

it('has a KEK id that names token and key, percent-encoded, and no PIN', () => {
  const id = Uint8Array.of(0, 0x61, 0xff)
  const { id: kekId } = bareKey(new FakeToken(), { token: 'a b;c', serial: '42', object: 'é/k', id })
  expect(kekId).toBe('pkcs11:token=a%20b%3Bc;serial=42;object=%C3%A9%2Fk;id=%00a%FF')
})
