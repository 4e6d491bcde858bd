/** Opens the crypto service for the commands that encrypt or decrypt. Other commands do not load it. */
import { EnvelopeCrypto } from '../envelope/envelope-crypto.js'
import { type MasterKeyring, masterKeyring } from '../master-keys/keyring.js'
import type { KeyStore } from '../store.js'
import { withExistingStore } from './existing-store.js'
import { findMasterKeys } from './master-keys.js'
import { acceptedBesides, type EnvelopeOptions } from './options.js'

/** Opens a store, which must exist, and a service on it, uses the service and closes both. */
export async function withEnvelope<T>(
  options: EnvelopeOptions,
  use: (envelope: EnvelopeCrypto) => Promise<T>,
): Promise<T> {
  const masterKeys = findMasterKeys(options)
  return withExistingStore(options, async (store) => use(await openEnvelope(store, masterKeys, options)))
}

export function openEnvelope(
  store: KeyStore,
  masterKeys: MasterKeyring,
  options: Pick<EnvelopeOptions, 'format' | 'acceptV2' | 'keyLog'>,
): Promise<EnvelopeCrypto> {
  const { format, keyLog } = options
  const { primary, previous } = masterKeys
  // Without it, open refuses a store that has a customer's root which the command was not given. No command makes a tenant's first key.
  const tenantRoot = masterKeys.tenantRoot ?? (() => null)
  const formats = acceptedBesides(options)
  return EnvelopeCrypto.open({
    store,
    masterKeys: masterKeyring({ primary, previous, tenantRoot }),
    ...(format === undefined ? {} : { format }),
    ...(keyLog === undefined ? {} : { keyLog }),
    accept: { keys: formats, tokens: formats },
  })
}
