/** What the cases of the fault suite run in: storages, faulty stores, services of several processes, and the tokens they handed out. */
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import type { KeyStore } from '../store.js'
import { isTombstone, type KeyRecord } from '../table.js'
import { type FaultOptions, type FaultyStore, faultyStore, randomFaults } from './faulty-store.js'
import { listAll } from './fixture.js'
import type { KeyStoreSubject, OpenedSubject } from './subject.js'

/** What the suite uses of a service. */
export interface TestedService {
  encrypt(userId: string, plaintext: string): Promise<string>
  decrypt(userId: string, token: string): Promise<string>
  getOrCreateUserKey(userId: string): Promise<Uint8Array>
  rotateUserKey(
    userId: string,
  ): Promise<{ readonly version: number; readonly rotated: boolean; readonly userId: string }>
  shredUser(userId: string): Promise<{
    readonly versions: readonly number[]
    readonly kekIds: readonly (string | null)[]
    readonly at: Date
  }>
  close(): Promise<void>
}

/** What the suite uses of the library: pass the module `drizzle-keystore` itself. */
export interface TestedLibrary {
  readonly EnvelopeCrypto: {
    open(options: {
      readonly store: KeyStore
      readonly masterKeys: unknown
      readonly closeStore?: boolean
      readonly cache?: unknown
    }): Promise<TestedService>
  }
  generateMasterKey(): string
  localMasterKey(key: string): unknown
  masterKeyring(keys: { readonly primary: unknown; readonly previous?: readonly unknown[] }): unknown
  rewrapAll(options: {
    readonly store: KeyStore
    readonly masterKeys: unknown
    readonly batchSize?: number | undefined
  }): Promise<{
    readonly complete: boolean
    readonly kekId: string
    readonly changed: number
    readonly skipped: number
    readonly failedCount: number
  }>
  copyKeys(options: {
    readonly from: KeyStore
    readonly to: KeyStore
    readonly batchSize?: number | undefined
    readonly applyErasures?: unknown
  }): Promise<{
    readonly complete: boolean
    readonly equal: boolean
    readonly copied: number
    readonly extra: number
  }>
}

/** A token that was handed out. */
interface HandedOut {
  readonly userId: string
  readonly plaintext: string
  readonly token: string
}

export const USERS = ['alice', 'bob', 'carol', 'dave', 'erin', 'frank']
const PROCESSES = 3
export const ROUNDS = 3
/** Small, so that the work on a few rows has several pages. */
export const BATCH_SIZE = 4
/** Long work makes dozens of calls, and one that is refused ends all of it. */
export const FEW_FAULTS = { rate: 0.1 }
/** A call that is refused so often will be refused for ever. */
const MAX_TRIES = 500
/** Short, so that a store which announces no changes is asked again soon, too. */
const CACHE = { ttlMs: 100 }
/** How long other processes may take to learn of a change: the 2 s of the contract, and time for a busy machine. */
const MAX_DELAY_MS = 20_000

/** The storages, faulty stores and services of one run. */
export class World {
  readonly tokens: HandedOut[] = []
  readonly oldKey: unknown
  readonly newKey: unknown
  readonly #subject: KeyStoreSubject
  readonly #opened: OpenedSubject[] = []
  readonly #reopened: KeyStore[] = []
  readonly #faulty: FaultyStore[] = []
  readonly #services: TestedService[] = []

  constructor(
    subject: KeyStoreSubject,
    readonly library: TestedLibrary,
    readonly seed: number,
  ) {
    this.#subject = subject
    this.oldKey = library.localMasterKey(library.generateMasterKey())
    this.newKey = library.localMasterKey(library.generateMasterKey())
  }

  get faultCount(): number {
    return this.#faulty.reduce((count, { faults }) => count + faults.length, 0)
  }

  async open(): Promise<OpenedSubject> {
    const opened = await this.#subject.open()
    this.#opened.push(opened)
    return opened
  }

  faulty(store: KeyStore, options: FaultOptions = {}): KeyStore {
    const faulty = faultyStore(store, randomFaults(this.seed + this.#faulty.length, options))
    this.#faulty.push(faulty)
    return faulty.store
  }

  /** A faulty store of a process's own, on a storage that others use too. */
  async process({ store, reopen }: OpenedSubject, options: FaultOptions = {}): Promise<KeyStore> {
    if (reopen === undefined) return this.faulty(store, options)
    const another = await reopen()
    this.#reopened.push(another)
    return this.faulty(another, options)
  }

  async service(
    store: KeyStore,
    masterKeys: unknown = this.oldKey,
    cache: typeof CACHE | false = CACHE,
  ): Promise<TestedService> {
    const service = await patiently(() =>
      this.library.EnvelopeCrypto.open({ store, masterKeys, closeStore: false, cache }),
    )
    this.#services.push(service)
    return service
  }

  /** Services of several processes on one storage, each with faults of its own. */
  async services(opened: OpenedSubject, masterKeys = this.oldKey): Promise<TestedService[]> {
    const services: TestedService[] = []
    for (let i = 0; i < PROCESSES; i += 1)
      services.push(await this.service(await this.process(opened), masterKeys))
    return services
  }

  async encrypt(service: TestedService, userId: string): Promise<void> {
    const plaintext = `${userId} ${this.tokens.length}`
    const token = await patiently(() => service.encrypt(userId, plaintext))
    this.tokens.push({ userId, plaintext, token })
  }

  /** From now on no call fails; resolves once the late ones have happened. */
  async heal(): Promise<void> {
    for (const faulty of this.#faulty) await faulty.heal()
  }

  /**
   * Expects that every token opens, also those that the services make now: with what they keep in memory.
   *
   * @param except users whose tokens must not open
   */
  async expectTokensOpen(
    store: KeyStore,
    masterKeys: unknown,
    except: readonly string[] = [],
  ): Promise<void> {
    const users = USERS.filter((userId) => !except.includes(userId))
    for (const service of this.#services) for (const userId of users) await this.encrypt(service, userId)
    const fresh = await this.service(store, masterKeys, false)
    for (const { userId, plaintext, token } of this.tokens) {
      if (except.includes(userId)) await expectCode('ERR_KEY_SHREDDED', () => fresh.decrypt(userId, token))
      else assert.equal(await fresh.decrypt(userId, token), plaintext)
    }
  }

  /** Closes a service, of which no more is expected. */
  async close(service: TestedService): Promise<void> {
    this.#services.splice(this.#services.indexOf(service), 1)
    await service.close()
  }

  async end(): Promise<void> {
    await this.heal()
    for (const service of this.#services) await service.close()
    for (const store of this.#reopened) await store.close()
    for (const opened of this.#opened) await opened.close()
  }
}

/** Repeats a call as long as it is refused with an error that says so may be done. */
export async function patiently<T>(call: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await call()
    } catch (error) {
      const isRetryable = error instanceof Error && 'retryable' in error && error.retryable === true
      if (!isRetryable || codeOf(error) !== 'ERR_STORE' || tries === MAX_TRIES) throw error
    }
  }
}

/** Repeats an assertion until it holds, as long as a change may take to be known. */
export async function eventually(assertion: () => Promise<void>): Promise<void> {
  for (const start = performance.now(); ; await sleep(20)) {
    try {
      return await assertion()
    } catch (error) {
      if (performance.now() - start >= MAX_DELAY_MS) throw error
    }
  }
}

export async function expectCode(code: string, call: () => Promise<unknown>): Promise<void> {
  await assert.rejects(call, (error) => {
    assert.equal(codeOf(error), code, String(error))
    return true
  })
}

export function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : null
}

/** All rows of a store, or of one user. */
export async function rowsOf(store: KeyStore, userId?: string): Promise<KeyRecord[]> {
  const rows = userId === undefined ? await listAll(store, { limit: 1000 }) : undefined
  const found = rows ?? (await store.getAll([userId ?? ''])).get(userId ?? '') ?? []
  return found.map((row) => ({ ...row, encryptedKey: new Uint8Array(row.encryptedKey) }))
}

export function isErasedRow(row: KeyRecord): boolean {
  return isTombstone(row) && row.encryptedKey.length === 0
}

export function refOf({ userId, version }: KeyRecord): [string, number] {
  return [userId, version]
}
