/** Which error of the network is behind a failure. */

/** Errors of Node.js, of its DNS, and of fetch (undici) that mean that no answer arrived. */
const NETWORK_CODES: ReadonlySet<string> = new Set([
  'EAI_AGAIN',
  'EAI_FAIL',
  'ECONNABORTED',
  'ECONNREFUSED',
  'ECONNRESET',
  'EHOSTDOWN',
  'EHOSTUNREACH',
  'ENETDOWN',
  'ENETUNREACH',
  'ENOTFOUND',
  'EPIPE',
  'ETIMEDOUT',
  'UND_ERR_BODY_TIMEOUT',
  'UND_ERR_CONNECT_TIMEOUT',
  'UND_ERR_HEADERS_TIMEOUT',
  'UND_ERR_SOCKET',
])
const NETWORK_NAMES: ReadonlySet<string> = new Set(['AbortError', 'TimeoutError'])
/** fetch's error has the socket's as cause, and an SDK may wrap both. */
const DEEPEST_CAUSE = 5

/** @returns one of the codes and names above, so never anything secret; null if the error is none of the network */
export function networkCodeOf(thrown: unknown): string | null {
  try {
    let error = thrown
    for (let depth = 0; depth < DEEPEST_CAUSE && error instanceof Error; depth += 1) {
      if ('code' in error && typeof error.code === 'string' && NETWORK_CODES.has(error.code))
        return error.code
      if (NETWORK_NAMES.has(error.name)) return error.name
      error = error.cause
    }
  } catch {
    // A getter of the error threw.
  }
  return null
}
