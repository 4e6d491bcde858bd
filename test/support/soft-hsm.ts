/** Tokens of SoftHSM2 of a test's own, if the program is installed. */
import { execFileSync, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, renameSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { temporaryFolder } from './databases.js'

const MODULES = [
  '/usr/lib/softhsm/libsofthsm2.so',
  '/usr/lib64/pkcs11/libsofthsm2.so',
  '/usr/local/lib/softhsm/libsofthsm2.so',
  '/opt/homebrew/lib/softhsm/libsofthsm2.so',
]

export const softHsmModule = MODULES.find(existsSync) ?? ''
/** pkcs11js has to be compiled, so `npm ci` does not install it. */
const pkcs11 = installed('pkcs11js')
export const hasSoftHsm =
  softHsmModule !== '' && pkcs11 !== null && spawnSync('softhsm2-util', ['--version']).status === 0

function installed(name: string) {
  try {
    return createRequire(import.meta.url)(name)
  } catch {
    return null
  }
}

export const SOFT_HSM_PIN = 'user-pin-of-the-test'

export interface SoftHsm {
  /** The path of its configuration, for processes of their own: SOFTHSM2_CONF. */
  readonly configuration: string
  readonly module: string
  /** Makes a token. @param pin default {@link SOFT_HSM_PIN} */
  addToken(label: string, pin?: string): void
  /** Puts a new AES key into a token. @returns its 32 bytes, which nobody has of a key that is made in a token */
  addKey(token: string, label: string, id?: string): Uint8Array
  /** Makes an AES key in a token, by the module in this process, which no key may have open. */
  generateKey(
    token: string,
    label: string,
    given: { readonly bytes?: number; readonly sensitive?: boolean },
  ): void
  /** Takes a token away, as if it were unplugged. @returns what puts it back */
  takeAway(token: string): () => void
  remove(): void
}

/**
 * Sets SOFTHSM2_CONF of this process, which the module reads when it is initialized: all keys of an earlier one must be closed by then.
 */
export function startSoftHsm(): SoftHsm {
  const folder = temporaryFolder()
  const tokens = join(folder.path, 'tokens')
  const away = join(folder.path, 'away')
  const configuration = join(folder.path, 'softhsm2.conf')
  for (const path of [tokens, away]) mkdirSync(path)
  writeFileSync(
    configuration,
    `directories.tokendir = ${tokens}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = true\n`,
  )
  const before = process.env.SOFTHSM2_CONF
  process.env.SOFTHSM2_CONF = configuration
  const util = (...args: string[]) => execFileSync('softhsm2-util', args, { stdio: 'pipe' })
  const folders = new Map<string, string>()
  const pins = new Map<string, string>()
  return {
    configuration,
    module: softHsmModule,
    addToken(label, pin = SOFT_HSM_PIN) {
      pins.set(label, pin)
      const others = readdirSync(tokens)
      util('--init-token', '--free', '--label', label, '--so-pin', 'so-pin-of-the-test', '--pin', pin)
      folders.set(label, readdirSync(tokens).find((name) => !others.includes(name)) ?? '')
    },
    addKey(token, label, id = '01') {
      // softhsm2-util 2.6 reads the file with fgets, and takes it to end at a NUL or a line break.
      const key = randomBytes(32).map((byte) => (byte === 0 || byte === 10 ? 1 : byte))
      const file = join(folder.path, 'key')
      writeFileSync(file, key)
      const where = ['--token', token, '--label', label, '--id', id, '--pin', pins.get(token) ?? '']
      util('--import', file, '--aes', '--force', ...where)
      return key
    },
    generateKey(token, label, { bytes = 32, sensitive = true }) {
      const library = new pkcs11.PKCS11()
      library.load(softHsmModule)
      library.C_Initialize()
      try {
        const slot = library
          .C_GetSlotList(true)
          .find((one: Buffer) => library.C_GetTokenInfo(one).label.trim() === token)
        const session = library.C_OpenSession(slot, pkcs11.CKF_SERIAL_SESSION | pkcs11.CKF_RW_SESSION)
        library.C_Login(session, pkcs11.CKU_USER, SOFT_HSM_PIN)
        library.C_GenerateKey(session, { mechanism: pkcs11.CKM_AES_KEY_GEN }, [
          { type: pkcs11.CKA_TOKEN, value: true },
          { type: pkcs11.CKA_PRIVATE, value: true },
          { type: pkcs11.CKA_SENSITIVE, value: sensitive },
          { type: pkcs11.CKA_EXTRACTABLE, value: !sensitive },
          { type: pkcs11.CKA_VALUE_LEN, value: bytes },
          { type: pkcs11.CKA_LABEL, value: label },
          { type: pkcs11.CKA_ENCRYPT, value: true },
          { type: pkcs11.CKA_DECRYPT, value: true },
        ])
      } finally {
        library.C_Finalize()
      }
    },
    takeAway(token) {
      const name = folders.get(token) ?? ''
      renameSync(join(tokens, name), join(away, name))
      return () => renameSync(join(away, name), join(tokens, name))
    },
    remove() {
      if (before === undefined) delete process.env.SOFTHSM2_CONF
      else process.env.SOFTHSM2_CONF = before
      folder.remove()
    },
  }
}
