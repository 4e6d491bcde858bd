/** Recognises values that other libraries encrypted and that no reader was given for: as plaintext they would be encrypted a second time. */
import { decodeBase64 } from '../../format/encoding.js'
import { isJson } from '../../sources/field-cells.js'
import { BETTER_AUTH_ENVELOPE } from './better-auth.js'
import { AES_BLOCK_BYTES, AES_GCM_TAG_BYTES } from './ciphers.js'
import { CLOAK_PREFIX } from './cloak.js'
import { OPENSSL_PREFIX } from './n8n.js'
import { isHex } from './reader.js'

/** What a value looks like, and the reader to give. */
export interface CiphertextForm {
  readonly what: string
  readonly reader: string
}

const FORMS: readonly (CiphertextForm & { test(value: string): boolean })[] = [
  {
    what: '@47ng/cloak or prisma-field-encryption',
    reader: 'cloakReader',
    test: (value) => value.startsWith(CLOAK_PREFIX),
  },
  {
    what: 'n8n, CryptoJS or openssl enc',
    reader: 'n8nReader',
    test: (value) => OPENSSL_PREFIX.test(value),
  },
  {
    what: 'Better Auth',
    reader: 'betterAuthReader',
    // The JWT plugin stores JSON.stringify(ciphertext).
    test: (value) => BETTER_AUTH_ENVELOPE.test(value.replace(/^"(.*)"$/, '$1')),
  },
  { what: 'AES with its IV beside it', reader: 'aesPartsReader', test: isAesParts },
]

/** @returns null for what may well be plaintext, such as hexadecimal digits alone, which many keys are */
export function ciphertextForm(value: string): CiphertextForm | null {
  return FORMS.find(({ test }) => test(value)) ?? null
}

/** `<iv>:<tag>:<ciphertext>`, `<iv>:<ciphertext>:<tag>` or `<iv>:<ciphertext>`, all in hexadecimal or all in base64, also after a version. */
const PARTS = /^(?:v\d+[:.$|])?([\w+/-]+={0,2})([:.$|])([\w+/-]+={0,2})(?:\2([\w+/-]+={0,2}))?$/
const GCM_NONCE_BYTES = 12
/** What JSON in base64 begins with: "{", followed by a quote or a space. */
const JSON_IN_BASE64 = /^ey[A-J]/

function isAesParts(value: string): boolean {
  const [, iv = '', , second = '', third] = PARTS.exec(value) ?? []
  const lengths = byteLengths([iv, second, third ?? ''])
  if (lengths === null || isHeader(iv)) return false
  const [ivBytes = 0, ...others] = lengths
  if (ivBytes !== GCM_NONCE_BYTES && ivBytes !== AES_BLOCK_BYTES) return false
  if (third !== undefined) return others.includes(AES_GCM_TAG_BYTES)
  // Two parts of base64 are often a name and a password: padding tells them apart.
  return (isHex(iv) || iv.endsWith('==')) && (others[0] ?? 0) > 0
}

/** Whether it is the header of a JSON Web Token, which has three parts too: random bytes may begin like one, and are no JSON. */
function isHeader(part: string): boolean {
  return JSON_IN_BASE64.test(part) && isJson(Buffer.from(part, 'base64').toString())
}

/** @returns null unless all parts are whole bytes in one encoding */
function byteLengths(parts: readonly string[]): number[] | null {
  if (parts.every(isHex)) return parts.map((part) => part.length / 2)
  const decoded = parts.map(decodeBase64)
  return decoded.every((bytes) => bytes !== null) ? decoded.map((bytes) => bytes.length) : null
}
