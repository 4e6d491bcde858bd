/** The same data key under another KEK. */
import { isKeystoreError, MasterKeyError } from '../errors.js'
import { equalBytes } from '../format/aead.js'
import type { Format } from '../format/formats.js'
import type { WrapChange } from '../store.js'
import type { KeyRecord } from '../table.js'
import { describeRef, unwrapDataKey, wrapDataKey } from './key-wrap.js'
import type { MasterKeyring } from './keyring.js'
import type { MasterKey } from './master-key.js'

interface Rewrapping {
  /** The key under which the row is, from `kekOf`; null if it was not given. */
  readonly from: MasterKey | null
  /** The formats of wrapped keys that are opened. */
  readonly accept: readonly Format[]
  /** The key under which it is to be, and in which format. */
  readonly to: MasterKey
  readonly format: Format
}

/**
 * Wraps the key of a row under another KEK. The new wrap is unwrapped again before it is given out: a fault of memory, or of a key service,
 * must not cost a user their data.
 *
 * @returns the change for `replaceWrapped`, which is a compare-and-set on the row as it was read
 * @throws ERR_UNWRAP_FAILED (also if the new wrap does not hold the same key) · like `unwrapDataKey` and `wrapDataKey`
 */
export async function rewrapped(
  keyring: MasterKeyring,
  record: KeyRecord,
  { from, accept, to, format }: Rewrapping,
): Promise<WrapChange> {
  const dataKey = await unwrapDataKey(keyring, record, accept, from)
  try {
    const { encryptedKey, kekId } = await wrapDataKey(keyring, record, dataKey, format, to)
    await assertOpens(keyring, { ...record, encryptedKey, kekId }, dataKey, to, format)
    const { userId, version } = record
    return { userId, version, from: record.encryptedKey, encryptedKey, kekId, wrappedAt: new Date() }
  } finally {
    dataKey.fill(0)
  }
}

/**
 * Opens a wrap that was just made.
 *
 * @throws ERR_UNWRAP_FAILED if it does not hold the key · what the KEK throws
 */
export async function assertOpens(
  keyring: MasterKeyring,
  record: KeyRecord,
  dataKey: Uint8Array,
  kek: MasterKey,
  format: Format,
): Promise<void> {
  let again: Uint8Array | undefined
  try {
    again = await unwrapDataKey(keyring, record, [format], kek)
    if (!equalBytes(dataKey, again)) throw wrongWrap(record)
  } catch (error) {
    throw isKeystoreError(error) && error.code === 'ERR_UNWRAP_FAILED' ? wrongWrap(record) : error
  } finally {
    again?.fill(0)
  }
}

function wrongWrap(record: KeyRecord): MasterKeyError {
  return new MasterKeyError(
    'ERR_UNWRAP_FAILED',
    `The new wrap of the key of ${describeRef(record)} does not hold the same key: nothing was written`,
  )
}
