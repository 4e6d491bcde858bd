/**
 * What is used of pkcs11js (an optional peer), taken structurally, and the constants of PKCS #11 (OASIS, “Cryptographic Token Interface
 * Base Specification 2.40”, §3, and “Current Mechanisms 2.40”, §2.12).
 */
import { MasterKeyError } from '../../errors.js'

/** A handle as pkcs11js gives it. */
export type Handle = Buffer

interface Attribute {
  readonly type: number
  readonly value?: number | boolean | string | Buffer
}

interface Mechanism {
  readonly mechanism: number
  readonly parameter: {
    readonly type: number
    readonly iv: Buffer
    readonly ivBits: number
    readonly aad: Buffer
    readonly tagBits: number
  }
}

/** A loaded module. All but two of its methods block; the two run on a thread of libuv's pool. */
export interface Pkcs11Library {
  load(path: string): void
  C_Initialize(options: { readonly flags: number }): void
  C_Finalize(): void
  C_GetSlotList(tokenPresent: boolean): Handle[]
  C_GetTokenInfo(slot: Handle): {
    readonly label: string
    readonly serialNumber: string
    readonly flags: number
  }
  C_OpenSession(slot: Handle, flags: number): Handle
  C_CloseSession(session: Handle): void
  C_GetSessionInfo(session: Handle): { readonly state: number }
  C_Login(session: Handle, userType: number, pin: string): void
  C_FindObjectsInit(session: Handle, template: Attribute[]): void
  C_FindObjects(session: Handle, most: number): Handle[]
  C_FindObjectsFinal(session: Handle): void
  C_GetAttributeValue(
    session: Handle,
    object: Handle,
    template: Attribute[],
  ): readonly { readonly value?: unknown }[]
  C_EncryptInit(session: Handle, mechanism: Mechanism, key: Handle): void
  C_EncryptAsync(session: Handle, data: Buffer, out: Buffer): Promise<Buffer>
  C_DecryptInit(session: Handle, mechanism: Mechanism, key: Handle): void
  C_DecryptAsync(session: Handle, data: Buffer, out: Buffer): Promise<Buffer>
}

/** What is used of the package pkcs11js. */
export interface Pkcs11Driver {
  readonly PKCS11: new () => Pkcs11Library
  /** How pkcs11js tells CK_GCM_PARAMS from other parameters. */
  readonly CK_PARAMS_GCM: number
}

export const CKF_SERIAL_SESSION = 0x4
export const CKF_OS_LOCKING_OK = 0x2
export const CKF_LOGIN_REQUIRED = 0x4
/** The next wrong PIN locks the token. */
export const CKF_USER_PIN_FINAL_TRY = 0x40000
export const CKF_USER_PIN_LOCKED = 0x80000
export const CKU_USER = 1
export const CKM_AES_GCM = 0x1087
export const CKO_SECRET_KEY = 4
export const CKK_AES = 0x1f
export const CKA_CLASS = 0x0
export const CKA_LABEL = 0x3
export const CKA_KEY_TYPE = 0x100
export const CKA_ID = 0x102
export const CKA_SENSITIVE = 0x103
export const CKA_VALUE_LEN = 0x161

/** @throws MasterKeyError `ERR_MASTER_KEY` if it is not installed or does not run */
export async function loadDriver(): Promise<Pkcs11Driver> {
  try {
    // Not for bundlers to follow: an application that uses another service has no such package.
    const { default: driver } = await import(/* webpackIgnore: true */ /* @vite-ignore */ 'pkcs11js')
    return driver
  } catch {
    throw new MasterKeyError(
      'ERR_MASTER_KEY',
      'A PKCS #11 master key needs the package pkcs11js: npm install pkcs11js (it is compiled for this Node.js)',
    )
  }
}
