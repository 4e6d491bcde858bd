/** Wrapped keys of format v3 (docs/FORMAT.md, "Wrapped key" and "Wrapped key under a tenant key"). */
import {
  GCM_TAG_BYTES,
  hmacSha256,
  KEY_BYTES,
  type KeyObject,
  XAES_COMMITMENT_BYTES,
  XAES_NONCE_BYTES,
  XaesKey,
} from './aead.js'
import { preAuthEncode } from './encoding.js'

/** Bytes of a wrapped key: `0x03 ‖ nonce[24] ‖ ciphertext[32] ‖ tag[16] ‖ commitment[32]`. */
const V3_WRAP_BYTES = 1 + XAES_NONCE_BYTES + KEY_BYTES + GCM_TAG_BYTES + XAES_COMMITMENT_BYTES

const V3_WRAP_HEADER = Uint8Array.of(0x03)
const WRAP_KEY_LABEL = 'drizzle-keystore/wrap-key/v3'
const TENANT_WRAP_KEY_LABEL = 'drizzle-keystore/tenant-wrap-key/v1'

export function isV3Wrap(wrapped: Uint8Array): boolean {
  return wrapped.length === V3_WRAP_BYTES && wrapped[0] === V3_WRAP_HEADER[0]
}

/** @returns 105 bytes */
export function wrapV3(wrapKey: XaesKey, key: Uint8Array, aad: Uint8Array): Buffer {
  return Buffer.concat([V3_WRAP_HEADER, ...wrapKey.encrypt(key, aad)])
}

/** @returns 32 bytes, the caller's to wipe; null if wrap key, wrapped bytes or aad are others */
export function unwrapV3(wrapKey: XaesKey, wrapped: Uint8Array, aad: Uint8Array): Buffer | null {
  return isV3Wrap(wrapped) ? wrapKey.open(wrapped.subarray(1), aad) : null
}

/** The key that wraps under a local master key. */
export function deriveWrapKey(masterKey: Uint8Array): XaesKey {
  return derived(masterKey, WRAP_KEY_LABEL)
}

/** The key that wraps under one version of a tenant's key. */
export function deriveTenantWrapKey(
  tenantKey: Uint8Array | KeyObject,
  tenantId: string,
  version: number,
): XaesKey {
  return derived(tenantKey, preAuthEncode([TENANT_WRAP_KEY_LABEL, tenantId, String(version)]))
}

function derived(key: Uint8Array | KeyObject, label: string | Uint8Array): XaesKey {
  const wrapKey = hmacSha256(key, label)
  try {
    return new XaesKey(wrapKey)
  } finally {
    wrapKey.fill(0)
  }
}
