/** Wraps a tenant's own key under another root. */
import { isKeystoreError, KeystoreError, MasterKeyError, StoreError } from '../errors.js'
import { reasonOf } from '../master-keys/failure.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import type { MasterKey } from '../master-keys/master-key.js'
import { rewrapped } from '../master-keys/rewrapped.js'
import { rootOf } from '../master-keys/tenant-keys.js'
import type { KeyStore, WrapChange } from '../store.js'
import type { KeyRecord } from '../table.js'
import { liveTenantRows, timeAfter } from './tenant-rows.js'

/** Each pass reads the rows again: versions that another process makes meanwhile are moved too. */
const MAX_PASSES = 5

/**
 * Moves all versions of a tenant's key. Nothing of the tenant's users is touched.
 *
 * @param moved gets the versions that were moved, also before an error
 * @throws ERR_KEY_NOT_FOUND · ERR_KEY_SHREDDED · ERR_STORE · what either root throws, and then the message says which versions are not moved
 */
export async function moveTenantRows(
  store: KeyStore,
  keyring: MasterKeyring,
  tenantId: string,
  root: MasterKey,
  moved: Set<number>,
): Promise<void> {
  for (let pass = 0; ; pass++) {
    const left = (await liveTenantRows(store, tenantId)).filter(({ kekId }) => kekId !== root.id)
    if (left.length === 0) return
    if (pass === MAX_PASSES) throw notMoved(left, changedAgain())
    const changes = await Promise.allSettled(left.map((row) => changeTo(root, row, keyring)))
    const made = changes.flatMap((change) => (change.status === 'fulfilled' ? change.value : []))
    for (const { version } of await store.replaceWrapped(made)) moved.add(version)
    const failure = changes.find((change) => change.status === 'rejected')
    if (failure !== undefined)
      throw notMoved(
        left.filter(({ version }) => !moved.has(version)),
        failure.reason,
      )
  }
}

async function changeTo(root: MasterKey, row: KeyRecord, keyring: MasterKeyring): Promise<WrapChange> {
  const from = await rootOf(keyring, row)
  const change = await rewrapped(keyring, row, { from, accept: ['v3'], to: root, format: 'v3' })
  return { ...change, wrappedAt: timeAfter(row) }
}

function changedAgain(): StoreError {
  return new StoreError('other processes changed them again and again', { retryable: true })
}

/** @returns an error of the same code as `reason` */
function notMoved(left: readonly KeyRecord[], reason: unknown): unknown {
  if (!isKeystoreError(reason)) return reason
  const versions = left.map(({ version }) => version).join(', ')
  const message = `Not all versions of the tenant's key were moved (left where they were, and still open there: ${versions}): ${reason.message}`
  const { code, retryable } = reason
  if (code === 'ERR_MASTER_KEY' || code === 'ERR_UNKNOWN_MASTER_KEY' || code === 'ERR_UNWRAP_FAILED')
    return new MasterKeyError(code, message, { reason: reasonOf(reason), retryable, cause: reason })
  return new KeystoreError(code, message, { retryable, cause: reason })
}
