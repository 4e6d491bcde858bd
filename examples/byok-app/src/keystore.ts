/** The key store, in the same database, and the service that encrypts. */
import { EnvelopeCrypto, type KeyStore, type MasterKeyring, masterKeysFromEnv } from 'drizzle-keystore'
import { openKeyStore } from 'drizzle-keystore/open'
import type { Config } from './config.js'
import { log } from './log.js'

export interface Keystore {
  readonly envelope: EnvelopeCrypto
  /** For the operator's page: the store below the service, and the master keys. */
  readonly store: KeyStore
  readonly masterKeys: MasterKeyring
}

/**
 * Master keys first: without one, nothing is made and the start ends with the next command in the message. The same holds for a store that
 * is not there (`migrate: 'check'`), so that a mistyped URL does not begin an empty one.
 */
export async function openKeystore(
  { databaseUrl, keyLog }: Config,
  env: NodeJS.ProcessEnv,
): Promise<Keystore> {
  const masterKeys = masterKeysFromEnv(env)
  const store = await openKeyStore(databaseUrl, { migrate: 'check' })
  const envelope = await EnvelopeCrypto.open({
    store,
    masterKeys,
    ...(keyLog !== undefined && { keyLog }),
    onEvent(event) {
      // Ids and counts; the events that somebody should look at.
      if (event.type === 'keysLost') log('keystore.keysLost', { count: event.count })
      if (event.type === 'damagedKey' || event.type === 'decryptFailed')
        log(`keystore.${event.type}`, { user: event.userId, version: event.version })
      if (event.type === 'masterKeyUnavailable')
        log('keystore.masterKeyUnavailable', { reason: event.reason })
      if (event.type === 'shredded') log('keystore.shredded', { user: event.userId, erased: event.erased })
    },
  })
  return { envelope, store, masterKeys }
}
