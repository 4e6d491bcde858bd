/** What is written, what is read, and what counts as a plaintext. */
import { invalidArgument } from '../errors.js'
import type { Format } from '../format/formats.js'
import { isEncrypted, isToken } from '../format/token.js'
import { kindOf } from '../validate.js'

/** What `decrypt` does with a value that is not a token: throw, or return it as it is. */
export type PlaintextPolicy = 'reject' | 'pass-through'

export interface EncryptOptions {
  /** Encrypt a plaintext that is itself a whole token. Default false: nearly always it was encrypted already. */
  readonly allowToken?: boolean
}

/** @throws ERR_INVALID_ARGUMENT if the plaintext is a whole token. A text that merely begins like a token is allowed */
export function refuseToken(plaintext: string, options: EncryptOptions): void {
  if (typeof options !== 'object' || options === null)
    throw invalidArgument(`options must be an object, got ${kindOf(options)}`)
  const allowToken = Object.hasOwn(options, 'allowToken') && options.allowToken
  if (!allowToken && isToken(plaintext)) {
    throw invalidArgument('plaintext is already a token: pass { allowToken: true } to encrypt it once more')
  }
}

/** The token policies of one EnvelopeCrypto. */
export class TokenPolicy {
  readonly format: Format
  readonly acceptTokens: readonly Format[]
  readonly #passThrough: boolean

  constructor(format: Format, acceptTokens: readonly Format[], plaintext: PlaintextPolicy) {
    this.format = format
    this.acceptTokens = acceptTokens
    this.#passThrough = plaintext === 'pass-through'
  }

  /** Whether `decrypt` returns this value as it is. A token that was cut or changed does not count as plaintext. */
  passesThrough(value: unknown): boolean {
    return this.#passThrough && typeof value === 'string' && !isEncrypted(value)
  }
}
