/**
 * Ciphers of other libraries, to read what they wrote: none of them encrypts here. This is the one file beside format/aead.ts that imports
 * node:crypto.
 */
import { createDecipheriv, createHash } from 'node:crypto'

/** GCM authenticates. CBC has only its padding to check, CTR nothing: a wrong key gives other bytes, and no error. */
export type AesCipher = 'aes-256-gcm' | 'aes-256-cbc' | 'aes-256-ctr'

export const AES_BLOCK_BYTES = 16
export const AES_KEY_BYTES = 32
export const AES_GCM_TAG_BYTES = 16

/** What one value was sealed into. */
export interface AesSealed {
  readonly iv: Uint8Array
  readonly ciphertext: Uint8Array
  /** GCM only. */
  readonly tag?: Uint8Array
}

/**
 * NIST SP 800-38A (CBC with PKCS #7 padding, CTR) and 800-38D (GCM).
 *
 * @returns null if the tag or the padding is wrong; no plaintext of GCM leaves before its tag is verified
 */
export function decryptAes(
  cipher: AesCipher,
  key: Uint8Array,
  { iv, ciphertext, tag }: AesSealed,
): Buffer | null {
  let plaintext: Buffer | undefined
  try {
    if (cipher === 'aes-256-gcm') {
      // Without the option Node accepts a tag that was cut short.
      const decipher = createDecipheriv(cipher, key, iv, { authTagLength: AES_GCM_TAG_BYTES })
      decipher.setAuthTag(tag ?? new Uint8Array())
      plaintext = decipher.update(ciphertext)
      decipher.final()
      return plaintext
    }
    const decipher = createDecipheriv(cipher, key, iv)
    plaintext = decipher.update(ciphertext)
    return Buffer.concat([plaintext, decipher.final()])
  } catch {
    plaintext?.fill(0)
    return null
  }
}

/** OpenSSL's EVP_BytesToKey with MD5 and one round, 32 bytes of key and 16 of IV: what `openssl enc -md md5` and CryptoJS derive. */
export function evpBytesToKey(
  password: Uint8Array,
  salt: Uint8Array,
): { readonly key: Buffer; readonly iv: Buffer } {
  const blocks: Buffer[] = []
  for (let count = 0; count < 3; count += 1) {
    const previous = blocks.at(-1) ?? Buffer.alloc(0)
    blocks.push(createHash('md5').update(previous).update(password).update(salt).digest())
  }
  const derived = Buffer.concat(blocks)
  return { key: derived.subarray(0, AES_KEY_BYTES), iv: derived.subarray(AES_KEY_BYTES) }
}
