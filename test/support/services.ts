/** Fresh stores of every kind for tests of the service, and what such tests do to their rows. */
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { openKeyStore } from '../../src/adapters/open.js'
import {
  EnvelopeCrypto,
  type EnvelopeCryptoOptions,
  type KeyRecord,
  type KeyRef,
  type KeyStore,
  type LocalMasterKey,
} from '../../src/index.js'
import { type Dialect, dialects, freshDatabase, isChosen } from './databases.js'

export type Backend = Dialect | 'memory'

export const backends: readonly Backend[] = [...dialects, ...(isChosen('memory') ? ['memory' as const] : [])]

export interface TestStore {
  readonly store: KeyStore
  /** Null for the memory store, which nobody else can open. */
  readonly url: string | null
  /** A service on the store in the reference's format and without a cache, unless told otherwise; it leaves the store open. */
  open(options: Omit<EnvelopeCryptoOptions, 'store'>): Promise<EnvelopeCrypto>
  remove(): Promise<void>
}

export async function freshStore(backend: Backend): Promise<TestStore> {
  const database = backend === 'memory' ? null : await freshDatabase(backend)
  const store = database === null ? memoryKeyStore() : await openKeyStore(database.url)
  return {
    store,
    url: database?.url ?? null,
    open: (options) =>
      EnvelopeCrypto.open({ store, closeStore: false, format: 'v2', cache: false, ...options }),
    async remove() {
      await store.close()
      await database?.remove()
    },
  }
}

export async function rowsOf(store: KeyStore): Promise<KeyRecord[]> {
  return store.list({ limit: 100_000 })
}

/** A live row whose data key is wrapped in the reference's format, under no KEK id as the reference leaves it. */
export function rowUnder(
  key: LocalMasterKey,
  ref: Partial<KeyRef>,
  change: Partial<KeyRecord> = {},
): KeyRecord {
  return {
    userId: 'alice',
    version: 1,
    encryptedKey: key.wrapV2(crypto.getRandomValues(new Uint8Array(32))),
    kekId: key.v2Id,
    createdAt: new Date(),
    wrappedAt: null,
    shreddedAt: null,
    ...ref,
    ...change,
  }
}

/** Changes one row, past all rules. @returns the row as it was */
export async function alterRow(
  store: KeyStore,
  ref: KeyRef,
  change: (record: KeyRecord) => Partial<KeyRecord>,
): Promise<KeyRecord> {
  const versions = (await store.getAll([ref.userId])).get(ref.userId) ?? []
  const record = versions.find(({ version }) => version === ref.version)
  if (record === undefined) throw new Error(`there is no row of ${ref.userId}`)
  await store.remove([ref])
  await store.insertIfAbsent([{ ...record, ...change(record) }])
  return record
}

/** The same bytes with one bit of the last byte flipped. */
export function corrupted(bytes: Uint8Array): Uint8Array {
  const changed = new Uint8Array(bytes)
  changed[changed.length - 1] = (changed.at(-1) ?? 0) ^ 1
  return changed
}

/** The store, and the names of the methods that were called on it. */
export function recordingCalls(store: KeyStore): { readonly store: KeyStore; readonly calls: string[] } {
  const calls: string[] = []
  const proxy = new Proxy(store, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target)
      if (typeof value !== 'function') return value
      return (...args: unknown[]) => {
        calls.push(String(name))
        return Reflect.apply(value, target, args)
      }
    },
  })
  return { store: proxy, calls }
}

/** The error of a promise or of a function, which must fail. */
export async function errorOf(work: Promise<unknown> | (() => unknown)): Promise<Error> {
  try {
    await (typeof work === 'function' ? work() : work)
  } catch (error) {
    if (error instanceof Error) return error
    throw new Error(`not an Error was thrown: ${typeof error}`)
  }
  throw new Error('it did not fail')
}
