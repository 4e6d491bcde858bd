/** A driver of PKCS #11 in JavaScript: AES-256-GCM by node:crypto, with what a test wants to go wrong. */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto'
import type { Pkcs11Driver, Pkcs11Library } from '../../src/master-keys/kms/pkcs11.js'

/** Return values by their names (PKCS #11 2.40, §3.6). */
const CODES = {
  CKR_SLOT_ID_INVALID: 0x3,
  CKR_GENERAL_ERROR: 0x5,
  CKR_FUNCTION_FAILED: 0x6,
  CKR_ARGUMENTS_BAD: 0x7,
  CKR_DEVICE_ERROR: 0x30,
  CKR_DEVICE_REMOVED: 0x32,
  CKR_ENCRYPTED_DATA_INVALID: 0x40,
  CKR_AEAD_DECRYPT_FAILED: 0x42,
  CKR_KEY_HANDLE_INVALID: 0x60,
  CKR_KEY_FUNCTION_NOT_PERMITTED: 0x68,
  CKR_MECHANISM_INVALID: 0x70,
  CKR_OPERATION_ACTIVE: 0x90,
  CKR_PIN_INCORRECT: 0xa0,
  CKR_PIN_EXPIRED: 0xa3,
  CKR_PIN_LOCKED: 0xa4,
  CKR_SESSION_COUNT: 0xb1,
  CKR_SESSION_HANDLE_INVALID: 0xb3,
  CKR_TOKEN_NOT_PRESENT: 0xe0,
  CKR_USER_ALREADY_LOGGED_IN: 0x100,
  CKR_USER_NOT_LOGGED_IN: 0x101,
  CKR_CRYPTOKI_NOT_INITIALIZED: 0x190,
  CKR_CRYPTOKI_ALREADY_INITIALIZED: 0x191,
  CKR_VENDOR_DEFINED: 0x80000123,
} as const
export type Ckr = keyof typeof CODES

/** As pkcs11js throws it. It knows no name of values after 2.40. */
export function ckrError(name: Ckr): Error {
  const message = name === 'CKR_AEAD_DECRYPT_FAILED' ? 'CKR_VENDOR_DEFINED' : name
  return Object.assign(new Error(message), { code: CODES[name], nativeStack: 'secret-of-the-driver' })
}

export const FAKE_PIN = 'pin-of-the-fake-token'

/** One module with one token. Its public fields may be set at any time. */
export class FakeToken {
  readonly calls: string[] = []
  /** What a method throws, until it is deleted. */
  readonly failing = new Map<string, Ckr>()
  /** What a method throws the next time only. */
  readonly failingOnce = new Map<string, Ckr>()
  isPresent = true
  /** Whether there is another token of the same label, with the serial number 43. */
  hasTwin = false
  /** What a search for the key finds. */
  onFind: () => Buffer[] = () => [Buffer.from('key')]
  /** Whether the token is found only by a module that was initialized since it came back. */
  needsInitialization = false
  flags = 0x4
  pin = FAKE_PIN
  refusal: Ckr = 'CKR_ENCRYPTED_DATA_INVALID'
  /** Resolves when encryption and decryption may go on. */
  gate: Promise<void> = Promise.resolve()
  mostAtOnce = 0
  isLoggedIn = false
  isInitialized = false
  readonly driver: Pkcs11Driver
  readonly #key = randomBytes(32)
  readonly #sessions = new Set<string>()
  readonly #operations = new Map<string, { readonly iv: Buffer; readonly aad: Buffer }>()
  #atOnce = 0
  #opened = 0
  #seesToken = true

  constructor() {
    const token = this
    this.driver = {
      CK_PARAMS_GCM: 25,
      PKCS11: function PKCS11() {
        return token.#library()
      } as unknown as new () => Pkcs11Library,
    }
  }

  count(name: string): number {
    return this.calls.filter((call) => call === name).length
  }

  /** Loses all sessions, as a token does that was switched off and on. */
  reset(): void {
    this.#sessions.clear()
    this.isLoggedIn = false
  }

  takeAway(): void {
    this.isPresent = false
    this.#seesToken = !this.needsInitialization
    this.reset()
  }

  #library(): Pkcs11Library {
    const called = (name: string) => {
      this.calls.push(name)
      const once = this.failingOnce.get(name)
      this.failingOnce.delete(name)
      const ckr = once ?? this.failing.get(name)
      if (ckr !== undefined) throw ckrError(ckr)
      if (!/^(load|C_Initialize)$/.test(name) && !this.isInitialized)
        throw ckrError('CKR_CRYPTOKI_NOT_INITIALIZED')
    }
    const inSession = (name: string, session: Buffer) => {
      called(name)
      if (!this.isPresent) throw ckrError('CKR_DEVICE_REMOVED')
      if (!this.#sessions.has(session.toString())) throw ckrError('CKR_SESSION_HANDLE_INVALID')
    }
    const begin = (
      name: string,
      session: Buffer,
      { parameter }: { readonly parameter: { iv: Buffer; aad: Buffer } },
    ) => {
      inSession(name, session)
      if (!this.isLoggedIn) throw ckrError('CKR_USER_NOT_LOGGED_IN')
      if (this.#operations.has(session.toString())) throw ckrError('CKR_OPERATION_ACTIVE')
      this.#operations.set(session.toString(), parameter)
    }
    const end = async (
      name: string,
      session: Buffer,
      work: (iv: Buffer, aad: Buffer) => Buffer,
      out: Buffer,
    ) => {
      const operation = this.#operations.get(session.toString())
      this.#operations.delete(session.toString())
      this.#atOnce += 1
      this.mostAtOnce = Math.max(this.mostAtOnce, this.#atOnce)
      try {
        await this.gate
        inSession(name, session)
        if (operation === undefined) throw new Error('no operation')
        const result = work(operation.iv, operation.aad)
        out.set(result)
        return out.subarray(0, result.length)
      } finally {
        this.#atOnce -= 1
      }
    }
    return {
      load: () => called('load'),
      C_Initialize: () => {
        called('C_Initialize')
        if (this.isInitialized) throw ckrError('CKR_CRYPTOKI_ALREADY_INITIALIZED')
        this.isInitialized = true
        this.#seesToken = this.isPresent || !this.needsInitialization
      },
      C_Finalize: () => {
        called('C_Finalize')
        this.isInitialized = false
        this.reset()
        this.#opened = 0
      },
      C_GetSlotList: () => {
        called('C_GetSlotList')
        if (!this.isPresent || !this.#seesToken) return []
        return this.hasTwin ? [Buffer.from('slot'), Buffer.from('twin')] : [Buffer.from('slot')]
      },
      C_GetTokenInfo: (slot) => {
        called('C_GetTokenInfo')
        if (!this.isPresent) throw ckrError('CKR_TOKEN_NOT_PRESENT')
        const serial = slot.toString() === 'twin' ? '43' : '42'
        return { label: 'fake'.padEnd(32), serialNumber: serial.padEnd(16), flags: this.flags }
      },
      C_OpenSession: () => {
        called('C_OpenSession')
        this.#opened += 1
        this.#sessions.add(`${this.#opened}`)
        return Buffer.from(`${this.#opened}`)
      },
      C_CloseSession: (session) => {
        inSession('C_CloseSession', session)
        this.#sessions.delete(session.toString())
        if (this.#sessions.size === 0) this.isLoggedIn = false
      },
      C_GetSessionInfo: (session) => {
        inSession('C_GetSessionInfo', session)
        return { state: this.isLoggedIn ? 1 : 0 }
      },
      C_Login: (session, _, pin) => {
        inSession('C_Login', session)
        if (this.isLoggedIn) throw ckrError('CKR_USER_ALREADY_LOGGED_IN')
        if (pin !== this.pin) throw ckrError('CKR_PIN_INCORRECT')
        this.isLoggedIn = true
      },
      C_FindObjectsInit: (session) => inSession('C_FindObjectsInit', session),
      C_FindObjects: (session) => {
        inSession('C_FindObjects', session)
        return this.onFind()
      },
      C_FindObjectsFinal: (session) => inSession('C_FindObjectsFinal', session),
      C_GetAttributeValue: (session, _, [attribute]) => {
        inSession('C_GetAttributeValue', session)
        return [{ value: attribute?.type === 0x161 ? Buffer.from('2000000000000000', 'hex') : Buffer.of(1) }]
      },
      C_EncryptInit: (session, mechanism) => begin('C_EncryptInit', session, mechanism),
      C_EncryptAsync: (session, data, out) =>
        end(
          'C_EncryptAsync',
          session,
          (iv, aad) => {
            const cipher = createCipheriv('aes-256-gcm', this.#key, iv).setAAD(aad)
            return Buffer.concat([cipher.update(data), cipher.final(), cipher.getAuthTag()])
          },
          out,
        ),
      C_DecryptInit: (session, mechanism) => begin('C_DecryptInit', session, mechanism),
      C_DecryptAsync: (session, data, out) =>
        end(
          'C_DecryptAsync',
          session,
          (iv, aad) => {
            const decipher = createDecipheriv('aes-256-gcm', this.#key, iv, { authTagLength: 16 }).setAAD(aad)
            decipher.setAuthTag(data.subarray(-16))
            const plain = decipher.update(data.subarray(0, -16))
            try {
              decipher.final()
            } catch {
              throw ckrError(this.refusal)
            }
            return plain
          },
          out,
        ),
    }
  }
}
