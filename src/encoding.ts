/** Bytes ↔ text: base64 readers that skip nothing, fatal UTF-8, pre-authentication encoding. */
import { isUtf8 } from 'node:buffer'

/**
 * Base64 or base64url (RFC 4648 §4, §5; mixed, as Python's `urlsafe_b64decode` takes them), padded or not.
 *
 * @returns the bytes, or null if `text` holds anything else, white space included
 */
export function decodeBase64(text: string): Buffer | null {
  let end = text.length
  if (end > 0 && text.charCodeAt(end - 1) === 0x3d) {
    // Padding is all there or not at all (RFC 4648 §3.2).
    if (end % 4 !== 0) return null
    end -= text.charCodeAt(end - 2) === 0x3d ? 2 : 1
  }
  if (end % 4 === 1) return null
  // Node reads only the low byte of a character, so that U+0141 would pass for "A".
  if (Buffer.byteLength(text) !== text.length) return null
  const bytes = Buffer.from(text, 'base64url')
  // Node skips what is not of the alphabet. Each character skipped makes the result shorter, so the length tells,
  // at no cost; a pattern over the whole text would triple the time of decoding.
  return bytes.length === Math.floor((end * 3) / 4) ? bytes : null
}

/**
 * Base64url (RFC 4648 §5), strictly: no padding, no other alphabet, and the bits that a last character has to spare are zero
 * (§3.5), so that a byte string has one text only.
 *
 * @returns the bytes, or null
 */
export function decodeBase64UrlStrict(text: string): Buffer | null {
  if (text.includes('+') || text.includes('/') || text.endsWith('=')) return null
  const bytes = decodeBase64(text)
  if (bytes === null) return null
  const tail = text.length % 4
  // Two characters carry 12 bits for 8, three carry 18 for 16.
  const spare = tail === 2 ? 0x0f : tail === 3 ? 0x03 : 0
  return spare === 0 || (BASE64URL.indexOf(text.charAt(text.length - 1)) & spare) === 0 ? bytes : null
}

const BASE64URL = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'

/** Padded base64url (RFC 4648 §5): the reference's tokens. */
export function encodeBase64UrlPadded(bytes: Buffer): string {
  const text = bytes.toString('base64url')
  const missing = -text.length & 3
  return missing === 0 ? text : text + '='.repeat(missing)
}

/** Keeps a byte order mark. @returns null if the bytes are not UTF-8 */
export function decodeUtf8(bytes: Buffer): string | null {
  return isUtf8(bytes) ? bytes.toString('utf8') : null
}

/**
 * PASETO's pre-authentication encoding: LE64 count of pieces, then LE64 length and bytes of each. Injective, so that no
 * two lists of pieces share an encoding (paseto.io, Common.md, "PAE Definition").
 */
export function preAuthEncode(pieces: readonly (string | Uint8Array)[]): Buffer {
  const parts = pieces.map((piece) => (typeof piece === 'string' ? Buffer.from(piece) : piece))
  const out = Buffer.alloc(parts.reduce((size, part) => size + 8 + part.length, 8))
  let at = out.writeUInt32LE(parts.length, 0) + 4
  for (const part of parts) {
    at = out.writeUInt32LE(part.length, at) + 4
    out.set(part, at)
    at += part.length
  }
  return out
}
