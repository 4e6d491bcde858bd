// The keyring of an application whose tenants each have a root of their own in the service of test/support/root-service.ts. A user's id is
// its tenant's id, a slash and a name.
import { localMasterKey, MasterKeyError, masterKeyring } from '../../dist/index.js'

/** So long that a busy machine does not look like an outage. */
const LIMIT_MS = 3000

/** @param primary the application's own master key, as text */
export function tenantKeyring(primary, url) {
  const roots = new Map()
  return masterKeyring({
    primary: localMasterKey(primary),
    tenantOf: (userId) => userId.slice(0, userId.indexOf('/')),
    tenantRoot: (tenantId) => {
      if (!roots.has(tenantId)) roots.set(tenantId, root(url, tenantId))
      return roots.get(tenantId)
    },
  })
}

function root(url, tenantId) {
  const id = `root:${tenantId}`
  return {
    id,
    timeLimitMs: LIMIT_MS,
    wrap: (dataKey, aad, owner) => ask('wrap', dataKey, aad, owner),
    unwrap: (wrapped, aad, owner) => ask('unwrap', wrapped, aad, owner),
  }

  async function ask(operation, bytes, aad, owner) {
    if (owner.tenantId !== tenantId) throw new Error(`the root of ${tenantId} was asked for another owner`)
    const body = JSON.stringify({ bytes: base64(bytes), aad: base64(aad) })
    const response = await fetch(`${url}/${encodeURIComponent(tenantId)}/${operation}`, {
      method: 'POST',
      body,
      // A request that is never answered would keep the process.
      signal: AbortSignal.timeout(2 * LIMIT_MS),
    })
    if (response.status === 403)
      throw new MasterKeyError('ERR_MASTER_KEY', `${id} denied`, { reason: 'denied' })
    if (response.status === 400) throw new MasterKeyError('ERR_UNWRAP_FAILED', `${id} did not open it`)
    return Buffer.from(await response.text(), 'base64')
  }
}

function base64(bytes) {
  return Buffer.from(bytes).toString('base64')
}
