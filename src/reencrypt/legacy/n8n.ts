/** Reads what n8n, CryptoJS and `openssl enc` encrypted under a passphrase: "Salted__" in base64. */
import { decodeBase64, decodeUtf8 } from '../../format/encoding.js'
import { ownOptions } from '../../validate.js'
import { AES_BLOCK_BYTES, decryptAes, evpBytesToKey } from './ciphers.js'
import { assertSecret, type LegacyReader, legacyFailure } from './reader.js'
import { assertCheck, type CheckOption, unauthenticatedText } from './unauthenticated.js'

/** The options of {@link n8nReader}. */
export interface N8nReaderOptions extends CheckOption {
  /** `encryptionKey` of n8n's config, or N8N_ENCRYPTION_KEY; the passphrase that CryptoJS or openssl was given. */
  readonly encryptionKey: string
}

const NAME = 'n8n'
/** The base64 of "Salted__" and of any salt after it. */
export const OPENSSL_PREFIX = /^U2FsdGVkX1[89+/]/
const SALT_AT = 8
const SALT_BYTES = 8

/**
 * Reads values of n8n's `Cipher.encrypt`, which are those of CryptoJS's `AES.encrypt(text, passphrase)` and of
 * `openssl enc -aes-256-cbc -md md5 -base64 -A`. Not those that n8n encrypts under data keys of its own (AES-256-GCM).
 *
 * The format is AES-256-CBC, which does NOT authenticate. A wrong key is found by the padding, and by what comes out being no text: both
 * miss about one in a hundred million. A value that was changed on purpose may come out changed. `check` decides alone what may come
 * out, such as JSON.
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * await reencrypt({ envelope, source, legacy: [n8nReader({ encryptionKey: process.env.N8N_ENCRYPTION_KEY })] })
 */
export function n8nReader(options: N8nReaderOptions): LegacyReader {
  const { encryptionKey, check } = ownOptions(options)
  assertSecret('encryptionKey', encryptionKey)
  assertCheck(check)
  return {
    name: NAME,
    // A damaged one is claimed too: no plaintext begins so.
    test: (value) => OPENSSL_PREFIX.test(value),
    decrypt(value) {
      const bytes = decodeBase64(value)
      const ciphertext = bytes?.subarray(SALT_AT + SALT_BYTES)
      if (!bytes || !ciphertext?.length || ciphertext.length % AES_BLOCK_BYTES !== 0)
        throw legacyFailure(NAME, 'it was cut or changed')
      const salt = bytes.subarray(SALT_AT, SALT_AT + SALT_BYTES)
      // n8n takes the key's characters for bytes, CryptoJS and openssl their UTF-8. Both are the same for ASCII.
      const attempts = (['latin1', 'utf8'] as const).map((encoding) => {
        const { key, iv } = evpBytesToKey(Buffer.from(encryptionKey, encoding), salt)
        return decryptAes('aes-256-cbc', key, { iv, ciphertext })
      })
      const readable = attempts.find((bytes) => bytes !== null && decodeUtf8(bytes) !== null)
      return unauthenticatedText(NAME, readable ?? null, check, true)
    },
  }
}
