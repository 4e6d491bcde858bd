/**
 * PKCS #11 modules of this process. C_Initialize and C_Finalize are of the whole process, so all keys of a module share one module here, and
 * the last key to be closed finalizes it.
 */
import { realpathSync } from 'node:fs'
import { MasterKeyError } from '../../errors.js'
import { CKF_OS_LOCKING_OK, type Pkcs11Driver, type Pkcs11Library } from './pkcs11-driver.js'
import { ckrOf } from './pkcs11-error.js'

/** How long calls that are under way may last before a module is not initialized anew after all. */
const DRAIN_MS = 1000
/** The time between two initializations, of which the first cures most and each costs all keys of the module a login. */
const FIRST_WAIT_MS = 500
const LONGEST_WAIT_MS = 16_000

export class Pkcs11Module {
  readonly library: Pkcs11Library
  readonly gcmParameters: number
  /** Rises with each initialization: sessions and handles of an earlier one are void. */
  generation = 0
  /** PINs that a token refused, by its serial number. They are not tried again. */
  readonly refusedPins = new Map<string, string>()
  readonly #onLastRelease: () => void
  #users = 0
  /** Whether it was initialized here. Otherwise it is not ours to finalize. */
  #isOwn = false
  #running = 0
  #onIdle: (() => void) | null = null
  #pause: Promise<boolean> | null = null
  #nextAt = 0
  #waitMs = FIRST_WAIT_MS

  constructor(driver: Pkcs11Driver, path: string, onLastRelease: () => void) {
    this.library = new driver.PKCS11()
    this.gcmParameters = driver.CK_PARAMS_GCM
    this.#onLastRelease = onLastRelease
    try {
      this.library.load(path)
    } catch {
      throw new MasterKeyError(
        'ERR_MASTER_KEY',
        `The PKCS #11 module ${path} cannot be loaded: it must be a shared library for this system`,
      )
    }
    this.#initialize()
  }

  use(): void {
    this.#users += 1
  }

  /** Finalizes the module after its last user, which must have ended its calls. */
  release(): void {
    this.#users -= 1
    if (this.#users > 0) return
    this.#onLastRelease()
    if (!this.#isOwn || this.#running > 0) return
    this.#isOwn = false
    try {
      this.library.C_Finalize()
    } catch {
      // A module whose tokens are gone: there is nothing left to end.
    }
  }

  /** Calls the module while nobody initializes it anew. */
  async run<T>(work: () => T | Promise<T>): Promise<T> {
    while (this.#pause !== null) await this.#pause.catch(() => false)
    this.#running += 1
    try {
      return await work()
    } finally {
      this.#running -= 1
      if (this.#running === 0) this.#onIdle?.()
    }
  }

  /**
   * Initializes the module anew, once all calls under way have ended: some modules, SoftHSM among them, do not see a token again otherwise.
   * Not while calls hang, not too often, and not where somebody else has initialized it.
   *
   * @returns whether it was done
   */
  reinitialize(): Promise<boolean> {
    if (this.#pause !== null) return this.#pause
    if (!this.#isOwn || Date.now() < this.#nextAt) return Promise.resolve(false)
    this.#pause = this.#initializeAnew().finally(() => {
      this.#pause = null
    })
    return this.#pause
  }

  /** A token was found again: the next initialization need not wait long. */
  recovered(): void {
    this.#waitMs = FIRST_WAIT_MS
  }

  async #initializeAnew(): Promise<boolean> {
    const isIdle = await this.#idle()
    this.#nextAt = Date.now() + this.#waitMs
    this.#waitMs = Math.min(2 * this.#waitMs, LONGEST_WAIT_MS)
    if (!isIdle) return false
    try {
      this.library.C_Finalize()
    } catch {
      // Not initialized any more, which is what was wanted.
    }
    this.#initialize()
    return true
  }

  /** @returns false if calls still run after a while */
  async #idle(): Promise<boolean> {
    if (this.#running === 0) return true
    let timer: NodeJS.Timeout | undefined
    const isIdle = await new Promise<boolean>((resolve) => {
      this.#onIdle = () => resolve(true)
      timer = setTimeout(() => resolve(false), DRAIN_MS)
    })
    clearTimeout(timer)
    this.#onIdle = null
    return isIdle
  }

  #initialize(): void {
    try {
      // Calls come from several threads of libuv's pool.
      this.library.C_Initialize({ flags: CKF_OS_LOCKING_OK })
      this.#isOwn = true
    } catch (error) {
      if (ckrOf(error) !== 'CKR_CRYPTOKI_ALREADY_INITIALIZED') throw error
    }
    this.generation += 1
  }
}

const modules = new Map<Pkcs11Driver, Map<string, Pkcs11Module>>()

/** The module of a shared library, initialized, with one user more. @throws what the driver throws · MasterKeyError if it cannot be loaded */
export function openModule(driver: Pkcs11Driver, path: string): Pkcs11Module {
  const loaded = modules.get(driver) ?? new Map<string, Pkcs11Module>()
  modules.set(driver, loaded)
  const name = realPath(path)
  const module = loaded.get(name) ?? new Pkcs11Module(driver, path, () => loaded.delete(name))
  loaded.set(name, module)
  module.use()
  return module
}

/** A name without a folder is looked for by the system, as in /usr/lib. */
function realPath(path: string): string {
  try {
    return realpathSync(path)
  } catch {
    return path
  }
}
