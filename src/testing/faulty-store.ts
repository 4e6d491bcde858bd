/** A store whose calls go wrong as calls to a database do: they fail, are slow, come too late, lose their answer, or happen twice. */
import { setTimeout as sleep } from 'node:timers/promises'
import { StoreError } from '../errors.js'
import type { KeyStore, StoreMaintenance } from '../store.js'
import { randomNumbers } from './random-numbers.js'

/**
 * What goes wrong with a call. To the caller `fail`, `late` and `lost` look the same: ERR_STORE, `retryable`.
 *
 * - `fail`: the call is refused, and nothing happens
 * - `delay`: it happens after a while, and is answered
 * - `late`: it is refused once the caller's patience is over, and happens afterwards
 * - `lost`: it happens, and its answer is lost
 * - `twice`: it happens twice, and is answered once
 */
export type StoreFault = 'fail' | 'delay' | 'late' | 'lost' | 'twice'

/** Every kind of fault. */
export const STORE_FAULTS: readonly StoreFault[] = ['fail', 'delay', 'late', 'lost', 'twice']

/** The methods that can be made to fail; `changes` and `close` always work. */
export type FaultyMethod =
  | Exclude<keyof KeyStore, 'transactional' | 'changes' | 'maintenance' | 'close'>
  | keyof StoreMaintenance

/** Chooses the fault of each call, or null for none. Called once for each call, in the order of the calls. */
export type FaultSchedule = (method: FaultyMethod) => StoreFault | null

/** The options of {@link faultyStore}. */
export interface FaultyStoreOptions {
  /** How long a `delay` and the second part of `late` take at most, in milliseconds. Default 5. */
  readonly delayMs?: number
  /** After how many milliseconds a `late` call is refused. Default 2. */
  readonly patienceMs?: number
}

/** What {@link faultyStore} returns. */
export interface FaultyStore {
  /** The store whose calls go wrong. */
  readonly store: KeyStore
  /** Every fault that was put in, in order. */
  readonly faults: readonly { readonly method: FaultyMethod; readonly fault: StoreFault }[]
  /** From now on no call fails. Resolves once all late calls have happened. */
  heal(): Promise<void>
}

/**
 * Wraps a store so that chosen calls go wrong. The wrapped store is changed only by calls that reach it.
 *
 * @param schedule which fault each call has: `randomFaults(seed)`, or a function of your own
 * @example
 * // The answer to the first insert is lost, though its row is stored.
 * const lost: FaultyMethod[] = ['insertIfAbsent']
 * const { store } = faultyStore(memoryKeyStore(), (method) => (method === lost[0] && lost.shift() ? 'lost' : null))
 */
export function faultyStore(
  inner: KeyStore,
  schedule: FaultSchedule,
  { delayMs = 5, patienceMs = 2 }: FaultyStoreOptions = {},
): FaultyStore {
  const faults: { method: FaultyMethod; fault: StoreFault }[] = []
  const late = new Set<Promise<void>>()
  let isHealed = false

  const call = async <T>(method: FaultyMethod, run: () => Promise<T>): Promise<T> => {
    const fault = isHealed ? null : schedule(method)
    if (fault === null) return run()
    faults.push({ method, fault })
    switch (fault) {
      case 'fail':
        throw refused(`did not take ${method}`)
      case 'delay':
        await sleep(delayMs)
        return run()
      case 'late': {
        await sleep(patienceMs)
        const happening = sleep(delayMs)
          .then(run)
          // Its caller was told already.
          .then(ignore, ignore)
          .finally(() => late.delete(happening))
        late.add(happening)
        throw refused(`did not answer ${method} in time`)
      }
      case 'lost':
        await run()
        throw refused(`lost the answer to ${method}`)
      case 'twice': {
        const first = await run()
        const second = await run()
        // What was erased has to be told, even by a store that repeats the call by itself. All else is equal, or newer.
        return method === 'shred' || method === 'remove' ? first : second
      }
    }
  }
  // Arguments are copied: a call that happens late must not see what the caller does with them meanwhile.
  const { maintenance } = inner
  const changes = inner.changes?.bind(inner)
  const sampleRefs = maintenance?.sampleRefs?.bind(maintenance)
  const store: KeyStore = {
    transactional: inner.transactional,
    getActive: (ids) => withCopy(ids, (copy) => call('getActive', () => inner.getActive(copy))),
    getAll: (ids) => withCopy(ids, (copy) => call('getAll', () => inner.getAll(copy))),
    insertIfAbsent: (rows) =>
      withCopy(rows, (copy) => call('insertIfAbsent', () => inner.insertIfAbsent(copy))),
    replaceWrapped: (rows) =>
      withCopy(rows, (copy) => call('replaceWrapped', () => inner.replaceWrapped(copy))),
    list: ({ onUnreadable, ...page }) =>
      withCopy(page, (copy) =>
        call('list', () => inner.list(onUnreadable === undefined ? copy : { ...copy, onUnreadable })),
      ),
    shred: (userId, options) => withCopy(options, (copy) => call('shred', () => inner.shred(userId, copy))),
    remove: (refs) => withCopy(refs, (copy) => call('remove', () => inner.remove(copy))),
    sampleByKek: (limit, options) => call('sampleByKek', () => inner.sampleByKek(limit, options)),
    census: (options) => call('census', () => inner.census(options)),
    ...(changes === undefined ? {} : { changes }),
    ...(maintenance === undefined
      ? {}
      : {
          maintenance: {
            restore: (rows) => withCopy(rows, (copy) => call('restore', () => maintenance.restore(copy))),
            inspect: () => call('inspect', () => maintenance.inspect()),
            finishErasure: () => call('finishErasure', () => maintenance.finishErasure()),
            datedCensus: (options) => call('datedCensus', () => maintenance.datedCensus(options)),
            countUnder: (kekIds) => call('countUnder', () => maintenance.countUnder(kekIds)),
            ...(sampleRefs && {
              sampleRefs: (limit, total) => call('sampleRefs', () => sampleRefs(limit, total)),
            }),
          },
        }),
    close: () => inner.close(),
  }
  return {
    store,
    faults,
    async heal() {
      isHealed = true
      // A call whose patience is not over yet has not begun to be late.
      await sleep(patienceMs + delayMs)
      while (late.size > 0) await Promise.all(late)
    },
  }
}

export interface FaultOptions {
  /** The share of calls with a fault, from 0 to 1. Default 0.4. */
  readonly rate?: number
  /** The faults to choose from. Default all. */
  readonly kinds?: readonly StoreFault[]
}

/** Chooses faults at random. The same seed, any integer, chooses the same ones again. */
export function randomFaults(
  seed: number,
  { rate = 0.4, kinds = STORE_FAULTS }: FaultOptions = {},
): FaultSchedule {
  const random = randomNumbers(seed)
  return () => (random() < rate ? (kinds[Math.floor(random() * kinds.length)] ?? null) : null)
}

function withCopy<A, T>(argument: A, run: (copy: A) => T): T {
  return run(structuredClone(argument))
}

function refused(what: string): StoreError {
  return new StoreError(`The key store ${what} (a fault that faultyStore put in)`, { retryable: true })
}

function ignore(): void {}
