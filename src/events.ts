/** What the library tells its host while it goes on: ids and counts, never a key or a plaintext. */

export type KeystoreEvent =
  /** A row's wrapped key does not open under the master key that it names. Its user's tokens cannot be decrypted. */
  | {
      readonly type: 'damagedKey'
      readonly userId: string
      readonly version: number
      readonly kekId: string | null
    }
  /** `open` went on, as `allowUnknownMasterKeys` says, though rows need master keys that were not given. */
  | { readonly type: 'unknownMasterKey'; readonly kekIds: readonly (string | null)[] }
  /** `decrypt` returns values that are no tokens as they are: integrity is given up. */
  | { readonly type: 'plaintextPassThrough' }

export type EmitEvent = (event: KeystoreEvent) => void
