/** Reads what @47ng/cloak encrypted, as does prisma-field-encryption. */
import { invalidArgument } from '../../errors.js'
import { gcmOpen, importKey, sha256 } from '../../format/aead.js'
import { decodeBase64 } from '../../format/encoding.js'
import { kindOf, ownOptions } from '../../validate.js'
import { type LegacyReader, legacyFailure, legacyText, WRONG_KEY } from './reader.js'

/** The options of {@link cloakReader}. */
export interface CloakReaderOptions {
  /** The keys, as cloak writes them: `k1.aesgcm256.…`. Each value names the one that it was encrypted under. */
  readonly keys: readonly string[]
}

const NAME = 'cloak'
/** As `cloakKeyRegex` of cloak. */
const KEY = /^k1\.aesgcm256\.([\w-]{43}=?)$/
export const CLOAK_PREFIX = 'v1.aesgcm256.'
/** `v1.aesgcm256.<fingerprint>.<iv>.<ciphertext ‖ tag>`, as encodeEncryptedString of cloak writes it. */
const VALUE = /^v1\.aesgcm256\.([0-9a-f]{8})\.([\w-]{16})\.([\w-]{22,}={0,2})$/i
/** Hexadecimal digits of SHA-256 of a key's text. */
const FINGERPRINT_DIGITS = 8

/**
 * Reads values of @47ng/cloak, `v1.aesgcm256.…`, which prisma-field-encryption stores too. The format is AES-256-GCM, which
 * authenticates: a value that was changed, or whose key is not given, is an error.
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * await reencrypt({ envelope, source, legacy: [cloakReader({ keys: [process.env.CLOAK_KEY] })] })
 */
export function cloakReader(options: CloakReaderOptions): LegacyReader {
  const { keys } = ownOptions(options)
  if (!Array.isArray(keys) || keys.length === 0)
    throw invalidArgument(`keys must be an array of cloak's keys, got ${kindOf(keys)}`)
  const opened = keys.map((text: unknown) => {
    const bytes = decodeBase64(KEY.exec(typeof text === 'string' ? text : '')?.[1] ?? '')
    if (bytes === null || bytes.length === 0)
      throw invalidArgument('keys must be as cloak writes them: k1.aesgcm256.…')
    const fingerprint = sha256([text as string])
      .toString('hex')
      .slice(0, FINGERPRINT_DIGITS)
    return { fingerprint, key: importKey(bytes) }
  })
  return {
    name: NAME,
    // A damaged one is claimed too: no plaintext begins so.
    test: (value) => value.startsWith(CLOAK_PREFIX),
    decrypt(value) {
      const [, fingerprint = '', nonce = '', sealed = ''] = VALUE.exec(value) ?? []
      const [nonceBytes, sealedBytes] = [decodeBase64(nonce), decodeBase64(sealed)]
      if (fingerprint === '' || nonceBytes === null || sealedBytes === null)
        throw legacyFailure(NAME, 'it was cut or changed')
      const candidates = opened.filter((candidate) => candidate.fingerprint === fingerprint.toLowerCase())
      if (candidates.length === 0) throw legacyFailure(NAME, 'the key that it names was not given')
      // Two keys may share the few digits of a fingerprint; the tag tells them apart.
      for (const { key } of candidates) {
        const plaintext = gcmOpen(key, Buffer.concat([nonceBytes, sealedBytes]))
        if (plaintext !== null) return legacyText(NAME, plaintext)
      }
      throw legacyFailure(NAME, WRONG_KEY)
    },
  }
}
