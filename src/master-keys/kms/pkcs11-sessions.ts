/** Sessions with one key of one token: found, logged in, a bounded number of them, and opened anew when the token was away. */
import { KeystoreError } from '../../errors.js'
import {
  CKA_CLASS,
  CKA_ID,
  CKA_KEY_TYPE,
  CKA_LABEL,
  CKA_SENSITIVE,
  CKA_VALUE_LEN,
  CKF_LOGIN_REQUIRED,
  CKF_SERIAL_SESSION,
  CKF_USER_PIN_FINAL_TRY,
  CKF_USER_PIN_LOCKED,
  CKK_AES,
  CKO_SECRET_KEY,
  CKU_USER,
  type Handle,
  type Pkcs11Driver,
  type Pkcs11Library,
} from './pkcs11-driver.js'
import { ckrOf, isOutage, isStale, keyError, pkcs11Error } from './pkcs11-error.js'
import { openModule, type Pkcs11Module } from './pkcs11-module.js'

/** Where a key is. */
export interface KeyPlace {
  readonly modulePath: string
  readonly token: string | undefined
  readonly serial: string | undefined
  readonly object: string | undefined
  readonly objectId: Uint8Array | undefined
}

export interface Session {
  readonly library: Pkcs11Library
  readonly gcmParameters: number
  readonly handle: Handle
  readonly key: Handle
  readonly generation: number
}

const AES_KEY_BYTES = 32
const OUTAGE_MS = 200
/** Said of this PIN, and not of the token's state. */
const WRONG_PIN: ReadonlySet<string> = new Set(['CKR_PIN_INCORRECT', 'CKR_PIN_INVALID', 'CKR_PIN_LEN_RANGE'])
/** The state of a session of a user who is logged in (CKS_RO_USER_FUNCTIONS). */
const LOGGED_IN = 1

export class Pkcs11Sessions {
  readonly #id: string
  readonly #place: KeyPlace
  readonly #driver: () => Promise<Pkcs11Driver>
  readonly #pin: () => Promise<string | null>
  readonly #most: number
  readonly #waitMs: number
  #opened: Promise<Pkcs11Module> | null = null
  #idle: Session[] = []
  #inUse = 0
  /** Those who wait for a permit, in their order. Each is told to go on, or why not. */
  readonly #waiting = new Set<(error: Error | null) => void>()
  #wasAway = false
  /** Calls that come close after one that did not find the token fail as it did: each look for it blocks the event loop. */
  #outage: { readonly error: unknown; readonly until: number } | null = null
  #closing: Promise<void> | null = null

  /**
   * @param id of the master key, for messages
   * @param pin null for a token that takes none
   * @param most sessions at once
   * @param waitMs how long a call waits for one of them
   */
  constructor(
    id: string,
    place: KeyPlace,
    driver: () => Promise<Pkcs11Driver>,
    pin: () => Promise<string | null>,
    most: number,
    waitMs: number,
  ) {
    this.#id = id
    this.#place = place
    this.#driver = driver
    this.#pin = pin
    this.#most = most
    this.#waitMs = waitMs
  }

  /**
   * Works in a session. If the session turns out to be void, works once more in a new one: `work` must bear that.
   *
   * @throws MasterKeyError · ERR_CLOSED
   */
  async use<T>(work: (session: Session) => Promise<T>): Promise<T> {
    await this.#permit()
    try {
      return await this.#retried(work)
    } catch (error) {
      throw pkcs11Error(this.#id, error)
    } finally {
      this.#handOn()
    }
  }

  /** Waits for calls that are under way, and closes all sessions. Calls after it fail. */
  close(): Promise<void> {
    this.#closing ??= this.#end()
    return this.#closing
  }

  async #end(): Promise<void> {
    for (const leave of this.#waiting) leave(closed(this.#id))
    const deadline = Date.now() + this.#waitMs
    while (this.#inUse > 0 && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 5))
    const module = await this.#opened?.catch(() => null)
    if (!module) return
    await this.#closeIdle(module)
    module.release()
  }

  async #retried<T>(work: (session: Session) => Promise<T>): Promise<T> {
    const module = await this.#module()
    for (let hasRetried = false; ; ) {
      const session = this.#idle.pop() ?? (await this.#opening(module))
      try {
        const result = await module.run(() => {
          if (session.generation !== module.generation) throw new VoidSession()
          return work(session)
        })
        this.#idle.push(session)
        return result
      } catch (error) {
        await close(module, session)
        // The module was initialized anew for another key: that says nothing about this one.
        if (error instanceof VoidSession) continue
        if (hasRetried || !isStale(ckrOf(error))) throw error
        hasRetried = true
        // What has ended one session has most likely ended all.
        await this.#closeIdle(module)
      }
    }
  }

  #module(): Promise<Pkcs11Module> {
    if (this.#closing !== null) throw closed(this.#id)
    this.#opened ??= this.#driver()
      .then((driver) => openModule(driver, this.#place.modulePath))
      .catch((error) => {
        // A module that cannot be initialized now may be later.
        this.#opened = null
        throw error
      })
    return this.#opened
  }

  /** A new session, after a new initialization of the module if there is no other way to the token. */
  async #opening(module: Pkcs11Module): Promise<Session> {
    if (this.#outage !== null && Date.now() < this.#outage.until) throw this.#outage.error
    try {
      const pin = await this.#pin()
      try {
        return await this.#open(module, pin)
      } catch (error) {
        if (!isOutage(error)) throw error
        this.#wasAway = true
        if (!(await module.reinitialize())) throw error
        return await this.#open(module, pin)
      }
    } catch (error) {
      if (isOutage(error)) this.#outage = { error, until: Date.now() + OUTAGE_MS }
      throw error
    }
  }

  #open(module: Pkcs11Module, pin: string | null): Promise<Session> {
    return module.run(() => {
      const { library, gcmParameters, generation } = module
      let handle: Handle | null = null
      try {
        const { slot, serial, flags } = this.#findToken(library)
        handle = library.C_OpenSession(slot, CKF_SERIAL_SESSION)
        if ((flags & CKF_LOGIN_REQUIRED) !== 0) this.#logIn(module, handle, serial, flags, pin)
        const key = this.#findKey(library, slot, handle)
        if (this.#wasAway) module.recovered()
        this.#wasAway = false
        return { library, gcmParameters, handle, key, generation }
      } catch (error) {
        if (handle !== null) closeHandle(library, handle)
        throw pkcs11Error(this.#id, error)
      }
    })
  }

  #findToken(library: Pkcs11Library): {
    readonly slot: Handle
    readonly serial: string
    readonly flags: number
  } {
    const { token, serial } = this.#place
    let problem = 'CKR_TOKEN_NOT_PRESENT'
    const found = library.C_GetSlotList(true).flatMap((slot) => {
      try {
        const info = library.C_GetTokenInfo(slot)
        const isIt =
          (token === undefined || unpadded(info.label) === token) &&
          (serial === undefined || unpadded(info.serialNumber) === serial)
        return isIt ? [{ slot, serial: unpadded(info.serialNumber), flags: info.flags }] : []
      } catch (error) {
        // Another token's trouble, unless ours is nowhere else.
        problem = ckrOf(error) ?? problem
        return []
      }
    })
    const [first, second] = found
    if (second !== undefined)
      throw keyError(this.#id, 'wrongKey', `two tokens have this label: ${twinAdvice('serial number')}`, null)
    if (first === undefined)
      throw keyError(this.#id, 'unavailable', `there is no such token (${problem})`, problem)
    return first
  }

  #logIn(module: Pkcs11Module, session: Handle, serial: string, flags: number, pin: string | null): void {
    // The login is of the process and the token, not of the session: a PIN that need not be shown cannot be refused.
    if (module.library.C_GetSessionInfo(session).state === LOGGED_IN) return
    if (pin === null)
      throw keyError(
        this.#id,
        'denied',
        'the token needs a PIN: set PKCS11_PIN_FILE, or name a file as ?pin-source= in the key’s URI; in code, give pin or pinFile',
        null,
      )
    if (module.refusedPins.get(serial) === pin)
      throw keyError(this.#id, 'denied', 'the token refused the PIN', 'CKR_PIN_INCORRECT')
    if ((flags & CKF_USER_PIN_LOCKED) !== 0)
      throw keyError(this.#id, 'denied', 'the PIN is locked', 'CKR_PIN_LOCKED')
    if ((flags & CKF_USER_PIN_FINAL_TRY) !== 0)
      throw keyError(
        this.#id,
        'denied',
        'the next wrong PIN locks the token, so none is tried: log in by other means with the right one first',
        null,
      )
    try {
      module.library.C_Login(session, CKU_USER, pin)
      module.refusedPins.delete(serial)
    } catch (error) {
      const ckr = ckrOf(error)
      if (ckr === 'CKR_USER_ALREADY_LOGGED_IN') return
      if (ckr !== null && WRONG_PIN.has(ckr)) module.refusedPins.set(serial, pin)
      throw error
    }
  }

  #findKey(library: Pkcs11Library, slot: Handle, session: Handle): Handle {
    const { object, objectId } = this.#place
    library.C_FindObjectsInit(session, [
      { type: CKA_CLASS, value: CKO_SECRET_KEY },
      { type: CKA_KEY_TYPE, value: CKK_AES },
      ...(object === undefined ? [] : [{ type: CKA_LABEL, value: Buffer.from(object) }]),
      ...(objectId === undefined ? [] : [{ type: CKA_ID, value: Buffer.from(objectId) }]),
    ])
    const [key, second] = library.C_FindObjects(session, 2)
    library.C_FindObjectsFinal(session)
    if (key === undefined) {
      // SoftHSM finds nothing in a token that went away, and says so only here.
      library.C_GetTokenInfo(slot)
      throw keyError(this.#id, 'notFound', 'the token has no such AES key, or does not show it', null)
    }
    if (second !== undefined)
      throw keyError(this.#id, 'wrongKey', `two AES keys have this label: ${twinAdvice('id')}`, null)
    this.#assertFit(library, session, key)
    return key
  }

  #assertFit(library: Pkcs11Library, session: Handle, key: Handle): void {
    const read = (type: number) => library.C_GetAttributeValue(session, key, [{ type }])[0]?.value
    const sensitive = read(CKA_SENSITIVE)
    if (!Buffer.isBuffer(sensitive) || sensitive[0] !== 1)
      throw keyError(
        this.#id,
        'wrongKey',
        'the key can be read out of the token: make one with CKA_SENSITIVE',
        null,
      )
    const length = read(CKA_VALUE_LEN)
    if (
      !Buffer.isBuffer(length) ||
      length.length === 0 ||
      length.readUIntLE(0, Math.min(6, length.length)) !== AES_KEY_BYTES
    )
      throw keyError(this.#id, 'wrongKey', `the key must be an AES key of ${AES_KEY_BYTES} bytes`, null)
  }

  async #permit(): Promise<void> {
    if (this.#closing !== null) throw closed(this.#id)
    if (this.#inUse < this.#most) this.#inUse += 1
    else await this.#turn()
  }

  /** Waits until a call that ends hands its permit on. */
  #turn(): Promise<void> {
    return new Promise((resolve, reject) => {
      const leave = (error: Error | null) => {
        clearTimeout(timer)
        this.#waiting.delete(leave)
        if (error === null) resolve()
        else reject(error)
      }
      const problem = `all its sessions were busy for ${this.#waitMs} ms`
      const timer = setTimeout(() => leave(keyError(this.#id, 'unavailable', problem, null)), this.#waitMs)
      this.#waiting.add(leave)
    })
  }

  #handOn(): void {
    const [next] = this.#waiting
    if (next === undefined) this.#inUse -= 1
    else next(null)
  }

  async #closeIdle(module: Pkcs11Module): Promise<void> {
    for (const session of this.#idle.splice(0)) await close(module, session)
  }
}

/** The module was initialized anew since the session was opened. */
class VoidSession extends Error {}

function close(module: Pkcs11Module, { handle, library, generation }: Session): Promise<void> {
  return module.run(() => {
    // A handle of an earlier initialization may be another session's by now.
    if (generation === module.generation) closeHandle(library, handle)
  })
}

function closeHandle(library: Pkcs11Library, handle: Handle): void {
  try {
    library.C_CloseSession(handle)
  } catch {
    // It is closed already, or its token is gone.
  }
}

/** What names a key is in the rows that it has wrapped. */
function twinAdvice(more: string): string {
  return `give the ${more} too, unless rows are under this name already: then give the other one another label`
}

function closed(id: string): KeystoreError {
  return new KeystoreError('ERR_CLOSED', `Master key ${id} is closed`)
}

/** Labels and serial numbers are padded with spaces (PKCS #11 §3.2, CK_TOKEN_INFO). */
function unpadded(text: string): string {
  return text.replace(/[ \0]+$/, '')
}
