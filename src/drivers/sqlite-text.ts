/**
 * Text that SQLite stores may be any bytes: `cast(x'ff80' as text)`. The driver puts U+FFFD in place of what is not UTF-8, so that different
 * texts become the same, and sort elsewhere than where they are stored.
 */

const REPLACEMENT = '\ufffd'

/** Whether a text may have been decoded with a loss. U+FFFD itself may also be stored. */
export function mayBeInexact(text: string): boolean {
  return text.includes(REPLACEMENT)
}

/**
 * Whether a text was decoded without a loss.
 *
 * @param stored `cast(… as blob)` of it
 * @param encoding of the database, as `pragma encoding` says
 */
export function isExactText(text: string, stored: unknown, encoding: string): boolean {
  if (!mayBeInexact(text) || !(stored instanceof Uint8Array)) return true
  if (encoding === 'UTF-8') return Buffer.compare(Buffer.from(text), stored) === 0
  const units = Buffer.from(text, 'utf16le')
  return Buffer.compare(encoding === 'UTF-16be' ? units.swap16() : units, stored) === 0
}
