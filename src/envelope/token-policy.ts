/** What is written, what is read, and what counts as a plaintext. */
import { invalidArgument, type KeystoreError } from '../errors.js'
import type { Format } from '../format/formats.js'
import {
  assertAccepted,
  isDamagedToken,
  isEncrypted,
  isToken,
  maxPlaintextBytes,
  type ParsedToken,
  parseToken,
  versionAtStart,
} from '../format/token.js'
import { assertBytes, assertPlaintext, kindOf } from '../validate.js'

/** What `decrypt` does with a value that is not a token: throw, or return it as it is. */
export type PlaintextPolicy = 'reject' | 'pass-through'

/** The last argument of `encrypt`. */
export interface EncryptOptions {
  /** Encrypt a plaintext that is itself a whole token. Default false: nearly always it was encrypted already. */
  readonly allowToken?: boolean
}

/** @throws ERR_INVALID_ARGUMENT if the plaintext is a whole token. A text that merely begins like a token is allowed */
export function refuseToken(plaintext: string, options: EncryptOptions): void {
  if (typeof options !== 'object' || options === null)
    throw invalidArgument(`options must be an object, got ${kindOf(options)}`)
  // Most texts begin like none, and need no more looking at.
  if (!isEncrypted(plaintext) || (Object.hasOwn(options, 'allowToken') && options.allowToken)) return
  if (isToken(plaintext))
    throw invalidArgument('plaintext is already a token: pass { allowToken: true } to encrypt it once more')
}

/** The token policies of one EnvelopeCrypto. */
export class TokenPolicy {
  readonly format: Format
  readonly maxTokenBytes: number
  readonly #acceptTokens: readonly Format[]
  readonly #acceptsV3: boolean
  readonly #passThrough: boolean
  readonly #maxPlaintextBytes: number

  /** @param maxTokenBytes bounds the tokens read and written */
  constructor(
    format: Format,
    acceptTokens: readonly Format[],
    plaintext: PlaintextPolicy,
    maxTokenBytes: number,
  ) {
    this.format = format
    this.maxTokenBytes = maxTokenBytes
    this.#acceptTokens = acceptTokens
    this.#acceptsV3 = acceptTokens.includes('v3')
    this.#passThrough = plaintext === 'pass-through'
    this.#maxPlaintextBytes = maxPlaintextBytes(format, maxTokenBytes)
  }

  /** Whether `decrypt` returns this value as it is. A token that was cut or changed does not count as plaintext. */
  passesThrough(value: unknown): boolean {
    if (!this.#passThrough || typeof value !== 'string') return false
    // What is too long to be decoded is left to parse(), which says so.
    return (
      !isEncrypted(value) || (value.length <= this.maxTokenBytes && !isToken(value) && !isDamagedToken(value))
    )
  }

  /** Whether tokens of a format are read. */
  accepts(format: Format): boolean {
    return this.#acceptTokens.includes(format)
  }

  /** {@link parseToken} of a token that this service accepts. */
  parse(token: unknown): ParsedToken {
    return parseToken(token, this.#acceptTokens, this.maxTokenBytes)
  }

  /** {@link versionAtStart} of a token that this service accepts, as far as that shows. 0: {@link parse} it. */
  versionAtStart(token: unknown): number {
    return typeof token === 'string' && token.length <= this.maxTokenBytes && this.#acceptsV3
      ? versionAtStart(token)
      : 0
  }

  /** Of a token that was taken apart already. @throws ERR_FORMAT_NOT_ACCEPTED */
  assertAccepted(token: ParsedToken): void {
    assertAccepted(token, this.#acceptTokens)
  }

  /** @throws ERR_INVALID_ARGUMENT unless it is well-formed text whose token is not longer than `maxTokenBytes` */
  assertPlaintext(plaintext: unknown): asserts plaintext is string {
    if (typeof plaintext === 'string') {
      // A character is 1 to 3 bytes of UTF-8: most texts need no count.
      const { length } = plaintext
      if (length > this.#maxPlaintextBytes) throw this.#tooLong(`at least ${length}`)
      if (length * 3 > this.#maxPlaintextBytes) this.#assertLength(Buffer.byteLength(plaintext))
    }
    assertPlaintext(plaintext)
  }

  /** {@link assertPlaintext} of bytes. */
  assertPlaintextBytes(plaintext: unknown): asserts plaintext is Uint8Array {
    assertBytes('plaintext', plaintext)
    this.#assertLength(plaintext.length)
  }

  #assertLength(bytes: number): void {
    if (bytes > this.#maxPlaintextBytes) throw this.#tooLong(String(bytes))
  }

  #tooLong(bytes: string): KeystoreError {
    return invalidArgument(
      `plaintext must be at most ${this.#maxPlaintextBytes} bytes, so that its token is not longer than maxTokenBytes, got ${bytes}`,
    )
  }
}
