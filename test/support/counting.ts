/** Counts what the service asks of its store and of its master key. */
import { type KeyStore, localMasterKey, type MasterKey } from '../../src/index.js'

export interface CountedStore {
  readonly store: KeyStore
  /** Calls by method. */
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

/** A master key, known by its interface only, that counts. */
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
