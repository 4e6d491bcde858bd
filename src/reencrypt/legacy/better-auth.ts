/** Reads what Better Auth encrypted: `symmetricEncrypt` of better-auth/crypto. */
import { invalidArgument } from '../../errors.js'
import { sha256 } from '../../format/aead.js'
import { kindOf, ownOptions } from '../../validate.js'
import { assertSecret, isHex, type LegacyReader, legacyFailure, legacyText } from './reader.js'

/** The secrets of Better Auth's own options of these names. */
export interface BetterAuthReaderOptions {
  /** `secret`, or BETTER_AUTH_SECRET: opens values without a key id. */
  readonly secret?: string
  /** `secrets`, or BETTER_AUTH_SECRETS: each opens values with its version as key id (`$ba$2$…`). */
  readonly secrets?: readonly { readonly version: number; readonly value: string }[]
}

const NAME = 'better-auth'
/** `$ba$<version>$<hex>`, as formatEnvelope of better-auth/crypto writes it. */
export const BETTER_AUTH_ENVELOPE = /^\$ba\$(\d+)\$([^$]*)$/
const NONCE_BYTES = 24
const TAG_BYTES = 16

/**
 * Reads values of Better Auth's `symmetricEncrypt`: OAuth tokens with `encryptOAuthTokens`, secrets and backup codes of two-factor, private
 * keys of the JWT plugin (which are in quotes), in the form without a key id and in that with one (`$ba$2$…`).
 *
 * The format is XChaCha20-Poly1305, which authenticates: a value that was changed, or whose secret is not given, is an error. Text of 80
 * or more hexadecimal digits counts as Better Auth's, so such a plaintext is reported, too. Needs the package `@noble/ciphers`, which
 * Better Auth itself uses.
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * await reencrypt({ envelope, source, legacy: [betterAuthReader({ secret: process.env.BETTER_AUTH_SECRET })] })
 */
export function betterAuthReader(options: BetterAuthReaderOptions): LegacyReader {
  const { secret, secrets = [] } = ownOptions(options)
  if (!Array.isArray(secrets)) throw invalidArgument(`secrets must be an array, got ${kindOf(secrets)}`)
  if (secret === undefined && secrets.length === 0)
    throw invalidArgument("betterAuthReader needs Better Auth's secret or secrets")
  const keys = new Map<number | null, Buffer>()
  if (secret !== undefined) keys.set(null, keyOf('secret', secret))
  for (const entry of secrets) {
    const { version, value } = ownOptions(entry, 'an entry of secrets')
    if (!Number.isSafeInteger(version) || version < 0)
      throw invalidArgument('version of an entry of secrets must be a whole number, 0 or more')
    if (keys.has(version)) throw invalidArgument(`secrets has version ${version} twice`)
    keys.set(version, keyOf('value of an entry of secrets', value))
  }
  return {
    name: NAME,
    test: (value) => parsed(value) !== null,
    async decrypt(value) {
      const { version, hex } = parsed(value) ?? { version: null, hex: '' }
      const key = keys.get(version)
      if (key === undefined) throw legacyFailure(NAME, `no secret was given ${forValuesOf(version)}`)
      if (!isWhole(hex)) throw legacyFailure(NAME, 'it was cut or changed')
      return legacyText(NAME, open(await loadCipher(), key, Buffer.from(hex, 'hex')))
    },
  }
}

/** Better Auth's key is SHA-256 of the secret. */
function keyOf(name: string, secret: unknown): Buffer {
  assertSecret(name, secret)
  return sha256([secret])
}

/** @returns null if Better Auth does not write such a value. One with a key id may still be damaged. */
function parsed(value: string): { readonly version: number | null; readonly hex: string } | null {
  // The JWT plugin stores JSON.stringify(ciphertext).
  const text = /^"([^"\\]*)"$/.exec(value)?.[1] ?? value
  const [, version, hex] = BETTER_AUTH_ENVELOPE.exec(text) ?? []
  if (version !== undefined && hex !== undefined) return { version: Number(version), hex }
  return isWhole(text) ? { version: null, hex: text } : null
}

function isWhole(hex: string): boolean {
  return isHex(hex) && hex.length >= 2 * (NONCE_BYTES + TAG_BYTES)
}

function forValuesOf(version: number | null): string {
  return version === null ? 'for values without a key id (secret)' : `of version ${version} (secrets)`
}

/** What is used of @noble/ciphers (an optional peer), taken structurally. */
interface Cipher {
  xchacha20poly1305(key: Uint8Array, nonce: Uint8Array): { decrypt(sealed: Uint8Array): Uint8Array }
}

/** node:crypto has ChaCha20-Poly1305, but not its variant with the long nonce. @throws ERR_INVALID_ARGUMENT if it is not installed */
async function loadCipher(): Promise<Cipher> {
  try {
    // Not for bundlers to follow: who reads no values of Better Auth has no such package.
    return await import(/* webpackIgnore: true */ /* @vite-ignore */ '@noble/ciphers/chacha.js')
  } catch {
    throw invalidArgument(
      'Values of Better Auth need the package @noble/ciphers, version 2 or later: npm install @noble/ciphers',
    )
  }
}

/** `nonce[24] ‖ ciphertext ‖ tag[16]` (draft-irtf-cfrg-xchacha-03 §2). @returns null if it does not decrypt */
function open({ xchacha20poly1305 }: Cipher, key: Buffer, sealed: Buffer): Buffer | null {
  try {
    const plaintext = xchacha20poly1305(key, sealed.subarray(0, NONCE_BYTES)).decrypt(
      sealed.subarray(NONCE_BYTES),
    )
    return Buffer.from(plaintext.buffer, plaintext.byteOffset, plaintext.byteLength)
  } catch {
    // The library's error is left out: it may tell of the value.
    return null
  }
}
