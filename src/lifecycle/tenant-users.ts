/** Forgets the users of a tenant that was shredded: nobody can open their rows, and their ids may be personal data. Needs no master key. */
import { KeystoreError, quoted } from '../errors.js'
import { readableRows } from '../key-log/readable-rows.js'
import { tenantKekId } from '../master-keys/tenant-keys.js'
import type { KeyStore } from '../store.js'
import { isTombstone, type KeyRecord, tenantUserId } from '../table.js'
import { type LongWorkOptions, ProgressMeter, pagesOf, versionsOf } from './long-work.js'

interface ForgetUsersOptions extends LongWorkOptions {
  readonly store: KeyStore
  readonly tenantId: string
}

export interface ForgottenUsers {
  /** False if `signal` stopped it: run it again. */
  readonly complete: boolean
  readonly forgotten: number
  /** Users who have keys elsewhere too, or a row that cannot be read. They keep all of their rows. */
  readonly kept: number
}

/**
 * Removes all rows of the users whose every key is under the key of a tenant, which must be shredded. Safe to repeat.
 *
 * @throws ERR_CONFLICT (the tenant has a live key) · ERR_STORE · ERR_CLOSED
 */
export async function forgetUsersOf(options: ForgetUsersOptions): Promise<ForgottenUsers> {
  const { store, tenantId, signal } = options
  const own = await versionsOf(store, tenantUserId(tenantId))
  if (!own.some(isTombstone))
    throw new KeystoreError('ERR_CONFLICT', `The key of tenant ${quoted(tenantId)} is not shredded`)
  const kekIds = own.map(({ version }) => tenantKekId({ tenantId, version }))
  // A tenant whose rows were missing has one tombstone, and its users may be under later versions.
  for (let version = Math.max(...own.map((row) => row.version)) + 1; ; version++) {
    const kekId = tenantKekId({ tenantId, version })
    const users = await store.list({ kekId, limit: 1, onUnreadable: () => undefined })
    if (!users.some((user) => user.kekId === kekId)) break
    kekIds.push(kekId)
  }
  const counts = await store.maintenance?.countUnder(kekIds)
  const total = [...(counts?.values() ?? [])].reduce((sum, count) => sum + count, 0)
  const progress = new ProgressMeter('forgetting users', total, options)
  const isUnderTenant = ({ kekId }: KeyRecord) => kekId !== null && kekIds.includes(kekId)
  const kept = new Set<string>()
  let forgotten = 0
  for (const kekId of kekIds) {
    for await (const page of pagesOf(store, options, { kekId }, () => undefined)) {
      const rows = await readableRows(store, [...new Set(page.map(({ userId }) => userId))])
      for (const [userId, versions] of rows) {
        if (Array.isArray(versions) && versions.every(isUnderTenant)) {
          await store.shred(userId, { forget: true })
          forgotten += 1
        } else kept.add(userId)
      }
      progress.add(page.length)
    }
  }
  return { complete: !signal?.aborted, forgotten, kept: kept.size }
}
