/** Shows bytes that should have been text. */

const SHOWN_BYTES = 32

/** Bytes as SQL writes them, `x'ff80'`, cut after 32. */
export function bytesLiteral(bytes: unknown): string {
  if (!(bytes instanceof Uint8Array)) return "x''"
  const shown = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex', 0, SHOWN_BYTES)
  return `x'${shown}${bytes.length > SHOWN_BYTES ? '…' : ''}'`
}
