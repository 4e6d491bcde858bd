/** Master keys (KEKs): they wrap data keys and encrypt nothing else. What a key management service has to offer. */

/** Whose key is wrapped. The same facts are in the AAD: nobody has to parse it. */
export interface KeyOwner {
  /** The row's user id. `''` is the shared pool; U+0001 `tenant:` and a tenant id is a tenant's own key. */
  readonly userId: string
  /** The version of the key that is wrapped, not of the master key. */
  readonly version: number
  /** The tenant whose own key is wrapped, else null: users' keys of a tenant are wrapped under the tenant's key, and no service sees them. */
  readonly tenantId: string | null
}

/**
 * A holder of one KEK: this process, or a key management service. Its methods throw; they never return null.
 *
 * A call that fails says why by {@link MasterKeyError} `ERR_MASTER_KEY` with a `reason`. What else it throws, or rejects with, is never
 * shown, since it may hold a key.
 */
export interface MasterKey {
  /** Permanent, not empty, and recorded as `kek_id` in each row it wrapped. */
  readonly id: string
  /**
   * The longest time in milliseconds that one call may take. After it the caller gets ERR_MASTER_KEY, retryable. A call waits at most as long
   * for its turn: 16 calls of a key are under way at once. Default 5000.
   */
  readonly timeLimitMs?: number
  /**
   * @param dataKey 32 bytes, a copy that is wiped after the call
   * @param aad binds the result to its row; unwrap needs the same bytes
   * @param owner whose key it is
   * @returns a new array each time, not empty and without the data key in it
   * @throws MasterKeyError
   */
  wrap(dataKey: Uint8Array, aad: Uint8Array, owner: KeyOwner): Promise<Uint8Array> | Uint8Array
  /**
   * @returns a new array each time: the caller wipes it
   * @throws MasterKeyError `ERR_UNWRAP_FAILED` if key, wrapped bytes or aad are others
   */
  unwrap(wrapped: Uint8Array, aad: Uint8Array, owner: KeyOwner): Promise<Uint8Array> | Uint8Array
}
