/** Fresh stores of every kind, and services on them. */
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { type OpenedKeyStore, type OpenKeyStoreOptions, openKeyStore } from '../../src/adapters/open.js'
import {
  EnvelopeCrypto,
  type EnvelopeCryptoOptions,
  generateMasterKey,
  type KeyStore,
  localMasterKey,
} from '../../src/index.js'
import { type Dialect, dialects, freshDatabase, isChosen } from './databases.js'
import { ofEachTest, standIn } from './each-test.js'
import { overriding } from './store-doubles.js'

export type Backend = Dialect | 'memory'

/** The kinds of stores to loop over. */
export const backends: readonly Backend[] = [...dialects, ...(isChosen('memory') ? ['memory' as const] : [])]

/** Those of the pairs to loop over both of which are chosen. */
export function chosenPairs(
  ...pairs: readonly (readonly [Backend, Backend])[]
): readonly (readonly [Backend, Backend])[] {
  return pairs.filter((pair) => pair.every((backend) => backends.includes(backend)))
}

export interface TestStore {
  readonly store: KeyStore
  /** Null for the memory store, which nobody else can open. */
  readonly url: string | null
  /** A service on the store unless told otherwise. Closing it leaves the store open; {@link remove} closes it. */
  open(options?: Partial<EnvelopeCryptoOptions>): Promise<EnvelopeCrypto>
  /** The same in the reference's format and without a cache. */
  openV2(options?: Partial<EnvelopeCryptoOptions>): Promise<EnvelopeCrypto>
  /** A further store on the same storage, as another process has one. In memory it is the same store. */
  another(): Promise<KeyStore>
  /** Closes all services and stores, and removes the storage. */
  remove(): Promise<void>
}

/** @param defaults options of all its services; without master keys there, they share a new one */
export async function freshStore(
  backend: Backend,
  defaults: Partial<EnvelopeCryptoOptions> = {},
): Promise<TestStore> {
  const database = backend === 'memory' ? null : await freshDatabase(backend)
  const store = database === null ? memoryKeyStore() : await openKeyStore(database.url)
  const services: EnvelopeCrypto[] = []
  const others: KeyStore[] = []
  const shared = { store, closeStore: false, masterKeys: localMasterKey(generateMasterKey()), ...defaults }
  const open = async (options: Partial<EnvelopeCryptoOptions> = {}) => {
    const envelope = await EnvelopeCrypto.open({ ...shared, ...options })
    services.push(envelope)
    return envelope
  }
  return {
    store,
    url: database?.url ?? null,
    open,
    openV2: (options = {}) => open({ format: 'v2', cache: false, ...options }),
    async another() {
      if (database === null) return overriding(store, {})
      const other = await openKeyStore(database.url)
      others.push(other)
      return other
    },
    async remove() {
      for (const envelope of services) await envelope.close()
      for (const other of others) await other.close()
      await store.close()
      await database?.remove()
    },
  }
}

/** To be called where `beforeEach` may be: a fresh store of each test, which is removed after it. @returns that of the running test */
export function freshStoreOfEachTest(
  backend: Backend,
  defaults: Partial<EnvelopeCryptoOptions> = {},
): { readonly test: TestStore; readonly store: KeyStore } {
  const test = ofEachTest(() => freshStore(backend, defaults))
  return { test, store: standIn(() => test.store) }
}

/** Opens the store that a URL names, for one piece of work. */
export async function withStore<T>(
  url: string,
  work: (store: OpenedKeyStore) => Promise<T>,
  options: OpenKeyStoreOptions = {},
): Promise<T> {
  const store = await openKeyStore(url, options)
  try {
    return await work(store)
  } finally {
    await store.close()
  }
}

/** A service under a new master key, on the store given or that a URL names; closing it closes the store. */
export async function freshService(
  store: KeyStore | string = memoryKeyStore(),
  options: Partial<EnvelopeCryptoOptions> = {},
): Promise<EnvelopeCrypto> {
  return EnvelopeCrypto.open({
    store: typeof store === 'string' ? await openKeyStore(store) : store,
    masterKeys: localMasterKey(generateMasterKey()),
    ...options,
  })
}

/**
 * Waits until a store on Postgres listens, and goes on listening for the rest of the test. It then says once that anything may have changed, and
 * services look their keys up again: a test that counts look-ups or unwraps has that behind it.
 */
export async function untilListening(store: KeyStore, backend: Backend): Promise<void> {
  if (backend !== 'postgres') return
  await new Promise<void>((resolve) => store.changes?.(() => resolve()))
}
