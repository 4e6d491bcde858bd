/** The rows of a tenant's own key, as they stand: what needs them and no open key. */
import { describeUser, keyShredded } from '../errors.js'
import type { KeyStore } from '../store.js'
import { isTombstone, type KeyRecord, tenantUserId } from '../table.js'
import { notFound } from './missing.js'

/** All versions, ascending. @throws ERR_KEY_NOT_FOUND · ERR_KEY_SHREDDED · ERR_STORE */
export async function liveTenantRows(store: KeyStore, tenantId: string): Promise<readonly KeyRecord[]> {
  const userId = tenantUserId(tenantId)
  const rows = (await store.getAll([userId])).get(userId) ?? []
  if (rows.some(isTombstone)) throw keyShredded(userId)
  if (rows.length === 0) throw notFound(`There is no key of ${describeUser(userId)}`, false)
  return rows
}

/**
 * Writes a tenant's rows again as they are, which stores announce: every process forgets the tenant's key. Asks no root.
 *
 * @returns the rows as they were
 * @throws ERR_KEY_NOT_FOUND · ERR_KEY_SHREDDED · ERR_STORE
 */
export async function evictTenantRows(store: KeyStore, tenantId: string): Promise<readonly KeyRecord[]> {
  const rows = await liveTenantRows(store, tenantId)
  // A row that somebody changes first is read again by everybody for that reason.
  await store.replaceWrapped(
    rows.map((row) => ({ ...row, from: row.encryptedKey, wrappedAt: timeAfter(row) })),
  )
  return rows
}

/** A time that tells the row from what it was, also after another process with a clock of its own has written it. */
export function timeAfter({ wrappedAt }: KeyRecord): Date {
  return new Date(Math.max(Date.now(), (wrappedAt?.getTime() ?? 0) + 1))
}
