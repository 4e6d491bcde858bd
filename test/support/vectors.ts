/** The frozen files of test/vectors, typed. */
import { readFileSync } from 'node:fs'
import type { NormalizeStep } from '../../src/format/fingerprint.js'

interface Sealed {
  readonly plaintext: string
  readonly token: string
}

export interface ReferenceVectors {
  readonly master_key_b64: string
  readonly pool_key_hex: string
  readonly users: readonly {
    readonly user_id: string
    readonly key_hex: string
    readonly tokens: readonly Sealed[]
  }[]
  readonly pool_tokens: readonly Sealed[]
  readonly hashes: readonly { readonly api_key: string; readonly sha256_hex: string }[]
  readonly is_encrypted: readonly { readonly value: string; readonly result: boolean }[]
  readonly resolve_master_key: readonly {
    readonly case: string
    readonly value: string | null
    readonly result_hex: string | null
  }[]
  readonly bad_tokens: readonly {
    readonly case: string
    readonly user_id: string
    readonly token: string
    readonly python_raises: 'ValueError' | 'InvalidTag'
  }[]
  readonly no_prefix: Sealed & { readonly user_id: string }
}

/** A data key, and its wrap under the master key of the vectors. Bytes are in hex. */
export interface V3Wrap {
  readonly user: string
  readonly version: number
  readonly dek: string
  readonly nonce: string
  readonly aad: string
  readonly wrapped: string
}

/** A token, with every intermediate value. Bytes are in hex. */
export interface V3Token {
  readonly user: string
  readonly version: number
  readonly context: Readonly<Record<string, string>>
  readonly token_key: string
  readonly nonce: string
  readonly aad: string
  readonly plaintext?: string | { readonly repeat: string; readonly count: number }
  /** In place of `plaintext`, where it is no text. */
  readonly plaintext_hex?: string
  readonly token: string | { readonly sha256: string }
}

export interface V3Vectors {
  readonly master_key: string
  readonly kek_id: string
  readonly wrap_key: string
  readonly wraps: readonly V3Wrap[]
  readonly tokens: readonly V3Token[]
  readonly fingerprints: readonly {
    readonly user: string
    readonly name: string
    readonly value: string
    readonly fingerprint: string
  }[]
  readonly invalid_tokens: readonly {
    readonly what: string
    readonly user: string
    readonly version: number
    readonly context: Readonly<Record<string, string>>
    readonly token: string
    readonly error: string
  }[]
  readonly invalid_wraps: readonly {
    readonly what: string
    readonly user: string
    readonly version: number
    readonly kek_id: string | null
    readonly wrapped: string
    readonly error: string
  }[]
}

export interface TenantVectors {
  readonly master_key: string
  readonly kek_id: string
  /** Tenants' own keys, wrapped under the master key. Bytes are in hex. */
  readonly tenants: readonly {
    readonly tenant: string
    readonly version: number
    readonly user_id: string
    readonly kek_id: string
    readonly kek: string
    readonly nonce: string
    readonly aad: string
    readonly wrapped: string
  }[]
  /** Users' data keys, wrapped under those. `tenant` is the tenant's id. */
  readonly users: readonly (V3Wrap & {
    readonly tenant: string
    readonly kek_id: string
    readonly wrap_key: string
  })[]
  /** Also those under version 1 with the label of later ones, which nobody writes. */
  readonly fingerprints: readonly {
    readonly user: string
    readonly version: number
    readonly dek: string
    readonly name: string
    readonly value: string
    readonly fingerprint: string
  }[]
}

/** Fingerprints under every version, with and without `normalize` and `bits`. Bytes are in hex. */
export interface FingerprintVectors {
  readonly fingerprints: readonly {
    readonly user: string
    readonly version: number
    readonly dek: string
    readonly name: string
    readonly normalize?: readonly NormalizeStep[]
    readonly bits?: number
    readonly value: string
    readonly key: string
    readonly fingerprint: string
  }[]
}

export interface XaesVectors {
  readonly vectors: readonly {
    readonly key: string
    readonly nonce: string
    readonly derived_key: string
    readonly plaintext: string
    readonly aad: string
    readonly ciphertext: string
    readonly tag: string
    readonly commitment: string
  }[]
  readonly accumulated: Readonly<Record<'10000' | '1000000', string>>
}

export const referenceVectors = (): ReferenceVectors => read('reference.json')
export const v3Vectors = (): V3Vectors => read('v3.json')
export const tenantVectors = (): TenantVectors => read('tenants.json')
export const fingerprintVectors = (): FingerprintVectors => read('fingerprints.json')
export const xaesVectors = (): XaesVectors => read('xaes-256-gcm.json')

function read<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(`../vectors/${name}`, import.meta.url), 'utf8')) as T
}

export const fromHex = (hex: string): Buffer => Buffer.from(hex, 'hex')
