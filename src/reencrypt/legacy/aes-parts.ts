/** Reads the form that applications most often make themselves: the parts of an AES ciphertext with a separator between. */
import { invalidArgument, quoted } from '../../errors.js'
import { decodeBase64 } from '../../format/encoding.js'
import { assertBytes, kindOf, ownOptions } from '../../validate.js'
import { AES_BLOCK_BYTES, AES_GCM_TAG_BYTES, AES_KEY_BYTES, type AesCipher, decryptAes } from './ciphers.js'
import { isHex, type LegacyReader, legacyFailure, legacyText } from './reader.js'
import { assertCheck, type CheckOption, unauthenticatedText } from './unauthenticated.js'

type AesPart = 'iv' | 'tag' | 'ciphertext'

/** The options of {@link aesPartsReader}. */
export interface AesPartsReaderOptions extends CheckOption {
  /** 32 bytes, such as `Buffer.from(process.env.KEY, 'hex')`: derive them as the application does. */
  readonly key: Uint8Array
  /** `'aes-256-gcm'`, which authenticates, `'aes-256-cbc'` or `'aes-256-ctr'`, which do not. */
  readonly cipher: AesCipher
  /** The parts in their order. Default `['iv', 'tag', 'ciphertext']` with GCM, `['iv', 'ciphertext']` with the others. */
  readonly parts?: readonly AesPart[]
  /** How each part is written. Base64 is read in both alphabets, padded or not. */
  readonly encoding: 'hex' | 'base64'
  /** What stands before the first part, such as `'v2:'`. Default none. */
  readonly prefix?: string
  /** What stands between two parts. Default `':'`. */
  readonly separator?: string
  /** In reports. Default `'aes-parts'`; two readers of one sweep need different ones. */
  readonly name?: string
}

/**
 * Reads values such as `<iv>:<tag>:<ciphertext>` of AES-256, in hexadecimal or base64, that an application encrypted itself. A value is
 * claimed if it has the prefix, as many parts as there should be, and an IV of 16 bytes (with GCM 12 or 16).
 *
 * AES-256-GCM authenticates: a wrong key or a changed value is an error. AES-256-CBC and AES-256-CTR do NOT. With CBC a wrong key is found
 * by the padding, and by what comes out being no text; both miss about one in a hundred million. With CTR only the latter can tell:
 * `check` is needed for texts of less than 16 bytes, and is the better way for all. A value that was changed on purpose may come out
 * changed with both.
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * const key = Buffer.from(process.env.ENCRYPTION_KEY, 'hex')
 * aesPartsReader({ key, cipher: 'aes-256-gcm', encoding: 'base64' })                     // <iv>:<tag>:<ciphertext>
 * aesPartsReader({ key, cipher: 'aes-256-ctr', encoding: 'hex', prefix: 'v3:', check })  // v3:<iv>:<ciphertext>
 */
export function aesPartsReader(options: AesPartsReaderOptions): LegacyReader {
  const { key, cipher, encoding, check, name, prefix, separator, parts } = checkedOptions(options)
  const decode = encoding === 'hex' ? decodeHex : decodeBase64
  const ivBytes = cipher === 'aes-256-gcm' ? [12, AES_BLOCK_BYTES] : [AES_BLOCK_BYTES]
  const partsOf = (value: string) => {
    const texts = value.startsWith(prefix) ? value.slice(prefix.length).split(separator) : []
    if (texts.length !== parts.length) return null
    const decoded = parts.map((part, index) => [part, decode(texts[index] as string)] as const)
    const { iv, ...others } = Object.fromEntries(decoded) as Partial<Record<AesPart, Buffer | null>>
    return iv && ivBytes.includes(iv.length) ? { iv, ...others } : null
  }
  return {
    name,
    test: (value) => partsOf(value) !== null,
    decrypt(value) {
      const { iv, ciphertext, tag } = partsOf(value) ?? {}
      const isTag = cipher === 'aes-256-gcm' ? tag?.length === AES_GCM_TAG_BYTES : true
      if (!iv || !ciphertext || !isTag) throw legacyFailure(name, 'it was cut or changed')
      const plaintext = decryptAes(cipher, key, { iv, ciphertext, ...(tag ? { tag } : {}) })
      return cipher === 'aes-256-gcm'
        ? legacyText(name, plaintext)
        : unauthenticatedText(name, plaintext, check, cipher === 'aes-256-cbc')
    },
  }
}

const CIPHERS: readonly unknown[] = ['aes-256-gcm', 'aes-256-cbc', 'aes-256-ctr'] satisfies AesCipher[]
const ENCODINGS: readonly unknown[] = ['hex', 'base64']

/** @throws ERR_INVALID_ARGUMENT */
function checkedOptions(options: AesPartsReaderOptions) {
  const { key, cipher, encoding, check, ...given } = ownOptions(options)
  const { name = 'aes-parts', prefix = '', separator = ':' } = given
  const needed: readonly AesPart[] =
    cipher === 'aes-256-gcm' ? ['iv', 'tag', 'ciphertext'] : ['iv', 'ciphertext']
  const { parts = needed } = given
  assertBytes('key', key, AES_KEY_BYTES)
  assertCheck(check)
  if (!CIPHERS.includes(cipher)) throw invalidArgument(`cipher must be one of ${CIPHERS.join(', ')}`)
  if (!ENCODINGS.includes(encoding)) throw invalidArgument("encoding must be 'hex' or 'base64'")
  for (const [option, text] of Object.entries({ name, prefix, separator })) {
    if (typeof text !== 'string') throw invalidArgument(`${option} must be a string, got ${kindOf(text)}`)
  }
  // A separator of the alphabet would cut a part in two.
  if (
    separator === '' ||
    /[0-9A-Za-z+/=]/.test(separator) ||
    (encoding === 'base64' && /[-_]/.test(separator))
  )
    throw invalidArgument(`separator ${quoted(separator)} cannot stand between two parts`)
  if (!Array.isArray(parts) || [...parts].sort().join() !== [...needed].sort().join())
    throw invalidArgument(`parts must be ${needed.join(', ')}, each once and in any order, with ${cipher}`)
  return { key, cipher, encoding, check, name, prefix, separator, parts }
}

/** @returns null unless it is whole bytes */
function decodeHex(text: string): Buffer | null {
  return isHex(text) ? Buffer.from(text, 'hex') : null
}
