/** The check of `EnvelopeCrypto.open`: do the given master keys open what is stored? */
import { isKeystoreError, KeystoreError, MasterKeyError, printable } from '../errors.js'
import type { EmitEvent } from '../events.js'
import type { Format } from '../format/formats.js'
import type { KeyStore } from '../store.js'
import type { KeyRecord } from '../table.js'
import { formatOfKekId } from './kek-id.js'
import { unwrapDataKey } from './key-wrap.js'
import type { MasterKeyring } from './keyring.js'

/** A damaged row must not keep a store from opening, so one that opens is enough. */
const SAMPLES_PER_KEK = 3
/** A message names this many of the KEK ids that were not given. */
const NAMED_KEK_IDS = 10

/**
 * Unwraps one sample row under each KEK id. Reads a few rows for each, and writes nothing.
 *
 * Refuses where a master key is missing. Rows that merely do not open are damaged: each is an event, and fails its own user.
 *
 * - An id that no master key has: refuses, unless `allowUnknown`.
 * - A known id: damaged rows are events, even if no sample opens. They say themselves which key they need.
 * - No id, or the id of v2 wraps, where format v2 is not accepted: refuses if the store has no row of format v3, since the store was then
 *   never upgraded. Else the rows are damaged: nobody could read them anyway, and no row may talk an operator into accepting v2.
 * - No id, where format v2 is accepted: refuses if none of the samples opens. Such rows do not say which key they need.
 *
 * Someone who can write rows can still keep a service from opening, as they could by deleting the rows. There are two ways:
 *
 * - a row with a KEK id of their own making, which looks like a missing master key. The message names the id, and `allowUnknown` opens.
 * - where v2 is accepted, rows without an id that come before the others.
 *
 * They cannot make a row open that no master key has wrapped.
 *
 * @throws MasterKeyError `ERR_UNKNOWN_MASTER_KEY` naming KEK ids and counts of rows, unless `allowUnknown` ·
 *   ERR_FORMAT_NOT_ACCEPTED when all rows are wrapped in a format that is not accepted
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
  const groups = groupByKek(await store.sampleByKek(SAMPLES_PER_KEK))
  const acceptsV2 = options.acceptKeys.includes('v2')
  const isUpgraded = [...groups.keys()].some((kekId) => formatOfKekId(kekId) === 'v3')
  for (const [kekId, samples] of groups) {
    if (kekId !== null && keyring.find(kekId) === null) {
      unknown.push(kekId)
      continue
    }
    if (!acceptsV2 && !isUpgraded) throw v2NotAccepted()
    const damaged = await samplesBeforeOneOpens(keyring, samples, options.acceptKeys)
    if (kekId === null && acceptsV2 && damaged.length === samples.length) unknown.push(null)
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
      if (code !== 'ERR_UNWRAP_FAILED' && code !== 'ERR_FORMAT_NOT_ACCEPTED') throw error
      damaged.push(sample)
    }
  }
  return damaged
}

/** Names no option for tokens: keys are upgraded without reading any. */
function v2NotAccepted(): KeystoreError {
  return new KeystoreError(
    'ERR_FORMAT_NOT_ACCEPTED',
    "All keys of the store are wrapped in format v2, the Python reference's, which binds no key to its user. If the store is the " +
      "reference's, the README says how to take it over (“From the Python reference”): read them with accept: { keys: ['v2', 'v3'] }, " +
      'or upgrade them first with `npx keystore rewrap --accept-v2`. If it is not, somebody has put them there',
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
  const list = kekIds.slice(0, NAMED_KEK_IDS).map((kekId) => {
    const count = counts.get(kekId) ?? 0
    const id = kekId === null ? 'no KEK id (the Python reference)' : printable(kekId)
    return `${id}: ${count} ${count === 1 ? 'row' : 'rows'}`
  })
  if (kekIds.length > list.length) list.push(`and ${kekIds.length - list.length} more`)
  return new MasterKeyError(
    'ERR_UNKNOWN_MASTER_KEY',
    `The store has keys wrapped under master keys that were not given (${list.join('; ')}). ` +
      'Give the right master key; earlier ones go into API_KEY_MASTER_KEY_PREVIOUS or into the keyring',
  )
}
