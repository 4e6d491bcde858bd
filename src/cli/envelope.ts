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
  { mints }: { readonly mints: boolean },
): Promise<T> {
  const found = findMasterKeys(options)
  const masterKeys = mints ? found : forStoredKeys(found)
  return withExistingStore(options, async (store) => use(await openEnvelope(store, masterKeys, options)))
}

export function openEnvelope(
  store: KeyStore,
  masterKeys: MasterKeyring,
  options: Pick<EnvelopeOptions, 'format' | 'acceptV2' | 'keyLog'>,
): Promise<EnvelopeCrypto> {
  const { format, keyLog } = options
  const formats = acceptedBesides(options)
  return EnvelopeCrypto.open({
    store,
    masterKeys,
    ...(format === undefined ? {} : { format }),
    ...(keyLog === undefined ? {} : { keyLog }),
    accept: { keys: formats, tokens: formats },
  })
}

/**
 * The keyring of a command that makes no first key. With another one, `open` takes a store all of whose tenants have roots of their own for one
 * of other master keys, and refuses it before a key is made under the wrong one.
 */
export function forStoredKeys({ primary, previous }: MasterKeyring): MasterKeyring {
  return masterKeyring({ primary, previous, tenantRoot: () => null })
}
