/**
 * The log: one line for each thing that happened, on standard output. No line has a body, a query string, a cookie or a token.
 *
 * Messages of foreign errors are left out too: Drizzle's have the parameters of the query in them, such as the token of a session.
 */

export function log(message: string, details: Readonly<Record<string, string | number>> = {}): void {
  const parts = Object.entries(details).map(([name, value]) => `${name}=${JSON.stringify(value)}`)
  console.log([new Date().toISOString(), message, ...parts].join(' '))
}

/** What may be told of any error: its name, its code, and where in the code it was thrown. The library's own messages hold no secret. */
export function logError(message: string, error: unknown): void {
  const { name, code, cause } = describe(error)
  const own =
    code.startsWith('ERR_') && error instanceof Error && name === 'KeystoreError' ? error.message : ''
  log(message, {
    error: name,
    ...(code && { code }),
    ...(cause && { cause }),
    ...(own && { reason: own }),
    at: frameOf(error),
  })
}

function describe(error: unknown): { name: string; code: string; cause: string } {
  if (!(error instanceof Error)) return { name: typeof error, code: '', cause: '' }
  const { cause } = error
  const inner = cause instanceof Error ? `${cause.name} ${codeOf(cause)}`.trim() : ''
  return {
    name: isKeystoreError(error) ? 'KeystoreError' : error.constructor.name,
    code: codeOf(error),
    cause: inner,
  }
}

/** The codes of the library's errors are stable, and are told by the code and not by instanceof. */
export function isKeystoreError(
  error: unknown,
): error is Error & { readonly code: string; readonly retryable: boolean } {
  return error instanceof Error && 'retryable' in error && codeOf(error).startsWith('ERR_')
}

function codeOf(error: Error): string {
  return 'code' in error && typeof error.code === 'string' ? error.code : ''
}

function frameOf(error: unknown): string {
  const frame =
    error instanceof Error ? error.stack?.split('\n').find((line) => /^\s+at /.test(line)) : undefined
  return frame?.trim() ?? ''
}
