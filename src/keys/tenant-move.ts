/** Wraps a tenant's own key under another root. */
import {
  invalidArgument,
  isKeystoreError,
  KeystoreError,
  MasterKeyError,
  printable,
  quoted,
  StoreError,
} from '../errors.js'
import { reasonOf } from '../master-keys/failure.js'
import { unwrapDataKey } from '../master-keys/key-wrap.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import type { MasterKey } from '../master-keys/master-key.js'
import { rewrapped } from '../master-keys/rewrapped.js'
import { findRoot, rootsOf } from '../master-keys/tenant-roots.js'
import { isOutside, strayVersion } from '../master-keys/tenant-versions.js'
import type { KeyStore, WrapChange } from '../store.js'
import type { KeyRecord } from '../table.js'
import { liveTenantRows, timeAfter } from './tenant-rows.js'

/** Each pass reads the rows again: versions that another process makes meanwhile are moved too. */
const MAX_PASSES = 5

/**
 * Moves all versions of a tenant's key. Nothing of the tenant's users is touched.
 *
 * @param moved gets the versions that were moved, also before an error
 * @throws ERR_INVALID_ARGUMENT (the keyring's `tenantRoot` does not give `root`) · ERR_CONFLICT (a version may be planted) · ERR_KEY_NOT_FOUND ·
 *   ERR_KEY_SHREDDED · ERR_STORE · ERR_UNWRAP_FAILED (all versions are there already, and it is another key of the same id) · what either
 *   root throws, and then the message says which versions are not moved
 */
export async function moveTenantRows(
  store: KeyStore,
  keyring: MasterKeyring,
  tenantId: string,
  root: MasterKey,
  moved: Set<number>,
): Promise<void> {
  const roots = await rootsOf(keyring, tenantId)
  if (keyring.tenantRoot !== null && findRoot(roots, { kekId: root.id }) === null)
    throw notGiven(tenantId, root)
  for (let pass = 0; ; pass++) {
    const rows = await liveTenantRows(store, tenantId)
    const left = rows.filter(({ kekId }) => kekId !== root.id)
    if (left.length === 0) {
      if (moved.size === 0) await assertSameRoot(keyring, rows.at(-1) as KeyRecord, root)
      return
    }
    for (const row of left) if (isOutside(row, rows, roots)) throw strayVersion(row)
    if (pass === MAX_PASSES) throw notMoved(left, changedAgain())
    const changes = await Promise.allSettled(
      left.map((row) => changeTo(root, row, keyring, findRoot(roots, row))),
    )
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

async function changeTo(
  root: MasterKey,
  row: KeyRecord,
  keyring: MasterKeyring,
  from: MasterKey | null,
): Promise<WrapChange> {
  const change = await rewrapped(keyring, row, { from, accept: ['v3'], to: root, format: 'v3' })
  return { ...change, wrappedAt: timeAfter(row) }
}

/** Another key may have the same id: whoever named it wants the tenant there, and it is not. */
async function assertSameRoot(keyring: MasterKeyring, row: KeyRecord, root: MasterKey): Promise<void> {
  const key = await unwrapDataKey(keyring, row, ['v3'], root)
  key.fill(0)
}

function notGiven(tenantId: string, { id }: MasterKey): KeystoreError {
  return invalidArgument(
    `tenantRoot of tenant ${quoted(tenantId)} does not give the root ${printable(id)}, so its users would not open any more: have it give ` +
      'masterKeyring({ primary: newRoot, previous: [root] }) in every process first',
  )
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
