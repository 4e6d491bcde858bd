/** Opens the crypto service for the commands that encrypt or decrypt. Other commands do not load it. */
import { EnvelopeCrypto } from '../envelope/envelope-crypto.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import type { KeyStore } from '../store.js'
import { withExistingStore } from './existing-store.js'
import { findMasterKeys } from './master-keys.js'
import { acceptedBesides, type EnvelopeOptions } from './options.js'

/** Opens a store, which must exist, and a service on it, uses the service and closes both. @param mints whether a first key may be made */
export async function withEnvelope<T>(
  options: EnvelopeOptions,
  use: (envelope: EnvelopeCrypto, store: KeyStore) => Promise<T>,
  { mints }: { readonly mints: boolean },
): Promise<T> {
  const masterKeys = findMasterKeys(options)
  const open = mints ? openEnvelope : openForStoredKeys
  return withExistingStore(options, async (store) => use(await open(store, masterKeys, options), store))
}

type Options = Pick<EnvelopeOptions, 'format' | 'acceptV2' | 'keyLog'>

export function openEnvelope(
  store: KeyStore,
  masterKeys: MasterKeyring,
  options: Options,
): Promise<EnvelopeCrypto> {
  return open(store, masterKeys, options, false)
}

/**
 * For a command that makes no first key. Tenants' roots are not its matter, but for those that it needs: where no user is under another master
 * key, it opens a store whose tenants all have roots of their own, which `open` would take for one of other master keys.
 */
export async function openForStoredKeys(
  store: KeyStore,
  masterKeys: MasterKeyring,
  options: Options,
): Promise<EnvelopeCrypto> {
  // The check of `open` says what was not looked at.
  const samples = await store.sampleByKek(1, {
    kekIds: masterKeys.all.map(({ id }) => id),
    onUnsearched: () => undefined,
  })
  const areKnown = samples.every(({ kekId }) => kekId !== null && masterKeys.find(kekId) !== null)
  return open(store, masterKeys, options, areKnown)
}

function open(
  store: KeyStore,
  masterKeys: MasterKeyring,
  options: Options,
  allowUnknownMasterKeys: boolean,
): Promise<EnvelopeCrypto> {
  const { format, keyLog } = options
  const formats = acceptedBesides(options)
  return EnvelopeCrypto.open({
    store,
    masterKeys,
    allowUnknownMasterKeys,
    ...(format === undefined ? {} : { format }),
    ...(keyLog === undefined ? {} : { keyLog }),
    accept: { keys: formats, tokens: formats },
  })
}
