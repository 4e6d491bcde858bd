/** Master keys in a hardware security module, or any other PKCS #11 token: AES-256-GCM inside the token, which the key never leaves. */
import { readFile } from 'node:fs/promises'
import { invalidArgument, MasterKeyError, printable } from '../../errors.js'
import { GCM_NONCE_BYTES, GCM_TAG_BYTES, gcmNonce, KEY_BYTES } from '../../format/aead.js'
import { assertBytes, kindOf, knownOptions } from '../../validate.js'
import type { MasterKey } from '../master-key.js'
import { CKM_AES_GCM, loadDriver, type Pkcs11Driver } from './pkcs11-driver.js'
import { ckrOf, isRefusal, isUnclear, keyError } from './pkcs11-error.js'
import { Pkcs11Sessions, type Session } from './pkcs11-sessions.js'
import { pkcs11Id } from './pkcs11-uri.js'

export type { Pkcs11Driver, Pkcs11Library } from './pkcs11-driver.js'
export { type Pkcs11Uri, parsePkcs11Uri } from './pkcs11-uri.js'

/** The options of {@link pkcs11MasterKey}. `token` or `serial`, and `object` or `id`, must be given. */
export interface Pkcs11MasterKeyOptions {
  /** The path of the module's shared library, such as `/usr/lib/softhsm/libsofthsm2.so`. */
  readonly module: string
  /** The label of the token. */
  readonly token?: string | undefined
  /** The serial number of the token, where two have the same label. */
  readonly serial?: string | undefined
  /** The label of the AES key (CKA_LABEL). */
  readonly object?: string | undefined
  /** The id of the AES key (CKA_ID), where two have the same label, or it has none. */
  readonly id?: Uint8Array | undefined
  /** The user PIN, or a function that has it from a secret store. It is called for each new session. */
  readonly pin?: string | (() => string | Promise<string>) | undefined
  /** The path of a file that holds the PIN, and at most a line break after it. It is read for each new session. */
  readonly pinFile?: string | undefined
  /** How many calls may be in the token at once. Each holds a thread of libuv's pool, which has four by default. Default 2. */
  readonly sessions?: number | undefined
  /** The longest time in milliseconds that one call may take. Default 5000. */
  readonly timeLimitMs?: number | undefined
  /** The module pkcs11js, or what takes its place. Default: it is imported. */
  readonly driver?: Pkcs11Driver | undefined
}

/** A master key in a PKCS #11 token. */
export interface Pkcs11MasterKey extends MasterKey {
  readonly timeLimitMs: number
  /** Ends its sessions, and the module with the last key of it. Waits for calls under way. Calls after it are ERR_CLOSED. */
  close(): Promise<void>
}

const DEFAULT_SESSIONS = 2
const DEFAULT_TIME_LIMIT_MS = 5000
/** The first byte of a wrap: AES-256-GCM by a token (docs/FORMAT.md). */
const HEADER = 0x04
const WRAP_BYTES = 1 + GCM_NONCE_BYTES + KEY_BYTES + GCM_TAG_BYTES
/** Room for a module that wants more than it writes. */
const SPARE_BYTES = 16
const OPTIONS = {
  module: true,
  token: true,
  serial: true,
  object: true,
  id: true,
  pin: true,
  pinFile: true,
  sessions: true,
  timeLimitMs: true,
  driver: true,
} as const

/**
 * A master key in a PKCS #11 token, such as a hardware security module. Data keys are wrapped by AES-256-GCM inside the token, bound to their
 * row; the key never leaves it. Nothing is loaded before the first call. A token that went away is found again, and logged in to, by itself.
 *
 * The key must be an AES key of 32 bytes, sensitive, with CKA_ENCRYPT and CKA_DECRYPT. Its KEK id is `pkcs11:` and what names it here, so
 * name it the same way in all processes, for ever.
 *
 * Needs the package pkcs11js. Its calls that open a session block the event loop, so a module that reaches its token over a network should
 * have short time limits of its own.
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * const masterKey = pkcs11MasterKey({
 *   module: '/usr/lib/softhsm/libsofthsm2.so',
 *   token: 'payments',
 *   object: 'kek-2026',
 *   pinFile: '/run/secrets/hsm-pin',
 * })
 * const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKey })
 */
export function pkcs11MasterKey(options: Pkcs11MasterKeyOptions): Pkcs11MasterKey {
  const { module, token, serial, object, id, pin, pinFile, sessions, timeLimitMs, driver } = checked(options)
  const kekId = pkcs11Id(options)
  const place = { modulePath: module, token, serial, object, objectId: id && Uint8Array.from(id) }
  return new TokenMasterKey(
    kekId,
    timeLimitMs,
    new Pkcs11Sessions(
      kekId,
      place,
      driver === undefined ? loadDriver : async () => driver,
      () => pinOf(kekId, pin, pinFile),
      sessions,
      timeLimitMs,
    ),
  )
}

class TokenMasterKey implements Pkcs11MasterKey {
  readonly id: string
  readonly timeLimitMs: number
  readonly #sessions: Pkcs11Sessions

  constructor(id: string, timeLimitMs: number, sessions: Pkcs11Sessions) {
    this.id = id
    this.timeLimitMs = timeLimitMs
    this.#sessions = sessions
  }

  async wrap(dataKey: Uint8Array, aad: Uint8Array): Promise<Uint8Array> {
    assertBytes('dataKey', dataKey, KEY_BYTES)
    const plaintext = copyOf(dataKey)
    const ownAad = copyOf(aad)
    try {
      return await this.#sessions.use(async (session) => {
        // A fresh one for each attempt: the first may have reached the token.
        const iv = gcmNonce()
        const sealed = await encrypted(session, iv, plaintext, ownAad)
        if (sealed.length !== KEY_BYTES + GCM_TAG_BYTES)
          throw keyError(this.id, 'wrongKey', `the token made ${sealed.length} bytes of ${KEY_BYTES}`, null)
        return Uint8Array.of(HEADER, ...iv, ...sealed)
      })
    } finally {
      plaintext.fill(0)
    }
  }

  async unwrap(wrapped: Uint8Array, aad: Uint8Array): Promise<Uint8Array> {
    if (wrapped.length !== WRAP_BYTES || wrapped[0] !== HEADER) throw this.#refusal()
    const iv = copyOf(wrapped.subarray(1, 1 + GCM_NONCE_BYTES))
    const sealed = copyOf(wrapped.subarray(1 + GCM_NONCE_BYTES))
    const ownAad = copyOf(aad)
    const dataKey = await this.#opened(iv, sealed, ownAad)
    if (dataKey === null) throw this.#refusal()
    return dataKey
  }

  close(): Promise<void> {
    return this.#sessions.close()
  }

  /** @returns null if the token refuses the bytes */
  async #opened(iv: Buffer, sealed: Buffer, aad: Buffer): Promise<Uint8Array | null> {
    const answer = await this.#sessions.use((session) => attempt(session, iv, sealed, aad))
    if (answer !== 'unclear') return answer
    // A token that can do this can be asked once more, and then means the bytes. One that cannot is out of order.
    const again = await this.#sessions.use(async (session) => {
      await assertWorks(session)
      return attempt(session, iv, sealed, aad)
    })
    return again === 'unclear' ? null : again
  }

  #refusal(): MasterKeyError {
    return new MasterKeyError(
      'ERR_UNWRAP_FAILED',
      `The wrapped key does not open under master key ${printable(this.id)}`,
    )
  }
}

const PROBE = Buffer.alloc(KEY_BYTES, 0x5a)

/** Encrypts and decrypts what is no secret. @throws what the driver throws */
async function assertWorks(session: Session): Promise<void> {
  const iv = gcmNonce()
  const sealed = await encrypted(session, iv, PROBE, PROBE)
  await decrypted(session, iv, copyOf(sealed), PROBE)
}

/** @returns null if the token refuses the bytes, 'unclear' if it may mean them or itself */
async function attempt(
  session: Session,
  iv: Buffer,
  sealed: Buffer,
  aad: Buffer,
): Promise<Uint8Array | null | 'unclear'> {
  try {
    return await decrypted(session, iv, sealed, aad)
  } catch (error) {
    const ckr = ckrOf(error)
    if (isRefusal(ckr)) return null
    if (isUnclear(ckr)) return 'unclear'
    throw error
  }
}

/** @returns `ciphertext ‖ tag[16]` */
async function encrypted(session: Session, iv: Buffer, plaintext: Buffer, aad: Buffer): Promise<Uint8Array> {
  const { library, handle, key } = session
  const out = Buffer.alloc(plaintext.length + GCM_TAG_BYTES + SPARE_BYTES)
  library.C_EncryptInit(handle, gcm(session, iv, aad), key)
  return pinned([iv, aad, plaintext, out], async () =>
    Uint8Array.from(await library.C_EncryptAsync(handle, plaintext, out)),
  )
}

/** @returns an array of its own */
async function decrypted(session: Session, iv: Buffer, sealed: Buffer, aad: Buffer): Promise<Uint8Array> {
  const { library, handle, key } = session
  const out = Buffer.alloc(sealed.length + SPARE_BYTES)
  library.C_DecryptInit(handle, gcm(session, iv, aad), key)
  try {
    return await pinned([iv, aad, sealed, out], async () =>
      Uint8Array.from(await library.C_DecryptAsync(handle, sealed, out)),
    )
  } finally {
    out.fill(0)
  }
}

function gcm({ gcmParameters: type }: Session, iv: Buffer, aad: Buffer) {
  const parameter = { type, iv, ivBits: 8 * iv.length, aad, tagBits: 8 * GCM_TAG_BYTES }
  return { mechanism: CKM_AES_GCM, parameter }
}

/** What keeps the buffers of calls under way from being collected. */
const inUse = new Set<readonly Buffer[]>()

/** The driver gives the module the addresses of buffers, and does not keep them alive (PeculiarVentures/pkcs11js#121). */
async function pinned<T>(buffers: readonly Buffer[], work: () => Promise<T>): Promise<T> {
  inUse.add(buffers)
  try {
    return await work()
  } finally {
    inUse.delete(buffers)
  }
}

/** A Buffer of its own memory: one of Node's pool would be beside other bytes. */
function copyOf(bytes: Uint8Array): Buffer {
  const copy = Buffer.alloc(bytes.length)
  copy.set(bytes)
  return copy
}

async function pinOf(
  kekId: string,
  pin: Pkcs11MasterKeyOptions['pin'],
  pinFile: string | undefined,
): Promise<string | null> {
  if (typeof pin === 'string') return pin
  if (pinFile !== undefined) return pinFromFile(kekId, pinFile)
  if (pin === undefined) return null
  let found: unknown
  try {
    found = await pin()
  } catch {
    throw keyError(
      kekId,
      'unavailable',
      'the function `pin` failed with an error of its own, which is not shown',
      null,
    )
  }
  if (typeof found === 'string' && found !== '') return found
  throw keyError(
    kekId,
    'denied',
    `the function \`pin\` must return a string that is not empty, got ${kindOf(found)}`,
    null,
  )
}

async function pinFromFile(kekId: string, path: string): Promise<string> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'unreadable'
    throw keyError(kekId, 'denied', `the PIN file ${path} cannot be read (${code})`, null)
  }
  const pin = text.replace(/\r?\n$/, '')
  if (pin === '') throw keyError(kekId, 'denied', `the PIN file ${path} is empty`, null)
  return pin
}

function checked(given: Pkcs11MasterKeyOptions) {
  const options = knownOptions(given, OPTIONS, 'pkcs11MasterKey')
  const { module, token, serial, object, id, pin, pinFile, driver } = options
  const { sessions = DEFAULT_SESSIONS, timeLimitMs = DEFAULT_TIME_LIMIT_MS } = options
  for (const [name, value] of Object.entries({ module, token, serial, object, pinFile }))
    if (
      value !== undefined &&
      (typeof value !== 'string' || value === '' || !value.isWellFormed() || value.includes('\0'))
    )
      throw invalidArgument(`${name} must be a string that is not empty, got ${kindOf(value)}`)
  if (module === undefined)
    throw invalidArgument(
      'module must be the path of a PKCS #11 library, such as /usr/lib/softhsm/libsofthsm2.so',
    )
  if (token === undefined && serial === undefined) throw invalidArgument('token or serial must be given')
  if (object === undefined && id === undefined) throw invalidArgument('object or id must be given')
  if (id !== undefined) assertBytes('id', id)
  if (id?.length === 0) throw invalidArgument('id must not be empty')
  if (pin !== undefined && pinFile !== undefined)
    throw invalidArgument('pin and pinFile are both given: leave one out')
  if (pin !== undefined && typeof pin !== 'function' && (typeof pin !== 'string' || pin === ''))
    throw invalidArgument(`pin must be a string that is not empty, or a function, got ${kindOf(pin)}`)
  if (!Number.isInteger(sessions) || sessions < 1 || sessions > 64)
    throw invalidArgument('sessions must be a whole number from 1 to 64')
  if (typeof timeLimitMs !== 'number' || !(timeLimitMs > 0 && timeLimitMs < 2 ** 31))
    throw invalidArgument('timeLimitMs must be a number of milliseconds above 0')
  return { ...options, module, sessions, timeLimitMs, token, serial, object, id, pin, pinFile, driver }
}
