/** Keys that wrap keys, in format v3 (docs/FORMAT.md, "Wrapped key" and "Wrapped key under a tenant key"). */
import { hmacSha256, type KeyObject } from './aead.js'
import { currentCore } from './chosen-core.js'
import type { V3Key } from './core.js'
import { preAuthEncode } from './encoding.js'

const WRAP_KEY_LABEL = 'drizzle-keystore/wrap-key/v3'
const TENANT_WRAP_KEY_LABEL = 'drizzle-keystore/tenant-wrap-key/v1'

/** The key that wraps under a local master key. */
export function deriveWrapKey(masterKey: KeyObject): V3Key {
  return currentCore().v3Key(() => hmacSha256(masterKey, WRAP_KEY_LABEL))
}

/** The key that wraps under one version of a tenant's key. */
export function deriveTenantWrapKey(tenantKey: KeyObject, tenantId: string, version: number): V3Key {
  return currentCore().v3Key(() =>
    hmacSha256(tenantKey, preAuthEncode([TENANT_WRAP_KEY_LABEL, tenantId, String(version)])),
  )
}
