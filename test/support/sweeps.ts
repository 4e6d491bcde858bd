/** A service whose values are swept, the sweep with its usual options, and the counts of its report. */
import { randomBytes } from 'node:crypto'
import { type EnvelopeCrypto, type KeyStore, type KeystoreEvent, localMasterKey } from '../../src/index.js'
import {
  type LegacyReader,
  type ReencryptOptions,
  type ReencryptReport,
  reencrypt,
  type ValueSource,
} from '../../src/reencrypt/index.js'
import { type Backend, freshStore } from './fresh-store.js'
import { ACCEPT_V2 } from './tokens.js'

/** The context that sweeps bring all values to. */
export const CONTEXT = 'credentials.api_key'

/** The counts of a report that has found nothing. */
export const NO_VALUES = {
  current: 0,
  oldVersion: 0,
  oldContext: 0,
  v2: 0,
  plaintext: 0,
  unopenable: 0,
  shredded: 0,
  staleFingerprint: 0,
  empty: 0,
}

/** A reader of another library's values: base64 behind a prefix. */
export const base64Reader: LegacyReader = {
  name: 'base64',
  test: (value) => value.startsWith('b64:'),
  decrypt: (value) => Buffer.from(value.slice(4), 'base64').toString(),
}

export interface SweepTest {
  readonly store: KeyStore
  /** The bytes of the master key. */
  readonly masterBytes: Uint8Array
  readonly envelope: EnvelopeCrypto
  /** The events of {@link envelope}. */
  readonly events: readonly KeystoreEvent[]
  /** Another service with the same master key, on the same store unless told otherwise. */
  open(store?: KeyStore): Promise<EnvelopeCrypto>
  /** A service with the same master key, in the reference's format. */
  openV2(): Promise<EnvelopeCrypto>
  /** {@link reencrypt} with {@link envelope} and {@link CONTEXT}, unless told otherwise. */
  sweep<Row>(
    source: ValueSource<Row>,
    options?: Partial<ReencryptOptions<NoInfer<Row>>>,
  ): Promise<ReencryptReport>
  decrypt(userId: string, token: unknown): Promise<string>
  remove(): Promise<void>
}

export async function freshSweep(backend: Backend): Promise<SweepTest> {
  const fresh = await freshStore(backend)
  const masterBytes = randomBytes(32)
  const masterKeys = localMasterKey(masterBytes)
  const events: KeystoreEvent[] = []
  const open = (store = fresh.store) =>
    fresh.open({ store, masterKeys, accept: ACCEPT_V2, onEvent: (event) => events.push(event) })
  const envelope = await open()
  return {
    store: fresh.store,
    masterBytes,
    envelope,
    events,
    open,
    openV2: () => fresh.openV2({ masterKeys }),
    sweep: (source, options = {}) => reencrypt({ envelope, source, context: CONTEXT, ...options }),
    decrypt: (userId, token) => envelope.decrypt(userId, String(token), { column: CONTEXT }),
    remove: () => fresh.remove(),
  }
}
