/** The check of `EnvelopeCrypto.open`: do the given master keys open what is stored, and can the primary do its work? */
import { isKeystoreError, KeystoreError, MasterKeyError, printable } from '../errors.js'
import type { EmitEvent, KeystoreEvent } from '../events.js'
import type { Format } from '../format/formats.js'
import type { KeyStore, UnsearchedKeks } from '../store.js'
import { type KeyRecord, tenantIdOf } from '../table.js'
import { checkTenants } from './check-tenants.js'
import { isMasterKeyFailure, isOutage, reasonOf, unavailableEvent } from './failure.js'
import { tryWrapping } from './first-wrap.js'
import { formatOfKekId } from './kek-id.js'
import { unwrapDataKey } from './key-wrap.js'
import type { MasterKeyring } from './keyring.js'
import { isLocal } from './local.js'
import { parseTenantKekId } from './tenant-keys.js'

/** A damaged row must not keep a store from opening, so one that opens is enough. */
const SAMPLES_PER_KEK = 3
/** A message names this many of the KEK ids that were not given. */
const NAMED_KEK_IDS = 10

/**
 * Unwraps one sample row under each KEK id, all of them at the same time. Reads a few rows for each, and writes nothing. If the primary is in
 * a key service and has wrapped no row yet, it has to wrap a key and open it again.
 *
 * Refuses where a master key is missing or wrong. Rows that merely do not open are damaged: each is an event, and fails its own user. So it
 * is with a master key that cannot be asked now, or refuses: only its own users need it.
 *
 * - An id that no master key has: refuses, unless `allowUnknown`. Of tenants' own rows it is one of the tenant's root, and at most an event,
 *   unless it shows that the primary is the wrong one: see {@link checkTenants}.
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
 * The store may give up where looking takes too long, as among the index entries that a rewrap leaves on Postgres until a vacuum. If one of the
 * rows that were found opens, what was found is held to the rules above, and an event (`partlyChecked`) names what was not looked at. A master
 * key that is missing for rows which only a full look would have found is then not noticed here, but by these rows' users. If none opens, nothing
 * shows that the master keys are this store's: the store is looked through to the end, however long that takes. So it is with `wholly`.
 *
 * @throws MasterKeyError `ERR_UNKNOWN_MASTER_KEY` naming KEK ids and counts of rows, unless `allowUnknown` · `ERR_MASTER_KEY` when a master
 *   key is wrong, or not there (unless `allowUnknown`), or cannot do its work from the beginning ·
 *   ERR_FORMAT_NOT_ACCEPTED when all rows are wrapped in a format that is not accepted
 */
export async function checkMasterKeys(
  store: KeyStore,
  keyring: MasterKeyring,
  options: CheckOptions,
): Promise<void> {
  const { acceptKeys, allowUnknown, emit } = options
  const { sampled, unsearched } = await sampleStore(store, keyring, options)
  const samples = sampled.filter(isUnderMasterKey)
  const tenants = await checkTenants(store, keyring, {
    areUnderPrimary: samples.some(({ kekId }) => kekId === keyring.primary.id),
    areKnown: samples.some(({ kekId }) => keyring.find(kekId ?? '') !== null),
  })
  const groups = groupByKek([...samples, ...tenants.underPrimary.slice(0, SAMPLES_PER_KEK)])
  const acceptsV2 = acceptKeys.includes('v2')
  // Where a store has not looked for rows, there may be some.
  const isUpgraded =
    tenants.areThere ||
    unsearched.length > 0 ||
    [...groups.keys()].some((kekId) => formatOfKekId(kekId) === 'v3')
  const known = [...groups].filter(([kekId]) => kekId === null || keyring.find(kekId) !== null)
  if (known.length > 0 && !acceptsV2 && !isUpgraded) throw v2NotAccepted()
  const checked = known.map(async ([kekId, samples]) => {
    return { kekId, samples, ...(await checkSamples(keyring, samples, options)) }
  })
  const isEmpty = groups.size === 0 && !tenants.areThere && unsearched.length === 0
  const checkedPrimary = checkPrimary(keyring, groups, { ...options, isEmpty })
  const [failedPrimary, ...results] = await Promise.all([checkedPrimary, ...checked])

  const ofUsers = [...groups.keys()].filter((kekId) => kekId !== null && keyring.find(kekId) === null)
  const unknown = [...new Set([...ofUsers, ...tenants.foreign])]
  for (const { kekId, samples, damaged, failure } of results) {
    if (kekId === null && acceptsV2 && damaged.length === samples.length) unknown.push(null)
    else for (const { userId, version } of damaged) emit({ type: 'damagedKey', userId, version, kekId })
    if (kekId !== null) emitUnavailable(options, kekId, failure)
  }
  emitUnavailable(options, keyring.primary.id, failedPrimary)
  if (unsearched.length > 0) emit(partlyChecked(unsearched))
  if (tenants.missing.length > 0) emit({ type: 'unknownMasterKey', kekIds: tenants.missing })
  if (unknown.length === 0) return
  // The census reads the whole table: only for the message.
  if (!allowUnknown) throw await unknownMasterKeys(store, unknown, tenants.foreign.length > 0)
  emit({ type: 'unknownMasterKey', kekIds: unknown })
}

interface Sampled {
  readonly sampled: readonly KeyRecord[]
  /** Where nobody has looked. */
  readonly unsearched: readonly UnsearchedKeks[]
}

async function sampleStore(store: KeyStore, keyring: MasterKeyring, options: CheckOptions): Promise<Sampled> {
  if (options.wholly !== true) {
    const unsearched: UnsearchedKeks[] = []
    const sampled = await store.sampleByKek(SAMPLES_PER_KEK, {
      kekIds: kekIdsOf(keyring),
      onUnsearched: (part) => void unsearched.push(part),
    })
    if (unsearched.length === 0 || (await anyOpens(keyring, sampled, options))) return { sampled, unsearched }
  }
  return { sampled: await store.sampleByKek(SAMPLES_PER_KEK), unsearched: [] }
}

/** @throws ERR_MASTER_KEY if a master key is wrong */
async function anyOpens(
  keyring: MasterKeyring,
  sampled: readonly KeyRecord[],
  options: CheckOptions,
): Promise<boolean> {
  for (const [kekId, samples] of groupByKek(sampled.filter(isUnderMasterKey))) {
    if (kekId !== null && keyring.find(kekId) === null) continue
    const { damaged, failure } = await checkSamples(keyring, samples, options)
    if (failure === null && damaged.length < samples.length) return true
  }
  return false
}

/** Under which rows of a keyring may be. */
function kekIdsOf({ all }: MasterKeyring): string[] {
  return all.flatMap((key) => (isLocal(key) ? [key.id, key.v2Id] : [key.id]))
}

function partlyChecked(unsearched: readonly UnsearchedKeks[]): KeystoreEvent {
  const kekIds = unsearched.flatMap(({ kekId }) => (kekId === undefined ? [] : [kekId]))
  const others = kekIds.length < unsearched.length
  return { type: 'partlyChecked', kekIds, others }
}

/** What is under tenants' keys says nothing of a master key. Tenants' own rows are looked at apart: there may be a root for each. */
function isUnderMasterKey({ userId, kekId }: KeyRecord): boolean {
  return tenantIdOf(userId) === null && parseTenantKekId(kekId) === null
}

interface CheckOptions {
  readonly acceptKeys: readonly Format[]
  readonly allowUnknown: boolean
  /** Whether users get their first keys here. */
  readonly mints: boolean
  /** Whether to look through the store to the end, however long that takes. Default false. */
  readonly wholly?: boolean
  readonly emit: EmitEvent
}

function emitUnavailable({ emit }: CheckOptions, kekId: string, failure: MasterKeyError | null): void {
  const event = failure === null ? null : unavailableEvent(kekId, failure)
  if (event !== null) emit(event)
}

interface CheckedSamples {
  /** The samples before the first that opens: all of them if none does. */
  readonly damaged: readonly KeyRecord[]
  /** Why the master key could not be asked for more. */
  readonly failure: MasterKeyError | null
}

/** @throws ERR_MASTER_KEY if the master key is wrong */
async function checkSamples(
  keyring: MasterKeyring,
  samples: readonly KeyRecord[],
  { acceptKeys, allowUnknown }: CheckOptions,
): Promise<CheckedSamples> {
  const damaged: KeyRecord[] = []
  for (const sample of samples) {
    try {
      const dataKey = await unwrapDataKey(keyring, sample, acceptKeys)
      dataKey.fill(0)
      return { damaged, failure: null }
    } catch (error) {
      if (isMasterKeyFailure(error) && mayGoOn(error, allowUnknown)) return { damaged, failure: error }
      const code = isKeystoreError(error) ? error.code : null
      if (code !== 'ERR_UNWRAP_FAILED' && code !== 'ERR_FORMAT_NOT_ACCEPTED') throw error
      damaged.push(sample)
    }
  }
  return { damaged, failure: null }
}

/** Whether a master key that has wrapped rows may open them another time: it is not the wrong one. */
function mayGoOn(error: MasterKeyError, allowUnknown: boolean): boolean {
  const reason = reasonOf(error)
  return isOutage(error) || reason === 'denied' || (allowUnknown && reason === 'notFound')
}

/**
 * Has the primary wrap a key and open it, where no row shows that it can: a master key that cannot open what it wraps would else be found by
 * the next process, when there is data under it.
 *
 * @returns why it could not be asked, or may not wrap; null if it works, or need not be asked
 * @throws ERR_MASTER_KEY
 */
async function checkPrimary(
  { primary }: MasterKeyring,
  groups: ReadonlyMap<string | null, unknown>,
  { mints, isEmpty }: CheckOptions & { readonly isEmpty: boolean },
): Promise<MasterKeyError | null> {
  if (isLocal(primary) || groups.has(primary.id)) return null
  const failed = await tryWrapping(primary)
  if (failed === null || isOutage(failed.error)) return failed?.error ?? null
  // Whoever may not wrap can still read what others have wrapped.
  const canWork = failed.step === 'wrap' && reasonOf(failed.error) === 'denied' && (!isEmpty || !mints)
  if (canWork) return failed.error
  throw failed.error
}

/** Names no option for tokens: keys are upgraded without reading any. */
function v2NotAccepted(): KeystoreError {
  return new KeystoreError(
    'ERR_FORMAT_NOT_ACCEPTED',
    "All keys of the store are wrapped in format v2, the Python reference's, which binds no key to its user. If the store is the " +
      "reference's, docs/MIGRATING.md says how to take it over: read them with accept: { keys: ['v2', 'v3'] }, " +
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
  areOfTenants: boolean,
): Promise<MasterKeyError> {
  const counts = new Map<string | null, number>()
  const rootIds = kekIds.filter((kekId) => kekId !== null)
  for (const row of await store.census({ rootIds })) {
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
      'Give the right master key; earlier ones go into API_KEY_MASTER_KEY_PREVIOUS or into the keyring' +
      (areOfTenants ? ", and tenants' own roots are what its `tenantRoot` gives" : ''),
  )
}
