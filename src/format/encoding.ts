/** Bytes ↔ text: base64 readers that skip nothing, fatal UTF-8, pre-authentication encoding. */
import { isAscii, isUtf8 } from 'node:buffer'

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
  if (BEYOND_LATIN1.test(text)) return null
  const bytes = Buffer.from(text, 'base64url')
  // Node skips what is not of the alphabet. Each character skipped makes the result shorter, so the length tells,
  // at no cost; a pattern over the whole text would triple the time of decoding.
  return bytes.length === Math.floor((end * 3) / 4) ? bytes : null
}

/** At no cost for a string that V8 keeps as Latin-1: it knows beforehand that none of these can be in it. */
const BEYOND_LATIN1 = /[\u0100-\uffff]/

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

/** RFC 4648 §5: each character stands for its index. */
export const BASE64URL = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'

/** Above this, bytes are not copied to be encoded. Below it, one call for all is faster. */
const COPIED_BYTES = 4096

/**
 * Base64url (RFC 4648 §5), unpadded, of pieces as if they were one.
 *
 * @param long at which of them a long one may stand
 */
export function encodeBase64Url(pieces: readonly Buffer[], long: number): string {
  const piece = pieces[long] as Buffer
  if (piece.length < COPIED_BYTES) return joined(pieces).toString('base64url')
  // Three bytes are four characters: what is too much, or too little, is left to the neighbours.
  const before = pieces.slice(0, long)
  const start = (3 - (byteLength(before) % 3)) % 3
  const end = piece.length - ((piece.length - start) % 3)
  const head = joined([...before, piece.subarray(0, start)])
  const tail = joined([piece.subarray(end), ...pieces.slice(long + 1)])
  return head.toString('base64url') + piece.toString('base64url', start, end) + tail.toString('base64url')
}

/** Without the checks of Buffer.concat: tokens are many and short. */
function joined(pieces: readonly Buffer[]): Buffer {
  const all = Buffer.allocUnsafe(byteLength(pieces))
  let at = 0
  for (const piece of pieces) {
    all.set(piece, at)
    at += piece.length
  }
  return all
}

function byteLength(pieces: readonly Buffer[]): number {
  let bytes = 0
  for (const piece of pieces) bytes += piece.length
  return bytes
}

/** {@link encodeBase64Url} with padding: the reference's tokens. */
export function encodeBase64UrlPadded(pieces: readonly Buffer[], long: number): string {
  const text = encodeBase64Url(pieces, long)
  const missing = -text.length & 3
  return missing === 0 ? text : text + '='.repeat(missing)
}

/** Keeps a byte order mark. @returns null if the bytes are not UTF-8 */
export function decodeUtf8(bytes: Buffer): string | null {
  // ASCII, as most secrets are, Node 20 reads up to seven times as fast.
  if (isAscii(bytes)) return bytes.toString('latin1')
  return isUtf8(bytes) ? bytes.toString('utf8') : null
}

/**
 * PASETO's pre-authentication encoding: LE64 count of pieces, then LE64 length and bytes of each. Injective, so that no
 * two lists of pieces share an encoding (paseto.io, Common.md, "PAE Definition").
 *
 * @returns bytes that must not be kept: such a slice keeps the whole pool of Buffer.allocUnsafe in memory
 */
export function preAuthEncode(pieces: readonly (string | Uint8Array)[]): Buffer {
  const out = Buffer.allocUnsafe(LENGTH_BYTES + encodedBytes(pieces))
  writeLength(out, pieces.length, 0)
  writePieces(out, LENGTH_BYTES, pieces)
  return out
}

/**
 * {@link preAuthEncode} into bytes that there are already.
 *
 * @returns where the encoding ends; null if it may not fit
 */
export function preAuthWrite(
  out: Buffer,
  at: number,
  pieces: readonly (string | Uint8Array)[],
): number | null {
  let room = out.length - at - LENGTH_BYTES
  // A character is three bytes of UTF-8 at most: to count them takes as long as to write them.
  for (const piece of pieces) room -= LENGTH_BYTES + (typeof piece === 'string' ? 3 : 1) * piece.length
  if (room < 0) return null
  writeLength(out, pieces.length, at)
  return writePieces(out, at + LENGTH_BYTES, pieces)
}

/**
 * Extends an encoding by further pieces. Only the count in front changes.
 *
 * @returns bytes that must not be kept, as of {@link preAuthEncode}
 */
export function preAuthExtend(encoded: Buffer, pieces: readonly (string | Uint8Array)[]): Buffer {
  const out = Buffer.allocUnsafe(encoded.length + encodedBytes(pieces))
  out.set(encoded, 0)
  writeLength(out, encoded.readUInt32LE(0) + pieces.length, 0)
  writePieces(out, encoded.length, pieces)
  return out
}

const LENGTH_BYTES = 8

function encodedBytes(pieces: readonly (string | Uint8Array)[]): number {
  let bytes = 0
  for (const piece of pieces) bytes += LENGTH_BYTES + Buffer.byteLength(piece)
  return bytes
}

/** @returns where they end */
function writePieces(out: Buffer, start: number, pieces: readonly (string | Uint8Array)[]): number {
  let at = start
  for (const piece of pieces) {
    const bytesAt = at + LENGTH_BYTES
    if (typeof piece !== 'string') out.set(piece, bytesAt)
    const length = typeof piece === 'string' ? writeText(out, piece, bytesAt) : piece.length
    writeLength(out, length, at)
    at = bytesAt + length
  }
  return at
}

/** Up to this, a loop in JavaScript writes ASCII faster than a call of Buffer does. */
const LOOPED_CHARACTERS = 64

/** UTF-8. @returns how many bytes */
function writeText(out: Buffer, text: string, at: number): number {
  if (text.length > LOOPED_CHARACTERS) return out.write(text, at, 'utf8')
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code > 0x7f) return out.write(text, at, 'utf8')
    out[at + i] = code
  }
  return text.length
}

/** LE64 of a number below 2³²: nothing that fits in memory is longer. */
function writeLength(out: Buffer, length: number, at: number): void {
  out[at] = length
  out[at + 1] = length >>> 8
  out[at + 2] = length >>> 16
  out[at + 3] = length >>> 24
  for (let i = 4; i < LENGTH_BYTES; i++) out[at + i] = 0
}
