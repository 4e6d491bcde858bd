/** What `EnvelopeCrypto.open` looks at before it lets anybody encrypt: do the given master keys open what is stored? */
import { MasterKeyError } from './errors.js'
import type { EmitEvent } from './events.js'
import { unwrapDataKey } from './key-wrap.js'
import type { MasterKeyring } from './master-key.js'
import type { KeyRecord, KeyStore } from './store.js'
import type { Format } from './token.js'

/** A damaged row must not keep a store from opening, so one that opens is enough. */
const SAMPLES_PER_KEK = 3

/**
 * Unwraps one sample row under each KEK id. Reads a few rows a KEK, however many there are, and writes nothing.
 *
 * @throws MasterKeyError `ERR_UNKNOWN_MASTER_KEY` naming KEK ids and counts of rows, unless `allowUnknown`
 */
export async function checkMasterKeys(
  store: KeyStore,
  keyring: MasterKeyring,
  options: {
    readonly acceptKeys: readonly Format[]
    readonly allowUnknown: boolean
    readonly emit: EmitEvent
  },
): Promise<void> {
  const unknown: (string | null)[] = []
  for (const [kekId, samples] of groupByKek(await store.sampleByKek(SAMPLES_PER_KEK))) {
    if (kekId !== null && keyring.find(kekId) === null) {
      unknown.push(kekId)
      continue
    }
    const damaged = await firstThatOpens(samples)
    // Rows without a KEK id do not say which key they need: when none opens, the key is missing rather than all damaged.
    if (kekId === null && damaged.length === samples.length) unknown.push(null)
    else
      for (const { userId, version } of damaged) options.emit({ type: 'damagedKey', userId, version, kekId })
  }
  if (unknown.length === 0) return
  const error = await unknownMasterKeys(store, unknown)
  if (!options.allowUnknown) throw error
  options.emit({ type: 'unknownMasterKey', kekIds: unknown })

  /** @returns the samples before the first that opens: all of them if none does */
  async function firstThatOpens(samples: readonly KeyRecord[]): Promise<KeyRecord[]> {
    const damaged: KeyRecord[] = []
    for (const sample of samples) {
      try {
        const dataKey = await unwrapDataKey(keyring, sample, options.acceptKeys)
        dataKey.fill(0)
        break
      } catch (error) {
        if (!(error instanceof MasterKeyError && error.code === 'ERR_UNWRAP_FAILED')) throw error
        damaged.push(sample)
      }
    }
    return damaged
  }
}

function groupByKek(samples: readonly KeyRecord[]): Map<string | null, KeyRecord[]> {
  const groups = new Map<string | null, KeyRecord[]>()
  for (const sample of samples) {
    const group = groups.get(sample.kekId)
    if (group) group.push(sample)
    else groups.set(sample.kekId, [sample])
  }
  return groups
}

async function unknownMasterKeys(
  store: KeyStore,
  kekIds: readonly (string | null)[],
): Promise<MasterKeyError> {
  const counts = new Map<string | null, number>()
  for (const row of await store.census()) {
    if (!row.shredded) counts.set(row.kekId, (counts.get(row.kekId) ?? 0) + row.count)
  }
  const list = kekIds.map((kekId) => {
    const count = counts.get(kekId) ?? 0
    return `${kekId ?? 'no KEK id (the Python reference)'}: ${count} ${count === 1 ? 'row' : 'rows'}`
  })
  return new MasterKeyError(
    'ERR_UNKNOWN_MASTER_KEY',
    `The store has keys wrapped under master keys that were not given (${list.join('; ')}). ` +
      'Give the right master key; earlier ones go into API_KEY_MASTER_KEY_PREVIOUS or into the keyring',
  )
}
