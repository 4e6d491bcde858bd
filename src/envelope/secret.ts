/** A decrypted value that does not print. */
import { inspect } from 'node:util'

const SHOWN = '[secret]'

/**
 * Holds a plaintext that no log, JSON, template or `util.inspect` shows: each of them gives `[secret]`.
 *
 * @example
 * const apiKey = await envelope.decryptSecret('alice', token)
 * console.log(`calling with ${apiKey}`)                 // calling with [secret]
 * await fetch(url, { headers: { authorization: `Bearer ${apiKey.reveal()}` } })
 */
export class Secret {
  readonly #plaintext: string

  constructor(plaintext: string) {
    this.#plaintext = plaintext
  }

  /** The plaintext itself. */
  reveal(): string {
    return this.#plaintext
  }

  toString(): string {
    return SHOWN
  }

  toJSON(): string {
    return SHOWN
  }

  [Symbol.toPrimitive](): string {
    return SHOWN
  }

  [inspect.custom](): string {
    return SHOWN
  }
}
