/**
 * What drizzle-keystore calls. It is no interface for applications: it checks types and lengths, and leaves to drizzle-keystore what users, contexts
 * and limits are. It changes with {@link interfaceVersion}, not with the version of the package.
 */

/** drizzle-keystore uses the addon only if this is the number that it knows. */
export const interfaceVersion: number
/** The version of the process's OpenSSL, such as `3.0.19`. */
export const openssl: string

/**
 * One set of classes with nonces of its own, for the thread that calls it. It lives as long as the thread: call it once.
 *
 * @param randomBytes gives 24 to 65,536 random bytes, fresh in each call. They become nonces, each byte once, within a second
 */
export function createCore(randomBytes: () => Uint8Array): NativeCore

export interface NativeCore {
  /** @param aad what tokens are bound to that are sealed or opened without one */
  readonly V3Key: new (
    key: Uint8Array,
    aad?: Uint8Array,
  ) => V3Key
  readonly V2Key: new (key: Uint8Array) => V2Key
  /**
   * The version of the key that a whole token names (v2: 1); 0 if the text is malformed as a token.
   *
   * @param ticket a number that no other call of this core gets, 0 for none: the call that opens the token with the same ticket need not decode it again
   */
  versionOf(token: string, ticket: number): number
  /** Throws away the random bytes that are left. */
  forgetNonces(): void
}

/** A key of 32 bytes, copied, for tokens or wraps of format v3. */
export interface V3Key {
  /** @returns null for a string with a lone surrogate */
  sealToken(version: number, plaintext: string | Uint8Array, aad?: Uint8Array): string | null
  /** @param ticket of `versionOf`, or 0 @returns null if the token is malformed, of another key or AAD, or was changed */
  openToken(token: string, ticket: number, aad?: Uint8Array): Buffer | null
  /** @returns also undefined: the bytes are authentic, and not UTF-8 */
  openTokenText(token: string, ticket: number, aad?: Uint8Array): string | null | undefined
  /** @param key at most 1,024 bytes */
  wrap(key: Uint8Array, aad: Uint8Array): Buffer
  /** @returns 32 bytes; null if `wrapped` is no wrap of such, is of another key or AAD, or was changed */
  unwrap(wrapped: Uint8Array, aad: Uint8Array): Buffer | null
}

/** A key of 32 bytes, copied, of format v2: the same without AAD. */
export interface V2Key {
  sealToken(plaintext: string | Uint8Array): string | null
  openToken(token: string, ticket: number): Buffer | null
  openTokenText(token: string, ticket: number): string | null | undefined
  wrap(key: Uint8Array): Buffer
  unwrap(wrapped: Uint8Array): Buffer | null
}
