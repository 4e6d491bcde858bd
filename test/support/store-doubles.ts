/** Stores and master keys that count, record, or do one thing otherwise. */
import { randomBytes } from 'node:crypto'
import { type KeyStore, localMasterKey, type MasterKey } from '../../src/index.js'
import { gate } from './gate.js'

/** The store with some methods of the test's own; all others are the store's. */
export function overriding(store: KeyStore, overrides: Partial<KeyStore>): KeyStore {
  return new Proxy(store, {
    get(target, name) {
      const own: unknown = Reflect.get(overrides, name)
      if (own !== undefined) return own
      const value: unknown = Reflect.get(target, name, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}

/** The store without one of its optional parts. */
export function storeWithout(store: KeyStore, missing: 'changes' | 'maintenance'): KeyStore {
  return new Proxy(store, {
    get(target, name) {
      const value: unknown = name === missing ? undefined : Reflect.get(target, name, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}

export interface CountedStore {
  readonly store: KeyStore
  /** The number of calls of each method that was called. */
  readonly calls: Record<string, number>
  /** The number of records of each insert, in order. */
  readonly inserts: number[]
  /** Makes the next call of a method fail. */
  failNext(method: keyof KeyStore, error: Error): void
}

export function countedStore(inner: KeyStore): CountedStore {
  const calls: Record<string, number> = {}
  const inserts: number[] = []
  const failures = new Map<string, Error>()
  const store = new Proxy(inner, {
    get(target, name: string) {
      const value = Reflect.get(target, name, target)
      if (typeof value !== 'function') return value
      return (...args: unknown[]) => {
        calls[name] = (calls[name] ?? 0) + 1
        const failure = failures.get(name)
        failures.delete(name)
        if (failure) return Promise.reject(failure)
        if (name === 'insertIfAbsent') inserts.push((args[0] as unknown[]).length)
        return value.apply(target, args)
      }
    },
  })
  return { store, calls, inserts, failNext: (method, error) => failures.set(method, error) }
}

/** The store, and the names of the methods that were called on it, in order. */
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

/** A key service as far as the library can see: a master key known by its interface alone. */
export function remoteMasterKey(
  change: Partial<MasterKey> = {},
  inner = localMasterKey(randomBytes(32)),
): MasterKey {
  return {
    id: 'remote',
    wrap: async (dataKey, aad) => inner.wrap(dataKey, aad),
    unwrap: async (wrapped, aad) => inner.unwrap(wrapped, aad),
    ...change,
  }
}

/** A key service whose unwraps wait at a gate, once it is armed. */
export function gatedMasterKey(inner = localMasterKey(randomBytes(32)), id = 'remote') {
  const opening = gate()
  const masterKey = remoteMasterKey(
    {
      id,
      async unwrap(wrapped, aad) {
        await opening.wait()
        return inner.unwrap(wrapped, aad)
      },
    },
    inner,
  )
  return { masterKey, opening }
}

/** A key service that counts. */
export function countedMasterKey(bytes: Uint8Array): MasterKey & { wraps: number; unwraps: number } {
  const inner = localMasterKey(bytes)
  return {
    id: 'counted',
    wraps: 0,
    unwraps: 0,
    wrap(dataKey, aad) {
      this.wraps += 1
      return inner.wrap(dataKey, aad)
    },
    unwrap(wrapped, aad) {
      this.unwraps += 1
      return inner.unwrap(wrapped, aad)
    },
  }
}
