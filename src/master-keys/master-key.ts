/** Master keys (KEKs): they wrap data keys and encrypt nothing else. What a key management service has to offer. */

/**
 * A holder of one KEK: this process, or a key management service. Its methods throw; they never return null.
 */
export interface MasterKey {
  /** Permanent, and recorded as `kek_id` in each row it wrapped. */
  readonly id: string
  /** The longest time in milliseconds that one call may take. After it the caller gets ERR_MASTER_KEY, retryable. Default 5000. */
  readonly timeLimitMs?: number
  /**
   * @param dataKey 32 bytes
   * @param aad binds the result to its row; unwrap needs the same bytes
   * @throws MasterKeyError
   */
  wrap(dataKey: Uint8Array, aad: Uint8Array): Promise<Uint8Array> | Uint8Array
  /**
   * @returns a new array each time: the caller wipes it
   * @throws MasterKeyError `ERR_UNWRAP_FAILED` if key, wrapped bytes or aad are others
   */
  unwrap(wrapped: Uint8Array, aad: Uint8Array): Promise<Uint8Array> | Uint8Array
}
