/** What the adapters of auth libraries have in common: their options, and what these may be. */
import type { EnvelopeCrypto } from '../envelope/envelope-crypto.js'
import { invalidArgument } from '../errors.js'
import type { EventOptions } from '../events.js'
import type { OnUnreadable, StoredPlaintext } from './field-crypto.js'

/** Whether deleted users are shredded; `'forget'`: and their rows of the key store removed, so that their ids may be used anew. */
export type ShredOnDelete = boolean | 'forget'

export interface AdapterOptions extends EventOptions {
  readonly envelope: EnvelopeCrypto
  /**
   * What is done with a stored value that is no token. `'pass-through'` gives it to the library as it is, so that an application which has
   * values can begin at once. It gives up integrity: anyone who can write to the database can put a plaintext in a token's place. Once the
   * sweep has reported `left: 0`, say `'reject'`. Tokens are written in either case. Default `'pass-through'`.
   */
  readonly plaintext?: StoredPlaintext | undefined
  /**
   * What the library is given in place of a value that cannot be decrypted, because it is damaged or its user was shredded. By default the
   * call fails, with an error that names the field, and the row and the user where they are known. `'null'` lets a user with a damaged token sign
   * in, which overwrites it. An outage is always an error.
   */
  readonly onUnreadable?: OnUnreadable | undefined
  /**
   * Whether the keys of a user are shredded once the library has deleted the user. `'forget'` also removes the user's rows from the key
   * store: for databases that give the id of a deleted user to a new one. Default true.
   */
  readonly shredOnDelete?: ShredOnDelete | undefined
}

/** @throws ERR_INVALID_ARGUMENT */
export function assertShredOnDelete(shredOnDelete: unknown): asserts shredOnDelete is ShredOnDelete {
  if (shredOnDelete !== 'forget' && typeof shredOnDelete !== 'boolean')
    throw invalidArgument("shredOnDelete must be true, false or 'forget'")
}
