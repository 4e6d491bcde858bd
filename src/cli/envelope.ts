/** The crypto service, for the commands that encrypt or decrypt: the others do not load it. */
import { EnvelopeCrypto } from '../envelope/envelope-crypto.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import type { KeyStore } from '../store.js'
import { findMasterKeys } from './master-keys.js'
import { closing, type EnvelopeOptions, openStore } from './options.js'

/** Opens store and service, and closes both after `work`. */
export async function withEnvelope<T>(
  options: EnvelopeOptions,
  work: (envelope: EnvelopeCrypto) => Promise<T>,
): Promise<T> {
  const masterKeys = findMasterKeys(options)
  return closing(await openStore(options), async (store) =>
    work(await openEnvelope(store, masterKeys, options)),
  )
}

export function openEnvelope(
  store: KeyStore,
  masterKeys: MasterKeyring,
  { format, acceptV2 }: Pick<EnvelopeOptions, 'format' | 'acceptV2'>,
): Promise<EnvelopeCrypto> {
  return EnvelopeCrypto.open({
    store,
    masterKeys,
    ...(format === undefined ? {} : { format }),
    ...(acceptV2 ? { accept: { keys: ['v2'], tokens: ['v2'] } } : {}),
  })
}
