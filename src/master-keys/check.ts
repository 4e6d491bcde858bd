/** The check of `EnvelopeCrypto.open`: do the given master keys open what is stored? */
import { isKeystoreError, KeystoreError, MasterKeyError } from '../errors.js'
import type { EmitEvent } from '../events.js'
import type { Format } from '../format/formats.js'
import type { KeyStore } from '../store.js'
import type { KeyRecord } from '../table.js'
import { formatOfKekId } from './kek-id.js'
import { unwrapDataKey } from './key-wrap.js'
import type { MasterKeyring } from './keyring.js'

/** A damaged row must not keep a store from opening, so one that opens is enough. */
const SAMPLES_PER_KEK = 3

/**
 * Unwraps one sample row under each KEK id. Reads a few rows for each, and writes nothing.
 *
 * @throws MasterKeyError `ERR_UNKNOWN_MASTER_KEY` naming KEK ids and counts of rows, unless `allowUnknown` ·
 *   ERR_FORMAT_NOT_ACCEPTED naming the option, when rows are wrapped in a format that is not accepted
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
    const damaged = await samplesBeforeOneOpens(keyring, samples, options.acceptKeys)
    // Rows without a KEK id do not say which key they need: when none opens, the key is missing rather than all damaged.
    if (kekId === null && damaged.length === samples.length) unknown.push(null)
    else
      for (const { userId, version } of damaged) options.emit({ type: 'damagedKey', userId, version, kekId })
  }
  if (unknown.length === 0) return
  // The census reads the whole table: only for the message.
  if (!options.allowUnknown) throw await unknownMasterKeys(store, unknown)
  options.emit({ type: 'unknownMasterKey', kekIds: unknown })
}

/** @returns the samples before the first that opens: all of them if none does */
async function samplesBeforeOneOpens(
  keyring: MasterKeyring,
  samples: readonly KeyRecord[],
  accept: readonly Format[],
): Promise<KeyRecord[]> {
  const damaged: KeyRecord[] = []
  for (const sample of samples) {
    try {
      const dataKey = await unwrapDataKey(keyring, sample, accept)
      dataKey.fill(0)
      return damaged
    } catch (error) {
      const code = isKeystoreError(error) ? error.code : null
      if (code === 'ERR_FORMAT_NOT_ACCEPTED' && formatOfKekId(sample.kekId) === 'v2') throw v2NotAccepted()
      // A v2 wrap under a v3 id is a forgery or damage of one row. It must not stop all other users.
      if (code !== 'ERR_UNWRAP_FAILED' && code !== 'ERR_FORMAT_NOT_ACCEPTED') throw error
      damaged.push(sample)
    }
  }
  return damaged
}

function v2NotAccepted(): KeystoreError {
  return new KeystoreError(
    'ERR_FORMAT_NOT_ACCEPTED',
    "The store has keys wrapped in format v2, the Python reference's, which binds no key to its user. To read them open with " +
      "accept: { keys: ['v2', 'v3'], tokens: ['v2', 'v3'] } (on the command line: --accept-v2); to go on writing it, with format: 'v2'",
  )
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
