/** A key service that fails: no error, event or warning of the service that uses it holds a secret, whatever the provider was told. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { EnvelopeCrypto, type KeyStore, type KeystoreEvent } from '../../src/index.js'
import { errorOf } from '../support/errors.js'
import { providers, type StartedProvider } from '../support/kms-providers.js'
import type { Fault } from '../support/kms-server.js'
import { expectWithout, secretForms, textForms } from '../support/leaks.js'
import { warningsOf } from '../support/warnings.js'

const PLAINTEXT = 'sk-a-plaintext-that-nobody-may-see'
const FAULTS: readonly Fault[] = ['deny', 'throttle', 'notFound', 'outage', 'cut', 'garbage', 'otherKey']

describe.each(providers)('$name', ({ start, secrets }) => {
  let started: StartedProvider
  let store: KeyStore
  beforeEach(async () => {
    started = await start()
    store = memoryKeyStore()
  })
  afterEach(async () => {
    await store.close()
    await started.server.close()
  })

  it.each(FAULTS)('%s', async (fault) => {
    const events: KeystoreEvent[] = []
    const open = () =>
      EnvelopeCrypto.open({
        store,
        masterKeys: started.key(2000),
        closeStore: false,
        onEvent: (event) => events.push(event),
      })
    const writer = await open()
    const token = await writer.encrypt('alice', PLAINTEXT)
    const envelope = await open()
    const rows = await store.list({ limit: 1 })
    started.server.fault = fault
    const errors: Error[] = []
    const warnings = await warningsOf(async () => {
      errors.push(await errorOf(envelope.decrypt('alice', token)))
      // One that lies makes a wrap all the same, if its answer names no key.
      await envelope.encrypt('bob', PLAINTEXT).catch((error) => errors.push(error))
      await open().catch((error) => errors.push(error))
    })
    expect(errors.length).toBeGreaterThan(0)
    const hidden = [
      ...[PLAINTEXT, token, ...secrets].flatMap(textForms),
      ...rows.flatMap(({ encryptedKey }) => secretForms(encryptedKey)),
    ]
    for (const shown of [...errors, ...events, ...warnings]) expectWithout(hidden, shown)
    await Promise.all([writer.close(), envelope.close()])
  })
})
