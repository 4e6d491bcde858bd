/**
 * Tokens inside of other texts, and tokens that were changed so much that they are not even damaged ones to `isDamagedToken`. Only the sweep
 * asks: it would bury them under a good token. Reading plaintext is not so strict, since texts may quote tokens.
 */

/** The colon, also as URLs and HTML have it. */
const COLON = '(?::|%3A|&#58;)'
/** A key version below 256 begins with three zero bytes: four times `A`, one of which may have been changed. */
const VERSION = '(?:AAA[\\w-]|AA[^]A|A[^]AA|[^]AAA)'
/** Base64, also as URLs have it, and what stands for characters that were lost. */
const BASE64 = '(?:[\\w+/=-]|%2B|%2F|%3D|[^\\0-\\x7f])'
const TOKEN = new RegExp(`[vV]3${COLON}${VERSION}[\\w-]|[vV]2${COLON}${BASE64}{38}`)

/** Whether there is in a text what can only be a token, whole or not. */
export function holdsToken(text: string): boolean {
  return TOKEN.test(text)
}
