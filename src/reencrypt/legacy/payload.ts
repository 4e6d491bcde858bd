/** Reads what Payload encrypted: `payload.encrypt`, as of API keys. */
import { sha256 } from '../../format/aead.js'
import { ownOptions } from '../../validate.js'
import { AES_BLOCK_BYTES, decryptAes } from './ciphers.js'
import { assertSecret, isHex, type LegacyReader } from './reader.js'
import { assertCheck, type CheckOption, unauthenticatedText } from './unauthenticated.js'

/** The options of {@link payloadReader}. */
export interface PayloadReaderOptions extends CheckOption {
  /** `secret` of Payload's config, or PAYLOAD_SECRET. */
  readonly secret: string
}

const NAME = 'payload'
const IV_DIGITS = 2 * AES_BLOCK_BYTES
/** Payload's key: so many hexadecimal digits of SHA-256 of the secret, themselves as bytes. */
const KEY_DIGITS = 32

/**
 * Reads values of Payload's `payload.encrypt`, such as API keys of users. Any text of more than 32 hexadecimal digits looks like one.
 *
 * The format is AES-256-CTR, which does NOT authenticate: with a wrong secret, after a change, and for a plaintext in hexadecimal, other
 * bytes come out and no error. They are refused unless they are UTF-8 without control characters, of 16 bytes or more, which one in a
 * million of random bytes is. Better, give `check`: it decides alone what may come out, and is needed for shorter texts.
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * const isUuid = (text: string) => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(text) // as Payload's API keys are
 * await reencrypt({ envelope, source, legacy: [payloadReader({ secret: process.env.PAYLOAD_SECRET, check: isUuid })] })
 */
export function payloadReader(options: PayloadReaderOptions): LegacyReader {
  const { secret, check } = ownOptions(options)
  assertSecret('secret', secret)
  assertCheck(check)
  const key = Buffer.from(sha256([secret]).toString('hex').slice(0, KEY_DIGITS))
  return {
    name: NAME,
    // Payload encrypts no empty text. Text of 32 digits is no value of its, but often a plaintext, such as a UUID without its dashes.
    test: (value) => value.length > IV_DIGITS && isHex(value),
    decrypt(value) {
      const bytes = Buffer.from(value, 'hex')
      const sealed = { iv: bytes.subarray(0, AES_BLOCK_BYTES), ciphertext: bytes.subarray(AES_BLOCK_BYTES) }
      return unauthenticatedText(NAME, decryptAes('aes-256-ctr', key, sealed), check, false)
    },
  }
}
